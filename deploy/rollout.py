"""Small facts of a rollout: which revision came before, and where a spec wants to be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama_hub.deploy.backend import Artifact, Backend, HoldsModels, Observed, RollsBack, Step
from llama_hub.deploy.journal import History
from llama_hub.deploy.spec import DeploymentSpec
from llama_hub.errors import NotFoundError
from llama_hub.hub.manifest import read


@dataclass(frozen=True)
class Revision:
    """A revision that was good once."""

    spec: DeploymentSpec
    generation: str
    manifest: str | None
    receipt: str | None


def location(spec: DeploymentSpec, names: Iterable[str]) -> dict[str, Any]:
    """The constructor arguments among ``names`` that the spec gives."""
    given = dict(spec.options) | ({"region": spec.region} if spec.region else {})
    return {name: given[name] for name in names if given.get(name) is not None}


def earlier(history: History, name: str) -> Revision:
    """The last good revision other than the present one; ``NotFoundError`` if there is none."""
    good = [_revision(begin) for begin in history.good]
    for candidate in reversed(good[:-1]):
        if candidate.generation != good[-1].generation:
            return candidate
    raise NotFoundError(
        f"{name!r} has no earlier revision that this machine knows of",
        hint="deploy the spec that you want to return to",
    )


def check_model(revision: Revision, artifact: Artifact) -> None:
    """``NotFoundError`` unless the model on this machine is still the revision's."""
    if artifact.manifest.digest != revision.manifest:
        raise NotFoundError(
            f"the earlier revision served {revision.manifest}; {revision.spec.model} is now "
            f"{artifact.manifest.digest}",
            hint="download or convert that model again, then roll back",
        )


def held(backend: Backend, begin: Mapping[str, Any]) -> Artifact | None:
    """The model of an earlier run, where the platform keeps it here."""
    folder = None
    if isinstance(backend, HoldsModels) and begin["manifest"]:
        folder = backend.held(begin["spec"]["name"], begin["manifest"])
    return Artifact(folder, read(folder), str(begin["receipt"])) if folder else None


def is_own(backend: Backend) -> bool:
    """Whether the platform keeps the last good revision itself."""
    return isinstance(backend, RollsBack)


def own_steps(backend: Backend, name: str, observed: Observed) -> Sequence[Step] | None:
    """The platform's own way back, if it has one."""
    return backend.plan_rollback(name, observed) if isinstance(backend, RollsBack) else None


def _revision(begin: Mapping[str, Any]) -> Revision:
    return Revision(
        spec=DeploymentSpec(**begin["spec"]),
        generation=begin["generation"],
        manifest=begin["manifest"],
        receipt=begin["receipt"],
    )
