"""Conversion between Meta's shards, Hugging Face folders and GGUF, in every direction.

``convert`` writes aside, next to the destination, and renames when everything is whole: a run
that was killed goes on after its last whole tensor, and nothing unfinished has a final name.
``served`` is the Hugging Face folder of a stored model, made if need be.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_hub import __version__
from llama_hub.errors import DiskFullError, IntegrityError, NotFoundError, UsageError
from llama_hub.files import fsync_folder, write_atomic
from llama_hub.hub import catalog, conversion_plan, manifest
from llama_hub.hub.chat_template import is_chat
from llama_hub.hub.checkpoints import open_checkpoint
from llama_hub.hub.companions import Subject
from llama_hub.hub.conversion_plan import Wanted
from llama_hub.hub.digests import hash_file
from llama_hub.hub.manifest import FileEntry, Format, Manifest, TensorEntry
from llama_hub.hub.store import Store, Stored
from llama_hub.licenses import terms
from llama_hub.licenses.gate import Gate
from llama_hub.licenses.ledger import Receipt
from llama_hub.progress import NO_PROGRESS, Progress

if TYPE_CHECKING:
    from llama_hub.hub.checkpoints.blueprint import Blueprint
    from llama_hub.hub.checkpoints.source import Checkpoint
    from llama_hub.hub.checkpoints.transcribe import Outcome
DEFAULT_LICENSE = "llama-2-community"  # of a folder that says nothing: the strictest guess
SPARE = 64 << 20  # bytes that a file system needs besides the files themselves


@dataclass(frozen=True)
class Origin:
    """What is known of the source besides its tensors."""

    folder: Path
    model: str
    license: str
    manifest: Manifest | None  # of the source, if it has one
    context: int | None  # tokens, where the source itself does not tell
    is_chat: bool


@dataclass(frozen=True)
class Conversion:
    """What a conversion made or, after a dry run, would make."""

    manifest: Manifest | None
    path: Path
    files: Mapping[str, int]  # weight files with their sizes in bytes
    needed: int  # bytes of disk space
    free: int  # bytes of disk space before
    resumed: int = 0  # tensors that an earlier run had written
    verified: bool | None = None
    changed: int = 0  # values that a change of dtype altered
    non_finite: Mapping[str, int] = field(default_factory=dict)  # tensor → NaN and infinite values
    errors: Mapping[str, float] = field(default_factory=dict)  # tensor → relative error


def convert(
    source: Path,
    destination: Path,
    *,
    to: Format,
    dtype: str | None = None,
    quantize: str | None = None,
    group_size: int | None = None,
    max_shard_size: int = conversion_plan.MAX_SHARD_SIZE,
    model_parallel: int | None = None,
    allow_non_finite: bool = False,
    model: str | None = None,
    license: str | None = None,
    chat: bool | None = None,
    verify: bool = False,
    progress: Progress = NO_PROGRESS,
    gate: Gate | None = None,
    workers: int | None = None,
) -> Conversion:
    """Convert the model in ``source`` into the new folder ``destination``.

    ``dtype``: of the output, by default the source's; for GGUF also a quantised type (``Q8_0`` …).
    ``model``, ``license``, ``chat``: for a source without manifest. ``verify``: read the output
    again and prove that it holds the source's tensors. Errors: ``LicenseError`` without a
    receipt, ``UsageError`` if the destination is not empty, ``DiskFullError`` before anything is
    written, ``IntegrityError`` if the source is unsound.
    """
    wanted = Wanted(
        to, dtype, quantize, group_size, max_shard_size, model_parallel, allow_non_finite
    )
    wanted.check()
    check_destination(source, destination)
    origin = origin_of(source, model=model, license=license, chat=chat)
    receipt = (gate or Gate()).require(origin.license)
    partial = destination.parent / f".{destination.name}.partial"
    destination.parent.mkdir(parents=True, exist_ok=True)
    with _exclusive(partial):
        made = _make(origin, partial, wanted, receipt, gate or Gate(), verify, progress, workers)
        check_destination(source, destination)
        partial.replace(destination)
        fsync_folder(destination.parent)
    return _at(made, destination)


def dry_run(source: Path, destination: Path, wanted: Wanted, **known: Any) -> Conversion:
    """What ``convert`` would write and whether it fits; nothing is written.

    ``known``: ``model``, ``license`` and ``chat`` as for ``convert``.
    """
    wanted.check()
    check_destination(source, destination)
    origin = origin_of(source, **known)
    with open_checkpoint(source, context=origin.context) as opened:
        subject = _subject(origin, opened, None, None)
        blueprint = conversion_plan.plan(opened, wanted, subject)
    return Conversion(
        manifest=None,
        path=destination,
        files={file.name: file.size for file in blueprint.files},
        needed=_needed(blueprint),
        free=_free(destination),
    )


def served(store: Store, name: str, *, progress: Progress = NO_PROGRESS) -> Stored:
    """The Hugging Face folder of the model ``name`` (catalogue id or path), which the core serves.

    A downloaded model in Meta's layout is converted on first use, into the store; again if it was
    downloaded anew since. ``NotFoundError`` if there is neither.
    """
    found = _stored(store, name)
    if found is None or found.manifest.format == "hf":
        return store.find(name, "hf") if found is None else found
    if found.manifest.format == "gguf":
        raise UsageError(
            f"{name} is a GGUF model, which llama.cpp runs and this core does not",
            hint=f"llama-hub convert {name} FOLDER --to hf, then use FOLDER",
        )
    return _converted(store, found, progress)


def _stored(store: Store, name: str) -> Stored | None:
    """As downloaded if that is there, since a converted copy may be out of date."""
    try:
        return store.find(name)
    except NotFoundError:
        folder = Path(name).expanduser()
        if "/" in name and (folder / "config.json").is_file():
            return None
        raise


def _converted(store: Store, original: Stored, progress: Progress) -> Stored:
    model = original.manifest.model
    if original.path != store.folder(model, "meta"):  # a folder of the user's own
        model = f"{model}-{original.manifest.digest.removeprefix('sha256:')[:12]}"
    with store.lock(model, "hf"):
        known = _known(store.folder(model, "hf"))
        if known is not None and known.manifest.parent == original.manifest.digest:
            return known
        origin = origin_of(original.path)
        gate = Gate()
        receipt = gate.require(origin.license)
        partial = store.partial_folder(model, "hf")
        _make(origin, partial, Wanted("hf"), receipt, gate, False, progress, None)
        return store.publish(model, "hf")


def _known(folder: Path) -> Stored | None:
    try:
        return Stored(folder, manifest.read(folder))
    except NotFoundError:
        return None


def check_destination(source: Path, destination: Path) -> None:
    """``UsageError`` unless ``destination`` is free and apart from the source."""
    if destination.suffix == ".gguf":
        raise UsageError(
            f"{destination}: the destination is a folder, which holds licence and tokenizer too",
            hint=f"give {destination.with_suffix('')}",
        )
    inside = destination.absolute(), source.absolute()
    if inside[0] == inside[1] or inside[1] in inside[0].parents:
        raise UsageError(f"the destination {destination} lies in the source {source}")
    if destination.is_dir() and not any(destination.iterdir()):
        return
    if destination.exists() or destination.is_symlink():
        raise UsageError(
            f"the destination {destination} is there already and not empty",
            hint="give another folder, or remove that one first",
        )


def origin_of(
    source: Path,
    *,
    model: str | None = None,
    license: str | None = None,
    chat: bool | None = None,
) -> Origin:
    """What the source's manifest, the catalogue and the caller say of the source."""
    try:
        known: Manifest | None = manifest.read(source)
    except NotFoundError:
        known = None
    name = model or (known.model if known else source.absolute().name)
    listed = _listed(name)
    license_id = (known.license if known else license) or (listed.license if listed else None)
    variant = chat if chat is not None else (listed.variant == "chat" if listed else is_chat(name))
    return Origin(
        folder=source,
        model=name,
        license=license_id or DEFAULT_LICENSE,
        manifest=known,
        context=_context(known, listed),
        is_chat=variant,
    )


def _listed(name: str) -> catalog.Model | None:
    configured = os.environ.get("LLAMA_HUB_CATALOG")
    known = catalog.load(Path(configured) if configured else None)
    return known.get(name) if name in known else None


def _context(known: Manifest | None, listed: catalog.Model | None) -> int | None:
    """params.json cannot say it: a conversion noted it, or the catalogue knows."""
    noted = known.made_by.get("context") if known else None
    if isinstance(noted, int):
        return noted
    return listed.context if listed else None


# ------------------------------------------------------------------ making one


def _make(
    origin: Origin,
    partial: Path,
    wanted: Wanted,
    receipt: Receipt,
    gate: Gate,
    verify: bool,
    progress: Progress,
    workers: int | None,
) -> Conversion:
    """Everything, the manifest last, into the folder ``partial``."""
    from llama_hub.hub.checkpoints.transcribe import transcribe
    from llama_hub.hub.checkpoints.work_journal import WorkJournal

    free = _free(partial)
    with open_checkpoint(origin.folder, context=origin.context) as source:
        subject = _subject(origin, source, receipt, gate)
        blueprint = conversion_plan.plan(source, wanted, subject)
        _check_disk(blueprint, partial)
        partial.mkdir(parents=True, exist_ok=True)
        journal = WorkJournal(partial, _identity(origin, source, wanted))
        try:
            _remove_strangers(partial, blueprint)
            outcome = transcribe(
                source,
                blueprint,
                partial,
                journal,
                progress=progress,
                workers=workers,
                allow_non_finite=wanted.allow_non_finite,
            )
        finally:
            journal.close()
        made = _manifest(origin, source, wanted, blueprint, outcome, receipt, partial)
    if verify:
        _prove(partial, made, progress)
    made.write(partial)
    journal.remove()
    fsync_folder(partial)
    progress.finish("convert", f"{len(outcome.done)} tensors")
    return Conversion(
        manifest=made,
        path=partial,
        files={file.name: file.size for file in blueprint.files},
        needed=_needed(blueprint),
        free=free,
        resumed=outcome.resumed,
        verified=True if verify else None,
        changed=sum(done.changed for done in outcome.done.values()),
        non_finite={n: done.non_finite for n, done in outcome.done.items() if done.non_finite},
        errors={n: done.error for n, done in outcome.done.items() if done.error is not None},
    )


@contextmanager
def _exclusive(partial: Path) -> Iterator[None]:
    """Keep other processes out of ``partial``; the lock goes when the process does."""
    partial.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UsageError(
            f"another conversion is writing {partial}", hint="wait for it, or give another folder"
        ) from error
    finally:
        os.close(descriptor)


def _at(made: Conversion, destination: Path) -> Conversion:
    return replace(made, path=destination)


def _subject(
    origin: Origin, source: Checkpoint, receipt: Receipt | None, gate: Gate | None
) -> Subject:
    accepted = (
        {
            "accepted_license": _text(gate, receipt.license_sha256),
            "accepted_policy": _text(gate, receipt.policy_sha256),
        }
        if receipt and gate
        else {}
    )
    return Subject(
        folder=origin.folder,
        format=source.format,
        model=origin.model,
        license=terms.load(origin.license),
        architecture=source.architecture,
        is_chat=origin.is_chat,
        **accepted,
    )


def _text(gate: Gate, digest: str | None) -> str | None:
    return gate.ledger.text(digest) if digest else None


def _identity(origin: Origin, source: Checkpoint, wanted: Wanted) -> dict[str, Any]:
    """What must be the same for a journal to be continued."""
    stats = {path.name: path.stat() for path in source.files}
    return {
        "wanted": asdict(wanted) | {"allow_non_finite": None},
        "tool": __version__,
        "model": origin.model,
        "source": str(origin.folder.absolute()),
        "files": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()},
    }


def _remove_strangers(partial: Path, blueprint: Blueprint) -> None:
    """What an earlier, different conversion left in the same place."""
    from llama_hub.hub.checkpoints.work_journal import NAME

    expected = {file.name for file in blueprint.files} | {NAME}
    for path in partial.iterdir():
        if path.name not in expected:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _needed(blueprint: Blueprint) -> int:
    return blueprint.bytes + sum(map(len, blueprint.documents.values())) + SPARE


def _free(path: Path) -> int:
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
    return shutil.disk_usage(existing).free


def _check_disk(blueprint: Blueprint, partial: Path) -> None:
    taken = [path.stat() for path in partial.glob("*")] if partial.is_dir() else []
    needed = _needed(blueprint) - sum(stat.st_blocks * 512 for stat in taken)
    free = _free(partial)
    if needed > free:
        raise DiskFullError(
            f"the conversion needs {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free "
            f"where {partial.parent} lies",
            hint="free space, or give a destination on a larger disk",
        )


def _manifest(
    origin: Origin,
    source: Checkpoint,
    wanted: Wanted,
    blueprint: Blueprint,
    outcome: Outcome,
    receipt: Receipt,
    partial: Path,
) -> Manifest:
    """Write the companions and describe the folder."""
    documents = dict(blueprint.documents)
    if blueprint.md5:
        documents["checklist.chk"] = _checklist(documents, outcome)
    entries = [
        FileEntry(file.name, file.size, outcome.sha256[file.name], outcome.md5.get(file.name))
        for file in blueprint.files
    ]
    for name, data in documents.items():
        write_atomic(partial / name, data)
        entries.append(FileEntry(name, len(data), hash_file(partial / name).digests["sha256"]))
    return Manifest(
        model=origin.model,
        format=wanted.to,
        license=origin.license,
        files=tuple(sorted(entries)),
        tensors=tuple(sorted(_tensor_entries(blueprint, outcome))),
        parent=origin.manifest.digest if origin.manifest else None,
        made_by=_made_by(source, wanted, outcome),
        source=dict(origin.manifest.source) if origin.manifest else {},
        receipt=receipt.id,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def _checklist(documents: Mapping[str, bytes], outcome: Outcome) -> bytes:
    """Meta's ``checklist.chk``: MD5 of the shards and of params.json."""
    import hashlib

    params = hashlib.md5(documents["params.json"], usedforsecurity=False).hexdigest()
    listed = {**outcome.md5, "params.json": params}
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(listed.items())).encode()


def _tensor_entries(blueprint: Blueprint, outcome: Outcome) -> list[TensorEntry]:
    entries = []
    for plan in blueprint.tensors:
        listed = plan.stored or ((plan.spec.name, plan.dtype, plan.spec.shape),)
        digests = outcome.done[plan.spec.name].sha256
        for (name, dtype, shape), digest in zip(listed, digests, strict=True):
            entries.append(TensorEntry(name, dtype, tuple(shape), digest))
    return entries


def _made_by(source: Checkpoint, wanted: Wanted, outcome: Outcome) -> dict[str, Any]:
    """How the folder was made; the same inputs always give the same."""
    parameters = {
        key: value
        for key, value in asdict(wanted).items()
        if value not in (None, False) and key != "to"
    }
    changed = sum(done.changed for done in outcome.done.values())
    non_finite = sum(done.non_finite for done in outcome.done.values())
    return {
        "operation": "convert",
        "from": source.format,
        "to": wanted.to,
        "parameters": parameters,
        "context": source.architecture.context,
        "tool": f"llama-hub {__version__}",
        **({"values_changed": changed} if changed else {}),
        **({"non_finite": non_finite} if non_finite else {}),
    }


def _prove(folder: Path, made: Manifest, progress: Progress) -> None:
    """Read the output again, undo the layout and compare every tensor's digest."""
    from llama_hub.hub.checkpoints.fingerprint import tensor_entries

    found = {entry.name: entry for entry in tensor_entries(folder, progress=progress)}
    for expected in made.tensors:
        if found.get(expected.name) != expected:
            raise IntegrityError(
                f"the output is not the same model: {expected.name} differs",
                hint="the disk or the memory of this machine may be faulty; run it again",
            )
