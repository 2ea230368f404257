"""The import of an adapter: found here or on the Hub, copied, checked against its base, described.

What training writes it may write again: unlike a model's files, an adapter's are copied and never
linked.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llama_hub import __version__
from llama_hub.errors import DiskFullError, IntegrityError, NotFoundError, UsageError
from llama_hub.files import CHUNK, open_own, open_regular, write_at
from llama_hub.hub import catalog
from llama_hub.hub.adapters import lora_config, peft_folder
from llama_hub.hub.adapters.bases import base_of
from llama_hub.hub.adapters.gguf_adapter import open_gguf_adapter
from llama_hub.hub.adapters.low_rank import AdapterFormat, LowRank, content_digest, examine
from llama_hub.hub.adapters.manifest import AdapterManifest
from llama_hub.hub.adapters.store import AdapterStore, StoredAdapter, refuse_taken
from llama_hub.hub.architecture import Architecture
from llama_hub.hub.checkpoints import gguf_types, open_checkpoint
from llama_hub.hub.digests import hash_file
from llama_hub.hub.manifest import FileEntry
from llama_hub.hub.model_id import ModelId, model_id
from llama_hub.hub.repository_id import RepositoryId, parse
from llama_hub.hub.store import Store, StoredModel, path_of
from llama_hub.licenses.gate import Gate
from llama_hub.progress import NO_PROGRESS, Progress

MAX_BYTES = 32 << 30  # of an adapter's file; rank 512 of all matrices of 70B in float32 has 27 GB
_BESIDE = ("README.md",)  # what else of the folder is kept
_MAX_BESIDE = 1 << 20
SPARE = 16 << 20


@dataclass(frozen=True)
class Request:
    """What to import: a folder of peft's, a GGUF file, or ``ORG/NAME[@REV]``; for which base."""

    place: str
    base: StoredModel
    name: str | None = None
    token: str | None = None
    revision: str | None = None
    other_base: bool = False  # whether it may have been trained on another model of the catalogue
    gate: Gate = field(default_factory=Gate)
    progress: Progress = NO_PROGRESS


@dataclass(frozen=True)
class _Brought:
    """The files of an adapter, in the folder where it is put together."""

    format: AdapterFormat
    source: Mapping[str, Any]


def import_adapter(
    request: Request, store: Store, adapters: AdapterStore
) -> tuple[StoredAdapter, bool]:
    """The adapter in the store, and whether it was there already.

    ``LicenseError`` without a receipt for the base's licence, ``IntegrityError`` for what does not
    fit the base or does nothing, ``UsageError`` if another adapter has the name.
    """
    receipt = request.gate.require(request.base.manifest.license)
    architecture = architecture_of(request.base)
    path, repository = _place(request.place)
    name = _name(request, path, repository)
    with adapters.lock(name), adapters.work_folder(name) as folder:
        if repository is not None:
            brought = _fetched(request, repository, folder)
        else:
            with open_adapter(path, architecture):  # what is wrong is told of the person's own file
                pass
            brought = _copied(path, folder)
        with open_adapter(_opened(folder, brought.format), architecture) as opened:
            _check_named_base(request, folder, brought)
            tensors = examine(opened, request.place)
            described = AdapterManifest(
                id=name,
                format=brought.format,
                license=request.base.manifest.license,
                base=base_of(request.base.id, request.base.manifest, store),
                rank=opened.rank,
                alpha=None if opened.scale is None else opened.scale * opened.rank,
                content=content_digest(tensors, {u.name: u.scale for u in opened.updates.values()}),
                files=_entries(folder),
                tensors=tensors,
                source=dict(brought.source) | {"tool": f"llama-hub {__version__}"},
                receipt=receipt.id,
                created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            )
        there = refuse_taken(adapters, name, described.content)
        if there is not None and there.manifest.digest == described.digest:
            return there, True
        described.write(folder)
        return adapters.publish(name, folder), False


def architecture_of(base: StoredModel) -> Architecture:
    """The dimensions of the base, quantised or not."""
    with open_checkpoint(base.path, quantised=True) as checkpoint:
        return checkpoint.architecture


def open_adapter(place: Path, architecture: Architecture) -> LowRank:
    """The adapter in a folder of peft's or in a GGUF file; close it after use.

    ``IntegrityError`` for one that does not fit, ``NotFoundError`` or ``UsageError`` for what is
    none.
    """
    if gguf_types.has_name(place):
        return open_gguf_adapter(place, architecture)
    if not place.is_dir():
        raise UsageError(
            f"{place} is neither a folder of peft's nor a GGUF file",
            hint=f"name the folder that holds {lora_config.NAME}",
        )
    if not (place / lora_config.NAME).exists():
        raise NotFoundError(
            f"{place} holds no {lora_config.NAME}: it is no adapter",
            hint="a whole model: llama-hub import FOLDER",
        )
    return peft_folder.open_peft(place, architecture)


def _opened(folder: Path, fmt: AdapterFormat) -> Path:
    return folder if fmt == "peft" else next(folder.glob("*.gguf"))


def _place(text: str) -> tuple[Path, RepositoryId | None]:
    path = path_of(text)
    if path.exists():
        return path, None
    repository = parse(text)
    if repository is None:
        raise NotFoundError(
            f"there is no folder or file {text}", hint="name the folder of an adapter, or ORG/NAME"
        )
    return path, repository


def _name(request: Request, path: Path, repository: RepositoryId | None) -> ModelId:
    if request.name is not None:
        return model_id(request.name, "--name")
    if repository is not None:
        return repository.model_id
    resolved = path.resolve()
    if gguf_types.has_name(resolved):
        return ModelId.of_folder(gguf_types.model_name(resolved))
    return ModelId.of_folder(resolved.name)


def _copied(path: Path, folder: Path) -> _Brought:
    """The adapter's own files, and no others, copied."""
    path = path.absolute()
    source = {"kind": "import", "folder": path.name}
    if gguf_types.has_name(path):
        name = f"{ModelId.of_folder(gguf_types.model_name(path))}.gguf"
        _copy(path, folder / name, MAX_BYTES)
        return _Brought("gguf", source)
    _copy(path / lora_config.NAME, folder / lora_config.NAME, lora_config.KIND.max_bytes)
    weights = peft_folder.weights_of(path)
    _copy(weights, folder / weights.name, MAX_BYTES)
    for name in _BESIDE:
        beside = path / name
        if beside.is_file() and beside.stat().st_size <= _MAX_BESIDE:
            _copy(beside, folder / name, _MAX_BESIDE)
    return _Brought("peft", source)


def _copy(path: Path, target: Path, limit: int) -> None:
    """``IntegrityError`` for what is no file, or larger than such a file can be."""
    descriptor = open_regular(path)
    try:
        size = os.fstat(descriptor).st_size
        if size > limit:
            raise IntegrityError(f"{path} has {size} bytes, more than any such file: {limit}")
        if size + SPARE > shutil.disk_usage(target.parent).free:
            raise DiskFullError(f"{path} has {size} bytes, and there is no room for a copy of it")
        out = open_own(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            at = 0
            while at < size and (piece := os.read(descriptor, min(CHUNK, size - at))):
                write_at(out, piece, at)
                at += len(piece)
            os.fsync(out)
        finally:
            os.close(out)
    finally:
        os.close(descriptor)
    if at != size:
        raise IntegrityError(f"{path} became shorter while it was copied")


def _fetched(request: Request, repository: RepositoryId, folder: Path) -> _Brought:
    """The adapter's files of a repository on the Hub, checked by what the Hub states of them."""
    from llama_hub.hub.sources.base import FetchPlan
    from llama_hub.hub.sources.huggingface import HuggingFace
    from llama_hub.hub.transfer.fetch import JOURNALS
    from llama_hub.hub.transfer.fetch_all import fetch_all

    revision = repository.revision or request.revision
    hub = HuggingFace(repository.name, "hf", token=request.token, revision=revision)
    with closing(hub):
        present = hub.commit.files
        weights = [name for name in peft_folder.WEIGHTS if name in present][:1]
        if lora_config.NAME not in present or not weights:
            raise NotFoundError(
                f"{hub.where} is no repository of an adapter: it lacks {lora_config.NAME} or "
                f"{peft_folder.WEIGHTS[0]}",
                hint=f"a whole model: llama-hub download {repository.name}",
            )
        names = [lora_config.NAME, *weights, *(name for name in _BESIDE if name in present)]
        files = tuple(hub.checked_as(name, name) for name in names)
        plan = FetchPlan("hf", files, hub.record(), hub.policy)
        fetch_all(plan, folder, MAX_BYTES // 4, progress=request.progress, files=4,
                  connections=None)  # fmt: skip
        shutil.rmtree(folder / JOURNALS, ignore_errors=True)
        return _Brought("peft", hub.record())


def _check_named_base(request: Request, folder: Path, brought: _Brought) -> None:
    """``IntegrityError`` if the adapter names another model of the catalogue as its base."""
    if brought.format != "peft" or request.other_base:
        return
    named = lora_config.read(folder / lora_config.NAME).base_model_name_or_path
    known = {
        str(repository).lower(): model.id
        for model in catalog.load()
        for repository in (model.huggingface, model.huggingface_original)
        if repository
    }
    trained_on = known.get((named or "").lower())
    if trained_on is not None and trained_on != request.base.id:
        raise IntegrityError(
            f"the adapter was trained on {trained_on} ({named}), not on {request.base.id}",
            hint=f"--base {trained_on}; or --other-base, if it is meant for this one all the same",
        )


def _entries(folder: Path) -> tuple[FileEntry, ...]:
    entries = []
    for path in sorted(folder.iterdir()):
        hashed = hash_file(path)
        entries.append(
            FileEntry(path.name, hashed.size, hashed.digests["sha256"], blocks=hashed.blocks)
        )
    return tuple(entries)
