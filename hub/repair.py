"""Mends a model folder: fetches only the damaged blocks, from the source that the manifest names.

A damaged file loses its final name first. It becomes a partial download whose journal lists the
blocks that are right, so that the transfer engine fetches the others and checks the whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from llama_hub.errors import NotFoundError
from llama_hub.files import fsync_folder, locked, write_atomic
from llama_hub.hub.catalog import Model
from llama_hub.hub.digests import damaged_blocks
from llama_hub.hub.manifest import FileEntry, Manifest
from llama_hub.hub.sources.base import FetchPlan, Source
from llama_hub.hub.transfer.fetch import JOURNALS
from llama_hub.hub.transfer.fetch_all import fetch_all
from llama_hub.hub.transfer.journal import BLOCK, BlockState, Journal, Recorded
from llama_hub.hub.transfer.remote_file import RemoteFile
from llama_hub.hub.verify import FileCheck, Verification
from llama_hub.licenses import gate as gates
from llama_hub.licenses import terms
from llama_hub.progress import NO_PROGRESS, Progress


def repair(
    found: Verification, model: Model, source: Source, *, progress: Progress = NO_PROGRESS
) -> int:
    """Mend what ``found`` says is damaged; returns the bytes that came from the source."""
    gates.Gate().require(found.manifest.license)
    aside = found.path.with_name(f".{found.path.name}.repair")
    lock = found.path.with_name(f".{found.path.name}.lock")
    with locked(lock), closing(source):
        wanted = _rewrite_own(found)
        if not wanted:
            return 0
        entries = [found.manifest.file(check.path) for check in wanted]
        plan = _plan(source.plan(model), entries, found.manifest)
        for entry in entries:
            _set_aside(found.path, aside, entry)
        fetched = fetch_all(plan, aside, None, progress=progress, files=4, connections=None)
        for entry in entries:
            target = found.path / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            (aside / entry.path).replace(target)
            fsync_folder(target.parent)
        shutil.rmtree(aside)
        return sum(one.received for one in fetched)


def _rewrite_own(found: Verification) -> list[FileCheck]:
    """Write NOTICE anew, which no source has; returns the other damaged files."""
    others = [check for check in found.damaged if check.path != "NOTICE"]
    if len(others) < len(found.damaged):
        text = gates.notice_text(terms.load(found.manifest.license))
        write_atomic(found.path / "NOTICE", text.encode())
    return others


def _plan(plan: FetchPlan, entries: Sequence[FileEntry], manifest: Manifest) -> FetchPlan:
    """Only these files, and each exactly as the manifest has it."""
    at_source = {file.path: file for file in plan.files}
    files = []
    for entry in entries:
        if entry.path not in at_source:
            raise NotFoundError(
                f"the source does not have {entry.path} of {manifest.model}",
                hint="give another one with --source and --url",
            )
        files.append(_as_recorded(at_source[entry.path], entry))
    return replace(plan, files=tuple(files))


def _as_recorded(file: RemoteFile, entry: FileEntry) -> RemoteFile:
    return replace(file, size=entry.size, digests={"sha256": entry.sha256}, pinned=True)


def _set_aside(folder: Path, aside: Path, entry: FileEntry) -> None:
    """Turn a damaged file into a partial one; a partial one of an earlier repair is kept."""
    path, target = folder / entry.path, aside / entry.path
    if path.is_symlink() or not path.is_file() or not entry.blocks:
        return
    damaged = set(damaged_blocks(path, entry.blocks))
    states = {
        number: BlockState(min(BLOCK, entry.size - number * BLOCK), int(crc, 16))
        for number, crc in enumerate(entry.blocks)
        if number not in damaged
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    path.replace(target)
    with target.open("r+b") as file:
        file.truncate(entry.size)
    journal = Journal(aside / JOURNALS / f"{entry.path}.journal")
    identity = {"digests": {"sha256": entry.sha256}, "validator": None}
    journal.begin(Recorded(identity, entry.size, states))
    journal.close()
