"""The base of an adapter: which models it may be put on.

A base is known by the digest of its manifest, and by those of the folders that it was made from or
that were made of it: a conversion or a quantisation of the same weights is the same base.
"""

from __future__ import annotations

import hashlib

from llama_hub.errors import IntegrityError
from llama_hub.hub.adapters.manifest import AdapterManifest, Base
from llama_hub.hub.manifest import Manifest
from llama_hub.hub.model_id import ModelId
from llama_hub.hub.store import Store

MAX_GENERATIONS = 8  # of folders made of folders that are looked up in the store
_FLOATS = {"bfloat16", "float16", "float32"}


def base_of(model: str, manifest: Manifest, store: Store) -> Base:
    """What an adapter's manifest records of its base."""
    return Base(ModelId(model), manifest.digest, kin(manifest, store), weights_digest(manifest))


def kin(manifest: Manifest, store: Store) -> tuple[str, ...]:
    """Digests of what ``manifest`` was made from, the nearest first, as far as the store knows."""
    known = {stored.manifest.digest: stored.manifest for stored in store.all()}
    found: list[str] = []
    parent = manifest.parent
    while parent is not None and parent not in found and len(found) < MAX_GENERATIONS:
        found.append(parent)
        above = known.get(parent)
        parent = above.parent if above is not None else None
    return tuple(found)


def weights_digest(manifest: Manifest) -> str | None:
    """Of the canonical tensors; ``None`` where the manifest lists none, or quantised ones."""
    if not manifest.tensors or any(entry.dtype not in _FLOATS for entry in manifest.tensors):
        return None
    digest = hashlib.sha256()
    for entry in sorted(manifest.tensors):
        digest.update(f"{entry.name} {entry.dtype} {entry.shape} {entry.sha256}\n".encode())
    return "sha256:" + digest.hexdigest()


def check_base(adapter: AdapterManifest, model: str, manifest: Manifest, store: Store) -> None:
    """``IntegrityError`` unless the adapter was checked against this base or one of its kin."""
    own = {manifest.digest, *kin(manifest, store)}
    weights = weights_digest(manifest)
    if own & {adapter.base.manifest, *adapter.base.kin}:
        return
    if weights is not None and weights == adapter.base.weights:
        return
    raise IntegrityError(
        f"the adapter {adapter.id} is for another base: {adapter.base.model} "
        f"({adapter.base.manifest[:19]}…), not {model} ({manifest.digest[:19]}…)",
        hint=f"use its base, or import it for this one: llama-hub adapter import … --base {model}",
    )
