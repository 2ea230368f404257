"""Conversion between Meta's shards, Hugging Face folders and GGUF, in every direction.

``convert`` writes aside, next to the destination, and renames when everything is whole: a run
that was killed goes on after its last whole tensor, and nothing unfinished has a final name.
``into_store`` does the same inside the store; ``served`` is the Hugging Face folder of a stored
model, made if need be.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llama_hub.errors import NotFoundError, UsageError
from llama_hub.files import fsync_folder
from llama_hub.hub import manifest
from llama_hub.hub.conversion import run as conversion_run
from llama_hub.hub.conversion.origin import check_destination, origin_of
from llama_hub.hub.conversion.plan import MAX_SHARD_SIZE, Wanted
from llama_hub.hub.conversion.run import Conversion, Task
from llama_hub.hub.manifest import Format
from llama_hub.hub.store import Store, Stored
from llama_hub.licenses.gate import Gate
from llama_hub.progress import NO_PROGRESS, Progress


def convert(
    source: Path,
    destination: Path,
    *,
    to: Format,
    dtype: str | None = None,
    quantize: str | None = None,
    group_size: int | None = None,
    max_shard_size: int = MAX_SHARD_SIZE,
    model_parallel: int | None = None,
    allow_non_finite: bool = False,
    model: str | None = None,
    license: str | None = None,
    chat: bool | None = None,
    context: int | None = None,
    verify: bool = False,
    dry_run: bool = False,
    progress: Progress = NO_PROGRESS,
    gate: Gate | None = None,
    workers: int | None = None,
) -> Conversion:
    """Convert the model in ``source`` into the new folder ``destination``.

    ``dtype``: of the output, by default the source's; for GGUF also a quantised type (``Q8_0`` …).
    ``model``, ``license``, ``chat``, ``context`` (tokens, which Meta's params.json does not tell):
    for a source without manifest. ``verify``: read the output
    again and prove that it holds the source's tensors. ``dry_run``: write nothing. Errors:
    ``LicenseError`` without a receipt, ``UsageError`` if the destination is not empty,
    ``DiskFullError`` before anything is written, ``IntegrityError`` if the source is unsound.
    """
    wanted = Wanted(
        to, dtype, quantize, group_size, max_shard_size, model_parallel, allow_non_finite
    )
    wanted.check()
    check_destination(source, destination)
    origin = origin_of(source, model=model, license=license, chat=chat, context=context)
    task = Task(origin, wanted, verify, progress, gate or Gate(), workers)
    if dry_run:
        return conversion_run.preview(task, destination)
    task.gate.require(origin.license)
    partial = destination.parent / f".{destination.name}.partial"
    with conversion_run.exclusive(partial):
        made = conversion_run.run(task, partial)
        check_destination(source, destination)
        partial.replace(destination)
        fsync_folder(destination.parent)
    return replace(made, path=destination)


def into_store(
    store: Store,
    original: Stored,
    *,
    to: Format,
    max_shard_size: int = MAX_SHARD_SIZE,
    verify: bool = False,
    dry_run: bool = False,
    progress: Progress = NO_PROGRESS,
) -> Conversion:
    """Convert a model of the store, the result being the store's copy in that format.

    Nothing is done if it is there already and was made from this very original.
    """
    wanted = Wanted(to, max_shard_size=max_shard_size)
    wanted.check()
    if original.manifest.format == to:
        raise UsageError(f"{original.manifest.model} is in the format {to} already")
    model = _name_in_store(store, original)
    task = Task(origin_of(original.path), wanted, verify, progress)
    if dry_run:
        return conversion_run.preview(task, store.folder(model, to))
    with store.lock(model, to):
        known = _made_before(store, model, original, to)
        if known is not None and not verify:
            return known
        partial = store.partial_folder(model, to)
        with conversion_run.exclusive(partial):
            made = conversion_run.run(task, partial)
            stored = store.publish(model, to)
    return replace(made, path=stored.path)


def _name_in_store(store: Store, original: Stored) -> str:
    """The catalogue id; a folder outside the store must not take the place of that model."""
    model = original.manifest.model
    if original.path == store.folder(model, original.manifest.format):
        return model
    return f"{model}-{original.manifest.digest.removeprefix('sha256:')[:12]}"


def _made_before(store: Store, model: str, original: Stored, to: Format) -> Conversion | None:
    folder = store.folder(model, to)
    try:
        known = manifest.read(folder)
    except NotFoundError:
        return None
    if known.parent != original.manifest.digest:
        return None
    free = conversion_run.free_bytes(folder)
    sizes = {entry.path: entry.size for entry in known.files}
    return Conversion(known, folder, sizes, known.bytes, free)


def served(store: Store, name: str, *, progress: Progress = NO_PROGRESS) -> Stored:
    """The Hugging Face folder of the model ``name`` (catalogue id or path), which the core serves.

    A downloaded model in Meta's layout is converted on first use, into the store; again if it was
    downloaded anew since. ``NotFoundError`` if there is neither.
    """
    found = store.find(name)
    if found.manifest.format == "hf":
        return found
    if found.manifest.format == "gguf":
        raise UsageError(
            f"{name} is a GGUF model, which llama.cpp runs and this core does not",
            hint=f"llama-hub convert {name} FOLDER --to hf, then use FOLDER",
        )
    made = into_store(store, found, to="hf", progress=progress)
    return Stored(made.path, manifest.read(made.path))
