"""The lookup of a deployer by spec or name, and one list of the deployments of all backends."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from llama_hub.backends import registry
from llama_hub.deploy import artifact, place, rollout
from llama_hub.deploy.backend import Backend, Deployed
from llama_hub.deploy.deployer import Artifacts, Deployer, not_found
from llama_hub.deploy.journal import Journal, journals
from llama_hub.deploy.spec import DeploymentSpec, is_name
from llama_hub.errors import ExitCode, LlamaHubError, NotFoundError, UsageError

Location = tuple[str, Mapping[str, Any]]  # a backend's name and its constructor's arguments
NOWHERE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Place:
    """Where to look, and what this machine has deployed there."""

    backend: str
    location: Mapping[str, Any]
    deployments: tuple[str, ...] = ()


def deployer_for(spec: DeploymentSpec, artifacts: Artifacts = artifact.find) -> Deployer:
    """The deployer for the backend and the place that ``spec`` names."""
    location = rollout.location(spec, registry.backend_class(spec.backend).location)
    return _deployer(spec.backend, location, artifacts)


def deployer_at(backend: str, location: Mapping[str, Any]) -> Deployer:
    """The deployer for a place that a plan or a journal has written down."""
    return _deployer(backend, location)


def find(name: str, backend: str | None = None, where: Mapping[str, Any] = NOWHERE) -> Deployer:
    """The deployer for ``name``: by the journals of this machine, else by asking every backend.

    ``where``: arguments of a backend's constructor that the user has given. ``UsageError`` where
    two backends have one of that name, or it was deployed to another place; ``NotFoundError``
    where none has. A backend that could not be asked is no backend that has none.
    """
    if not is_name(name):  # it would be part of paths and of what clouds are asked for
        raise not_found(name[:80], backend or "any backend")
    known = _journals(name, backend)
    places = _matching(name, known, where) if known else _asked(name, backend, where)
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


def _matching(name: str, known: Sequence[Journal], where: Mapping[str, Any]) -> list[Location]:
    """The places of journals that ``where`` does not contradict; ``UsageError`` if none is left."""
    classes = {journal.backend: registry.backend_class(journal.backend) for journal in known}
    chosen = [one for one in known if set(where) <= set(classes[one.backend].location)] or known
    fits: list[Location] = [
        (one.backend, {**one.history().location, **where})
        for one in chosen
        if not place.differing(classes[one.backend], one.history().location, where)
    ]
    if not fits:
        first = chosen[0]
        place.check_same(classes[first.backend], name, first.history().location, where)
    return fits


def every(
    only: str | None = None, where: Mapping[str, Any] = NOWHERE
) -> tuple[list[Deployed], list[dict[str, Any]]]:
    """Every deployment, and what could not be asked: see ``unasked``."""
    deployments: dict[tuple[str, str, str | None], Deployed] = {}
    errors: list[dict[str, Any]] = []
    for spot in places(only, where):
        try:
            for one in registry.at(spot.backend, spot.location).list():
                deployments[one.backend, one.name, one.url] = one
        except Exception as error:  # the others are shown all the same
            errors.append(unasked(spot, error))
    return list(deployments.values()), distinct(errors)


def unasked(spot: Place, error: Exception) -> dict[str, Any]:
    """Why a place could not be asked, and which deployments this machine has written down there."""
    document = {
        "backend": spot.backend,
        "message": getattr(error, "message", str(error)),
        "hint": getattr(error, "hint", ""),
        "code": int(getattr(error, "exit_code", ExitCode.UNREACHABLE)),
    }
    if spot.location:
        document["location"] = dict(spot.location)
    return document | ({"deployments": list(spot.deployments)} if spot.deployments else {})


def distinct(errors: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without a backend's own place where that of a journal failed for the same reason."""
    told = {(one["backend"], one["message"]) for one in errors if "deployments" in one}
    return [
        one
        for one in errors
        if "deployments" in one or (one["backend"], one["message"]) not in told
    ]


def places(only: str | None = None, where: Mapping[str, Any] = NOWHERE) -> list[Place]:
    """Where to look: where journals say we deployed to, and each backend as it is set up here."""
    locations = _journalled(only, where)
    for name, backend in registry.every(only, where):
        here = _here(backend, where)
        if not any(one.backend == name and _same(backend, one.location, here) for one in locations):
            locations.append(Place(name, here))
    return locations


def _journalled(only: str | None, where: Mapping[str, Any]) -> list[Place]:
    """The places of deployments that may exist, as far as this machine knows."""
    named: dict[tuple[str, str], Place] = {}
    for journal in journals():
        history = journal.history()
        if only not in (None, journal.backend) or not history.exists:
            continue
        if _contradicts(journal.backend, history.location, where):
            continue
        key = journal.backend, json.dumps(dict(history.location), sort_keys=True, default=str)
        before = named.get(key, Place(journal.backend, dict(history.location)))
        named[key] = replace(before, deployments=(*before.deployments, journal.name))
    return list(named.values())


def _contradicts(name: str, recorded: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    try:
        backend = registry.backend_class(name)
    except LlamaHubError:  # asking it tells what is wrong
        return False
    return not set(where) <= set(backend.location) or bool(
        place.differing(backend, recorded, where)
    )


def _here(backend: Backend | Exception, where: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where a backend is, resolved; as far as it is named where it cannot be asked."""
    if isinstance(backend, Exception):
        return where
    try:
        return place.resolved(backend, where)
    except Exception:  # told when it is asked for its deployments
        return where


def _same(backend: Backend | Exception, one: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    if isinstance(backend, Exception) or not place.where(backend, one):
        return dict(one) == dict(here)
    return place.where(backend, one) == place.where(backend, here)


def _journals(name: str, backend: str | None) -> list[Journal]:
    """Journals of things that may exist."""
    mine = [one for one in journals() if one.name == name and backend in (None, one.backend)]
    return [one for one in mine if one.history().exists]


def _asked(name: str, only: str | None, where: Mapping[str, Any]) -> list[Location]:
    """The backends that have ``name``; the error of one that could not be asked if none has."""
    locations: list[Location] = []
    failed: list[tuple[str, Exception]] = []
    for known, backend in registry.every(only, where):
        try:
            if isinstance(backend, Exception):
                raise backend
            backend.status(name)
            locations.append((known, where))
        except NotFoundError:
            continue
        except LlamaHubError as error:
            failed.append((known, error))
    if failed and not locations:
        raise _unknown(name, *failed[0])
    if not locations:
        raise not_found(name, only or "any backend that is set up here")
    return locations


def _unknown(name: str, backend: str, error: Exception) -> Exception:
    """The same error, told as what it means for ``name``."""
    if isinstance(error, LlamaHubError):
        error.message = f"whether there is {name!r} is unknown: {backend} could not be asked: " + (
            error.message
        )
        error.args = (error.message,)
    return error


def _deployer(
    name: str, location: Mapping[str, Any], artifacts: Artifacts = artifact.find
) -> Deployer:
    instance = registry.at(name, location)
    return Deployer(instance, location=location, artifacts=artifacts)
