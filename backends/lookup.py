"""From a spec or a name to its deployer, and from all backends to one list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llama_hub.backends import registry
from llama_hub.deploy import artifact, rollout
from llama_hub.deploy.backend import Backend, Deployed
from llama_hub.deploy.deployer import Artifacts, Deployer, not_found
from llama_hub.deploy.journal import Journal, journals
from llama_hub.deploy.spec import DeploymentSpec, is_name
from llama_hub.errors import LlamaHubError, NotFoundError, UsageError

Location = tuple[str, Mapping[str, Any]]  # a backend's name and its constructor's arguments


def deployer_for(spec: DeploymentSpec, artifacts: Artifacts = artifact.find) -> Deployer:
    """The deployer for the backend and the place that ``spec`` names."""
    location = rollout.location(spec, registry.backend_class(spec.backend).location)
    return _deployer(spec.backend, location, artifacts)


def deployer_at(backend: str, location: Mapping[str, Any]) -> Deployer:
    """The deployer for a place that a plan or a journal has written down."""
    return _deployer(backend, location)


def find(name: str, backend: str | None = None) -> Deployer:
    """The deployer for ``name``: by the journals of this machine, else by asking every backend.

    ``UsageError`` where two backends have one of that name, ``NotFoundError`` where none has.
    """
    if not is_name(name):  # it would be part of paths and of what clouds are asked for
        raise not_found(name[:80], backend or "any backend")
    places = [_place(one) for one in _journals(name, backend)] or _asked(name, backend)
    if not places:
        raise not_found(name, backend or "any backend that is set up here")
    if len(places) > 1:
        raise _ambiguous(name, [place[0] for place in places])
    return _deployer(*places[0])


def _ambiguous(name: str, backends: Sequence[str]) -> UsageError:
    return UsageError(
        f"{name!r} exists in {' and '.join(backends)}", hint=f"add --backend {backends[0]}"
    )


def journal(name: str, backend: str | None = None) -> Journal:
    """The journal that this machine has of ``name``; no backend is asked or even made."""
    mine = _journals(name, backend) if is_name(name) else []
    if not mine:
        raise not_found(name[:80], backend or "the journals of this machine")
    if len(mine) > 1:
        raise _ambiguous(name, [one.backend for one in mine])
    return mine[0]


def every(only: str | None = None) -> tuple[list[Deployed], list[dict[str, str]]]:
    """Every deployment, and the backends that could not be asked, with the reason."""
    found: dict[tuple[str, str, str | None], Deployed] = {}
    errors: list[dict[str, str]] = []
    for name, location in places(only):
        try:
            for one in registry.at(name, location).list():
                found[one.backend, one.name, one.url] = one
        except Exception as error:  # the others are shown all the same
            errors.append({"backend": name, "message": getattr(error, "message", str(error))})
    return list(found.values()), errors


def places(only: str | None = None) -> list[Location]:
    """Where to look: each backend as it is set up here, and where journals say we deployed to."""
    known: list[Location] = [(name, {}) for name, _ in registry.every(only)]
    for journal in journals():
        place = _place(journal)
        if only in (None, journal.backend) and place[1] and place not in known:
            known.append(place)
    return known


def _place(journal: Journal) -> Location:
    return journal.backend, dict(journal.history().location)


def _journals(name: str, backend: str | None) -> list[Journal]:
    """Journals of things that may exist."""
    mine = [one for one in journals() if one.name == name and backend in (None, one.backend)]
    return [one for one in mine if one.history().exists]


def _asked(name: str, only: str | None) -> list[Location]:
    found: list[Location] = []
    for known, backend in registry.every(only):
        if isinstance(backend, Exception):
            if only:
                raise backend
        elif _has(backend, name, strict=only is not None):
            found.append((known, {}))
    return found


def _has(backend: Backend, name: str, *, strict: bool) -> bool:
    try:
        backend.status(name)
    except NotFoundError:
        return False
    except LlamaHubError:
        if strict:
            raise
        return False
    return True


def _deployer(
    name: str, location: Mapping[str, Any], artifacts: Artifacts = artifact.find
) -> Deployer:
    made = registry.at(name, location)
    return Deployer(made, location=location, artifacts=artifacts)
