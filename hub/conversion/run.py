"""One conversion from start to manifest, in a folder that has no final name yet."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_hub import __version__
from llama_hub.errors import DiskFullError, IntegrityError
from llama_hub.files import delete, fsync_folder, write_atomic
from llama_hub.hub import release_items
from llama_hub.hub.architecture import Architecture
from llama_hub.hub.checkpoints import gguf_types, open_checkpoint
from llama_hub.hub.conversion import plan as conversion_plan
from llama_hub.hub.conversion.companions import Subject
from llama_hub.hub.conversion.origin import Origin, recorded
from llama_hub.hub.conversion.plan import ConversionRequest
from llama_hub.hub.manifest import FileEntry, Manifest, TensorEntry
from llama_hub.licenses import terms
from llama_hub.licenses.gate import Gate
from llama_hub.licenses.ledger import Receipt
from llama_hub.progress import NO_PROGRESS, Progress

if TYPE_CHECKING:
    from llama_hub.hub.checkpoints.blueprint import Blueprint
    from llama_hub.hub.checkpoints.source import Checkpoint
    from llama_hub.hub.checkpoints.transcribe import Outcome
    from llama_hub.hub.tokenizer.vocabulary import ModelVocabulary

SPARE = 16 << 20  # bytes that a file system needs besides the files themselves


@dataclass(frozen=True)
class Task:
    """What to convert and how."""

    origin: Origin
    wanted: ConversionRequest
    verify: bool = False
    progress: Progress = NO_PROGRESS
    gate: Gate = field(default_factory=Gate)
    workers: int | None = None  # threads; None: one per core
    beside: Path | None = None  # the folder that gets a single GGUF file and what belongs to it


@dataclass(frozen=True)
class Conversion:
    """What a conversion made or, after a dry run, would make."""

    manifest: Manifest | None  # None: nothing was written
    path: Path
    files: Mapping[str, int]  # weight files with their sizes in bytes
    needed: int  # bytes of disk space
    free: int  # bytes of disk space before
    resumed: int = 0  # tensors that an earlier run had written
    verified: bool | None = None
    changed: int = 0  # values that a change of dtype altered
    non_finite: Mapping[str, int] = field(default_factory=dict)  # tensor → NaN and infinite values
    errors: Mapping[str, float] = field(default_factory=dict)  # tensor → relative error
    lacks: tuple[str, ...] = ()  # companions that the source does not have


def preview(task: Task, destination: Path) -> Conversion:
    """What ``run`` would write and whether it fits; nothing is written."""
    with _opened(task) as source:
        blueprint = conversion_plan.plan(source, task.wanted, _subject(task.origin, source, {}))
    return Conversion(
        manifest=None,
        path=destination,
        files={file.name: file.size for file in blueprint.files},
        needed=_needed(blueprint),
        free=free_bytes(destination),
        lacks=_lacks(task, blueprint),
    )


def _named_beside(task: Task, documents: Mapping[str, bytes]) -> dict[str, bytes]:
    """What lies beside a single file by the names it gets: what others have there stays theirs."""
    if task.beside is None:
        return dict(documents)
    stem, named = task.wanted.file_stem, {}
    for name, data in documents.items():
        place = task.beside / name
        theirs = os.path.lexists(place) and not _holds(place, data)
        named[f"{stem}.{name}" if theirs else name] = data
    return named


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data


def run(task: Task, partial: Path) -> Conversion:
    """Everything, the manifest last, into the folder ``partial``, which the caller renames."""
    from llama_hub.hub.checkpoints.transcribe import transcribe
    from llama_hub.hub.checkpoints.work_journal import WorkJournal

    receipt = task.gate.require(task.origin.license)
    free = free_bytes(partial)
    with _opened(task) as source:
        subject = _subject(task.origin, source, _accepted(task.gate, receipt))
        blueprint = conversion_plan.plan(source, task.wanted, subject)
        blueprint = replace(blueprint, documents=_named_beside(task, blueprint.documents))
        _check_disk(blueprint, partial)
        identity = _identity(task, source)
        journal = WorkJournal(partial, identity)
        try:
            _remove_strangers(partial, blueprint)
            outcome = transcribe(
                source,
                blueprint,
                partial,
                journal,
                progress=task.progress,
                workers=task.workers,
                allow_non_finite=task.wanted.allow_non_finite,
            )
        finally:
            journal.close()
        manifest = _describe(task, source, blueprint, outcome, receipt, partial)
        _check_unchanged(task, source, identity)
    if task.verify:
        _prove(partial, manifest, source.architecture, task.progress)
    if task.beside is None:
        release_items.write(partial, manifest)
    manifest.write(partial)
    journal.remove()
    fsync_folder(partial)
    task.progress.finish("convert", f"{len(outcome.done)} tensors")
    return Conversion(
        manifest=manifest,
        path=partial,
        files={file.name: file.size for file in blueprint.files},
        needed=_needed(blueprint),
        free=free,
        resumed=outcome.resumed,
        verified=True if task.verify else None,
        changed=sum(done.changed for done in outcome.done.values()),
        non_finite={n: done.non_finite for n, done in outcome.done.items() if done.non_finite},
        errors={n: done.error for n, done in outcome.done.items() if done.error is not None},
        lacks=_lacks(task, blueprint),
    )


def _opened(task: Task) -> Checkpoint:
    origin, wanted = task.origin, task.wanted
    return open_checkpoint(
        origin.path,
        context=origin.context,
        dequantize=wanted.dequantize,
        packed=wanted.keeps_blocks,
    )


def _accepted(gate: Gate, receipt: Receipt) -> dict[str, str]:
    """The texts that were accepted, for a source that has lost its LICENSE."""
    digests = {
        "accepted_license": receipt.license_sha256,
        "accepted_policy": receipt.policy_sha256,
    }
    return {key: gate.ledger.text(digest) for key, digest in digests.items() if digest}


def _subject(origin: Origin, source: Checkpoint, accepted: Mapping[str, str]) -> Subject:
    return Subject(
        folder=origin.folder,
        format=source.format,
        model=origin.model,
        license=terms.load(origin.license),
        architecture=source.architecture,
        is_chat=origin.is_chat,
        accepted_license=accepted.get("accepted_license"),
        accepted_policy=accepted.get("accepted_policy"),
        stated=_stated_vocabulary(origin, source),
        alone=gguf_types.stem_of(origin.path) if origin.path.is_file() else None,
        listed=_listed(origin),
    )


def _listed(origin: Origin) -> frozenset[str]:
    """The files that the source's manifest tells to be the model's."""
    files = origin.manifest.files if origin.manifest else ()
    return frozenset(entry.path for entry in files)


def _stated_vocabulary(origin: Origin, source: Checkpoint) -> ModelVocabulary | None:
    """What a GGUF file says of its tokens, unless their own files were kept beside it."""
    if source.format != "gguf" or _listed(origin) & {"tokenizer.model", "tokenizer.json"}:
        return None
    from llama_hub.hub.checkpoints import gguf_tokenizer

    return gguf_tokenizer.read(source.values, source.architecture.vocab_size)


def _identity(task: Task, source: Checkpoint) -> dict[str, Any]:
    """What must be the same for a journal to be continued."""
    stats = {path.name: path.stat() for path in source.files}
    return {
        "wanted": asdict(task.wanted) | {"allow_non_finite": None},
        "tool": __version__,
        "model": task.origin.model,
        "source": str(task.origin.path.absolute()),
        "files": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()},
    }


def _check_unchanged(task: Task, source: Checkpoint, identity: Mapping[str, Any]) -> None:
    """``IntegrityError`` if the source was replaced while it was read: the output is a mixture."""
    expected = task.origin.manifest
    try:
        same = _identity(task, source) == identity
        now = recorded(task.origin.path)
        described = now is None and task.origin.path.is_file()  # its files are all there is of it
        same = same and (
            expected is None or described or (now or expected).digest == expected.digest
        )
        same = same and (now is not None or expected is None or described)
    except OSError:
        same = False
    if not same:
        raise IntegrityError(
            f"{task.origin.path} was changed while it was converted", hint="run it again"
        )


def _remove_strangers(partial: Path, blueprint: Blueprint) -> None:
    """What an earlier, different conversion left in the same place.

    A link, even to one of the output's own names, is none of them: writing it would change
    what lies elsewhere.
    """
    from llama_hub.hub.checkpoints.work_journal import NAME

    expected = {file.name for file in blueprint.files} | {NAME}
    for path in partial.iterdir():
        status = path.lstat()
        plain = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
        if path.name not in expected or not plain:
            delete(path)


def _lacks(task: Task, blueprint: Blueprint) -> tuple[str, ...]:
    wanted = ("LICENSE",) if task.beside is not None else ("tokenizer.model", "LICENSE")
    stem = task.wanted.file_stem
    return tuple(
        name for name in wanted if not {name, f"{stem}.{name}"} & blueprint.documents.keys()
    )


def _needed(blueprint: Blueprint) -> int:
    return blueprint.bytes + sum(map(len, blueprint.documents.values())) + SPARE


def free_bytes(path: Path) -> int:
    """Free disk space where ``path`` lies or will lie."""
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
    return shutil.disk_usage(existing).free


def _check_disk(blueprint: Blueprint, partial: Path) -> None:
    taken = sum(path.stat().st_blocks * 512 for path in partial.glob("*") if path.is_file())
    needed, free = _needed(blueprint) - taken, free_bytes(partial)
    if needed > free:
        raise DiskFullError(
            f"the conversion needs {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free "
            f"in {partial.parent}",
            hint="free space, or give a destination on a larger disk",
        )


def _describe(
    task: Task,
    source: Checkpoint,
    blueprint: Blueprint,
    outcome: Outcome,
    receipt: Receipt,
    partial: Path,
) -> Manifest:
    """Write the companions and state what the folder holds."""
    origin = task.origin
    documents = dict(blueprint.documents)
    if blueprint.md5:
        documents["checklist.chk"] = _checklist(documents, outcome)
    entries = [
        FileEntry(file.name, file.size, outcome.sha256[file.name], outcome.md5.get(file.name))
        for file in blueprint.files
    ]
    for name, data in documents.items():
        write_atomic(partial / name, data)
        entries.append(FileEntry(name, len(data), hashlib.sha256(data).hexdigest()))
    return Manifest(
        model=origin.model,
        format=task.wanted.to,
        license=origin.license,
        files=tuple(sorted(entries)),
        tensors=tuple(sorted(_tensor_entries(blueprint, outcome))),
        parent=origin.manifest.digest if origin.manifest else None,
        made_by=_made_by(source, task.wanted, outcome),
        source=dict(origin.manifest.source) if origin.manifest else {},
        receipt=receipt.id,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def _checklist(documents: Mapping[str, bytes], outcome: Outcome) -> bytes:
    """Meta's ``checklist.chk``: MD5 of the shards and of params.json."""
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


def _made_by(source: Checkpoint, wanted: ConversionRequest, outcome: Outcome) -> dict[str, Any]:
    """How the folder was made; the same inputs always give the same."""
    options = asdict(wanted).items()
    parameters = {
        key: value for key, value in options if value not in (None, False) and key != "to"
    }
    changed = sum(done.changed for done in outcome.done.values())
    non_finite = sum(done.non_finite for done in outcome.done.values())
    return {
        "operation": "convert",
        "from": source.format,
        "to": wanted.to,
        "parameters": parameters,
        "context": source.architecture.context,
        "function": source.architecture.function(),
        "tool": f"llama-hub {__version__}",
        **({"dequantized": source.dequantised} if _dequantises(source, wanted) else {}),
        **({"values_changed": changed} if changed else {}),
        **({"non_finite": non_finite} if non_finite else {}),
    }


def _dequantises(source: Checkpoint, wanted: ConversionRequest) -> bool:
    return bool(source.dequantised) and not wanted.keeps_blocks


def _prove(folder: Path, made: Manifest, architecture: Architecture, progress: Progress) -> None:
    """Read the output again, undo the layout, compare the function and every tensor's digest."""
    from llama_hub.hub.checkpoints import open_checkpoint
    from llama_hub.hub.checkpoints.fingerprint import tensor_entries

    with open_checkpoint(folder, quantised=True) as output:
        stated, wanted = output.architecture.function(), architecture.function()
    if stated != wanted:
        key = next(key for key in wanted if stated[key] != wanted[key])
        raise IntegrityError(
            f"the output is not the same model: {key} is {stated[key]}, not {wanted[key]}"
        )
    digests = {entry.name: entry for entry in tensor_entries(folder, progress=progress)}
    for expected in made.tensors:
        if digests.get(expected.name) != expected:
            raise IntegrityError(
                f"the output is not the same model: {expected.name} differs",
                hint="the disk or the memory of this machine may be faulty; run it again",
            )
