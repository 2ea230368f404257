"""Proofs for ``attest``: what the service says, what S3 computes, what the model refers to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from llama_hub.backends.sagemaker import bodies, images, status
from llama_hub.backends.sagemaker.inventory import Inventory
from llama_hub.deploy.attest import policy_proof
from llama_hub.deploy.backend import SERVED, Proof, Resource
from llama_hub.errors import AccessError
from llama_hub.hub.manifest import Manifest


def proofs(
    inventory: Inventory, endpoint: Resource, manifest: Manifest, ask: Callable[[], bytes]
) -> list[Proof]:
    """``ask``: the service's answer to which manifest it serves."""
    name = endpoint.name
    models = inventory.observe(name).all("model")
    prefix = bodies.weights_prefix(bodies.digest_of(manifest))
    stored = [*_stored(inventory, manifest, prefix), *_references(inventory, models, prefix)]
    unstated = ""
    if models and not any(images.states_manifest(model.body) for model in models):
        unstated = "vLLM does not state which bytes it serves"
    elif _sleeps(inventory, endpoint):
        unstated = "it sleeps, and is not woken for this"
    if unstated:
        good = bool(models) and all(one.ok for one in stored)
        told = f"{unstated}; its model reads the prefix in S3 whose digests are compared below"
        return [Proof(SERVED, good, told), *stored]
    stated = json.loads(ask())
    served = str(stated.get("manifest"))
    moderation = policy_proof(stated.get("moderation"))
    return [Proof("manifest", served == manifest.digest, served), *moderation, *stored]


def _stored(inventory: Inventory, manifest: Manifest, prefix: str) -> Iterator[Proof]:
    try:
        for path, ok, words in inventory.bucket.prove(manifest, prefix):
            yield Proof(f"s3 {path}", ok, words)
    except AccessError as error:
        yield Proof("s3", False, error.message)


def _references(inventory: Inventory, models: tuple[Resource, ...], prefix: str) -> Iterator[Proof]:
    """Whether the models of the deployment read from the proven prefix, uncompressed."""
    wanted = f"s3://{inventory.account.bucket}/{prefix}"
    for model in models:
        source = model.body["PrimaryContainer"]["ModelDataSource"]["S3DataSource"]
        ok = source["S3Uri"] == wanted and source["CompressionType"] == "None"
        yield Proof(f"model {model.name}", ok, str(source["S3Uri"]))


def _sleeps(inventory: Inventory, endpoint: Resource) -> bool:
    """Whether it has scaled to zero."""
    if status.has_model(endpoint):
        return False
    newest = next(iter(inventory.components(endpoint.name)), None)
    copies = (newest.body.get("RuntimeConfig", {}) if newest else {}).get("CurrentCopyCount")
    return copies == 0
