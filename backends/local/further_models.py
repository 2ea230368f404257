"""The further models of a local deployment: ``options.models``, behind the same address."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llama_hub.backends.local import held
from llama_hub.backends.local.documents import Revision
from llama_hub.backends.local.model_memory import MemoryNeed, arrange
from llama_hub.backends.local.options import LocalOptions
from llama_hub.deploy import artifact, client, sizing
from llama_hub.deploy.backend import Artifact, Endpoint, Proof, Target
from llama_hub.deploy.sizing import Need
from llama_hub.deploy.spec import DeploymentSpec
from llama_hub.errors import (
    LlamaHubError,
    NotEnoughError,
    NotFoundError,
    StalePlanError,
    UsageError,
)
from llama_hub.hub import unchanged
from llama_hub.hub.manifest import read
from llama_hub.progress import Progress

ASKED = 5.0  # seconds that a replica has to tell how its models are


@dataclass(frozen=True)
class FurtherModel:
    """A model besides the deployment's own, and what it needs."""

    artifact: Artifact
    need: Need

    @property
    def name(self) -> str:
        """As clients call it."""
        return self.artifact.manifest.model


def find(target: Target, options: LocalOptions) -> Sequence[FurtherModel]:
    """Those of ``options.models``, licensed and ready to be served.

    ``UsageError`` for two of one name, ``NotFoundError`` for one that is not here in that form,
    ``NotEnoughError`` if all of them do not fit the machine (one of them, where they are unloaded).
    """
    models = [_model(target.spec, name) for name in options.models]
    names = [target.artifact.manifest.model, *(model.name for model in models)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(
            f"{twice} is in the deployment twice; requests choose a model by its name",
            hint="llama-hub list",
        )
    if models:
        _check_memory(target, models, unloads=options.idle_unload is not None)
    return models


def _found(spec: DeploymentSpec, name: str) -> Artifact:
    try:
        return artifact.find(dataclasses.replace(spec, model=name))
    except NotFoundError as error:
        way = f" --quantize {spec.quantization}" if spec.quantization else ""
        raise NotFoundError(
            error.message, hint=f"llama-hub download {name}, then llama-hub convert {name}{way}"
        ) from error


def _model(spec: DeploymentSpec, name: str) -> FurtherModel:
    stored = _found(spec, name)
    architecture, dtype = artifact.dimensions(stored)
    own = dataclasses.replace(spec, context=min(spec.context, architecture.context))
    return FurtherModel(stored, sizing.need(architecture, own, dtype))


def _check_memory(target: Target, models: Sequence[FurtherModel], *, unloads: bool) -> None:
    devices = max(1, target.offer.accelerators)
    named = [(target.artifact.manifest.model, target.need)]
    named += [(model.name, model.need) for model in models]
    room = sizing.usable_bytes(target.offer, target.need.utilization) // devices
    try:
        arrange([_need(name, need, devices) for name, need in named], room, unloads=unloads)
    except NotEnoughError as error:
        way = "a smaller context, concurrency or quantization"
        if not unloads:
            way += ", or --set options.idle_unload=10m, which needs room for the largest alone"
        raise NotEnoughError(error.message, hint=way) from error


def _need(name: str, need: Need, devices: int) -> MemoryNeed:
    fit = need.share(devices)
    return MemoryNeed(
        name, fit.weights_bytes, fit.workspace_bytes, fit.least_bytes, fit.total_bytes
    )


def places(service: Path, models: Sequence[FurtherModel]) -> dict[str, str]:
    """Where the deployment holds each of them."""
    return {
        model.name: str(held.place(service, model.artifact.manifest.digest)) for model in models
    }


def hold(spec: DeploymentSpec, wanted: Mapping[str, str], progress: Progress) -> None:
    """Make each of the folders ``wanted`` hold its model.

    ``StalePlanError`` if the store has another one by now.
    """
    for name in LocalOptions(**spec.options).models:
        stored = _found(spec, name)
        folder = Path(wanted[stored.manifest.model])
        if held.place(folder.parent.parent, stored.manifest.digest) != folder:
            raise StalePlanError(f"{name} has changed since the plan was made")
        held.hold(stored, folder, progress)


def is_several(revision: Revision) -> bool:
    """Whether its replicas tell of each model how it is."""
    return bool(revision.models) or "--idle-unload" in revision.argv


def states(endpoint: Endpoint) -> str:
    """How each model is, as a replica tells it."""
    import httpx

    try:
        models = client.get(endpoint, "/health", timeout=ASKED)["models"]
        return ", ".join(f"{name} {model['state']}" for name, model in models.items())
    except (LlamaHubError, httpx.HTTPError, AttributeError, KeyError, TypeError, ValueError):
        return "the service does not tell how its models are"


def proofs(endpoint: Endpoint, folders: Mapping[str, str]) -> Sequence[Proof]:
    """Whether each model that is held, unchanged, is the one that the service states."""
    import httpx

    try:
        answer = client.get(endpoint, "/manifest")
        stated = {str(each["model"]): str(each["manifest"]) for each in answer["models"]}
    except (LlamaHubError, httpx.HTTPError, KeyError, TypeError, ValueError) as error:
        why = getattr(error, "message", "the service does not tell its models")
        return [Proof(f"model {name}", False, why) for name in folders]
    return [_proof(name, Path(folder), stated.get(name, "")) for name, folder in folders.items()]


def _proof(name: str, folder: Path, stated: str) -> Proof:
    try:
        manifest = read(folder)
        unchanged.check(folder, manifest)
    except LlamaHubError as error:
        return Proof(f"model {name}", False, error.message)
    found = stated or "nothing is stated"
    return Proof(f"model {name}", stated == manifest.digest, found)
