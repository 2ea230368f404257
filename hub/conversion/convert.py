"""Conversion between Meta's shards, Hugging Face folders and GGUF, in every direction.

``convert`` writes aside, next to the destination, and renames when everything is whole: a run
that was killed goes on after its last whole tensor, and nothing unfinished has a final name.
``into_store`` does the same inside the store; ``served`` is the Hugging Face folder of a stored
model, made if need be.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_hub.errors import IntegrityError, UsageError
from llama_hub.files import fsync_folder
from llama_hub.hub import gguf_file, manifest
from llama_hub.hub.checkpoints import gguf_types
from llama_hub.hub.conversion import run as conversion_run
from llama_hub.hub.conversion.origin import check_destination, origin_of, recorded
from llama_hub.hub.conversion.partial_folder import exclusive
from llama_hub.hub.conversion.plan import MAX_SHARD_SIZE, ConversionRequest
from llama_hub.hub.conversion.run import Conversion, Task
from llama_hub.hub.manifest import MANIFEST_NAME, Format
from llama_hub.hub.store import Store, StoredModel, Variant, variant
from llama_hub.hub.verify import verify as verify_folder
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
    dequantize: bool = False,
    split_max_size: int | None = None,
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
    """Convert the model in ``source``, a folder or a GGUF file, into the new ``destination``.

    That is a folder or, where it is called ``NAME.gguf``, a file; licence, notice and manifest
    (``NAME.llama-hub.json``) are then put beside it.

    ``dtype``: of the output, by default the source's; for GGUF also a quantised type (``Q4_K_M``,
    ``Q8_0`` …). ``dequantize``: take a quantised GGUF file's values, as float32 unless ``dtype``
    says another; what its quantisation lost stays lost, and the manifest says so.
    ``split_max_size``: bytes of the tensors of one GGUF file.
    ``model``, ``license``, ``chat``, ``context`` (tokens, which Meta's params.json does not tell):
    for a source without manifest. ``verify``: read the output
    again and prove that it holds the source's tensors. ``dry_run``: write nothing. Errors:
    ``LicenseError`` without a receipt, ``UsageError`` if the destination is not empty,
    ``DiskFullError`` before anything is written, ``IntegrityError`` if the source is unsound.
    """
    wanted = ConversionRequest(
        to,
        dtype,
        quantize,
        group_size,
        max_shard_size,
        model_parallel,
        allow_non_finite,
        dequantize,
        split_max_size,
        _stem(destination, to),
    )
    wanted.check()
    destination = destination.absolute()
    check_destination(source, destination)
    beside = destination.parent if gguf_types.has_name(destination) else None
    origin = origin_of(source, model=model, license=license, chat=chat, context=context)
    task = Task(origin, wanted, verify, progress, gate or Gate(), workers, beside)
    if dry_run:
        return conversion_run.preview(task, destination)
    task.gate.require(origin.license)
    partial = destination.parent / f".{destination.name}.partial"
    with exclusive(partial):
        check_destination(source, destination)  # another run may just have made it
        conversion = conversion_run.run(task, partial)
        check_destination(source, destination)
        try:
            if beside is not None:
                return replace(conversion, path=_place_beside(partial, destination))
            partial.replace(destination)
        except OSError as error:
            raise UsageError(
                f"the conversion is whole, but cannot be called {destination}: {error.strerror}",
                hint=f"rename {partial}",
            ) from error
        fsync_folder(destination.parent)
    return replace(conversion, path=destination)


def _stem(destination: Path, to: Format) -> str | None:
    """What the GGUF file is to be called, if a file is named; ``None`` for a folder."""
    if not gguf_types.has_name(destination):
        return None
    if to != "gguf":
        raise UsageError(
            f"{destination} is called like a GGUF file, and --to is {to}",
            hint=f"give a folder: {destination.with_suffix('')}",
        )
    return destination.stem


def _place_beside(partial: Path, destination: Path) -> Path:
    """Give everything in ``partial`` its place beside ``destination``, the weights last.

    Returns the file, or the first of its parts.
    """
    weights = sorted((path for path in partial.glob("*.gguf")), reverse=True)
    (partial / MANIFEST_NAME).replace(gguf_file.manifest_path(destination))
    for path in partial.iterdir():
        if path in weights:
            continue
        if (destination.parent / path.name).exists():  # the same text, which may be another's file
            path.unlink()
        else:
            path.replace(destination.parent / path.name)
    for path in weights:
        path.replace(destination.parent / path.name)
    fsync_folder(destination.parent)
    return destination.parent / weights[-1].name


def into_store(
    store: Store,
    original: StoredModel,
    *,
    to: Format,
    dtype: str | None = None,
    quantize: str | None = None,
    group_size: int | None = None,
    dequantize: bool = False,
    max_shard_size: int = MAX_SHARD_SIZE,
    verify: bool = False,
    dry_run: bool = False,
    progress: Progress = NO_PROGRESS,
) -> Conversion:
    """Convert a model, the result being the store's copy in that format (and quantised so).

    Nothing is done if it is there already and was made from this very original. What is there and
    was made from another is replaced only when the new one is whole; a conversion that fails leaves
    it alone. A folder outside the store is verified first, and has a name of its own there.
    ``UsageError`` if the model is in that format already.
    """
    wanted = ConversionRequest(
        to, dtype, quantize, group_size, max_shard_size=max_shard_size, dequantize=dequantize
    )
    wanted.check()
    if original.manifest.format == to and quantize is None:
        raise UsageError(f"{original.id} is in the format {to} already")
    model, place = original.id, variant(to, quantize)
    origin = origin_of(original.path, described=original.manifest)
    task = Task(origin, wanted, verify, progress)
    if dry_run:
        return conversion_run.preview(task, store.folder(model, place))
    with store.lock(model, place):
        earlier = _made_before(store, original, place)
        if earlier is not None and not verify:
            return earlier
        if not store.owns(original.path) and recorded(original.path):
            _check_foreign(original, progress)
        partial = store.work_folder(model, place, "conversion")
        with exclusive(partial, own=True):
            conversion = conversion_run.run(task, partial)
            stored = store.publish(model, place, partial)
    return replace(conversion, path=stored.path)


def _check_foreign(original: StoredModel, progress: Progress) -> None:
    """What is made of a folder from elsewhere bears its digest: it must have those very bytes."""
    wrong = verify_folder(original.path, progress=progress).damaged
    if wrong:
        raise IntegrityError(
            f"{original.path} is not what its manifest says: {wrong[0].path} "
            f"({wrong[0].detail or wrong[0].status}); nothing was made of it",
            hint=f"llama-hub verify {original.path}",
        )


def _made_before(store: Store, original: StoredModel, place: Variant) -> Conversion | None:
    earlier = store.complete(original.id, place)
    if earlier is None or not earlier.is_of(original):
        return None
    free = conversion_run.free_bytes(earlier.path)
    sizes = {entry.path: entry.size for entry in earlier.manifest.files}
    return Conversion(earlier.manifest, earlier.path, sizes, earlier.manifest.bytes, free)


def served(
    store: Store, name: str, *, packed: bool = False, progress: Progress = NO_PROGRESS
) -> StoredModel:
    """The Hugging Face folder of the model ``name`` (catalogue id or path), which the core serves.

    A model in Meta's layout or in GGUF is converted on first use, into the store; again if it was
    downloaded again since. What is quantised becomes float16, as its manifest says, or with
    ``packed`` stays as it is where the core's int8 or int4 has the same layout (Q8_0, Q4_0).
    ``NotFoundError`` if there is neither.
    """
    original = store.find(name)
    if original.manifest.format == "hf":
        return original
    converted = into_store(
        store, original, to="hf", progress=progress, **as_weights(original, packed=packed)
    )
    return StoredModel(converted.path, manifest.read(converted.path), original.id)


def as_weights(found: StoredModel, *, packed: bool = False) -> dict[str, Any]:
    """How a quantised GGUF file is made into what can be served: options of ``into_store``.

    float16 holds its values to a thousandth of what quantising lost, in half of float32's bytes.
    """
    if found.manifest.format != "gguf":
        return {}
    from llama_hub.hub.checkpoints import gguf

    with gguf.open_gguf(found.path, quantised=True) as source:
        if not source.stored:
            return {}
        kinds = {run.dtype for run in source.stored if run.name.startswith("layers.")}
    way: dict[str, Any] = {"dequantize": True, "dtype": "float16"}
    same = {"q8_0": "int8", "q4_0": "int4"}.get(kinds.pop()) if len(kinds) == 1 else None
    return way | ({"quantize": same, "group_size": 32} if packed and same else {})
