"""The repair of a model folder: only damaged blocks are fetched, from the manifest's source.

A damaged file loses its final name first. It becomes a partial download whose journal lists the
blocks that are right, so that the transfer engine fetches the others and checks the whole.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from llama_hub.errors import IntegrityError, NotFoundError, UsageError
from llama_hub.files import fsync_folder, locked, write_atomic
from llama_hub.hub.catalog import Model
from llama_hub.hub.digests import damaged_blocks
from llama_hub.hub.manifest import FileEntry, Manifest
from llama_hub.hub.relative_path import regular_file
from llama_hub.hub.sources.agreement import OWN
from llama_hub.hub.sources.base import FetchPlan, Source
from llama_hub.hub.transfer.fetch import JOURNALS
from llama_hub.hub.transfer.fetch_all import fetch_all
from llama_hub.hub.transfer.journal import BLOCK, BlockState, Journal, Recorded
from llama_hub.hub.transfer.remote_file import RemoteFile
from llama_hub.hub.verify import FileCheck, Verification
from llama_hub.licenses import gate as gates
from llama_hub.licenses import terms
from llama_hub.licenses.ledger import text_digests
from llama_hub.progress import NO_PROGRESS, Progress


def repair(
    found: Verification, model: Model, source: Source, *, progress: Progress = NO_PROGRESS
) -> int:
    """Mend what ``found`` says is damaged; returns the bytes that came from the source."""
    gates.Gate().require(found.manifest.license)
    aside = _aside(found.path)
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
            _put_in_place(aside / entry.path, found.path, entry)
        shutil.rmtree(aside)
        return sum(one.received for one in fetched)


def _aside(folder: Path) -> Path:
    """Where damaged files are mended: beside the folder, in one that only repairs have used."""
    aside = folder.with_name(f".{folder.name}.repair")
    used = aside.is_dir() and ((aside / JOURNALS).is_dir() or not any(aside.iterdir()))
    if aside.is_symlink() or (aside.exists() and not used):
        raise UsageError(
            f"{aside}, where the files would be repaired, exists and not llama-hub's",
            hint="rename that, then repair again",
        )
    return aside


def _put_in_place(mended: Path, folder: Path, entry: FileEntry) -> None:
    """Give a mended file its name, in the folder and nowhere else."""
    target = folder / entry.path
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise IntegrityError(
            f"{target.parent} leads out of the folder, so nothing is written there",
            hint="remove that link, then repair again",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        mended.replace(target)
    except IsADirectoryError as error:
        raise IntegrityError(
            f"{target} is a folder and stands in a file's place", hint="rename it, repair again"
        ) from error
    fsync_folder(target.parent)


def _rewrite_own(found: Verification) -> list[FileCheck]:
    """Write what needs no source: NOTICE, and the texts of the receipt; the other damaged files."""
    others = []
    for check in found.damaged:
        if check.path == "NOTICE":
            data: bytes | None = gates.notice_text(terms.load(found.manifest.license)).encode()
        else:
            data = _accepted_text(found.manifest, check.path)
        if data is None:
            others.append(check)
        else:
            write_atomic(found.path / check.path, data)
    return others


def _accepted_text(manifest: Manifest, name: str) -> bytes | None:
    """The file as it was accepted: where the model did not hand it out, no source has it."""
    if name not in ("LICENSE", "USE_POLICY.md"):
        return None
    wanted, ledger = manifest.file(name).sha256, gates.Gate().ledger
    with suppress(IntegrityError):  # a text that is missing or altered may be at the source
        for receipt in ledger.receipts():
            for digest in text_digests(receipt) if receipt.id == manifest.receipt else ():
                data = ledger.text(digest).encode()
                if hashlib.sha256(data).hexdigest() == wanted:
                    return data
    return None


def _plan(plan: FetchPlan, entries: Sequence[FileEntry], manifest: Manifest) -> FetchPlan:
    """Only these files, and each exactly as the manifest has it."""
    at_source = {file.path: file for file in plan.files}
    if "LICENSE" in at_source:
        at_source.setdefault(OWN, replace(at_source["LICENSE"], path=OWN))
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


def _is_plain(folder: Path, path: str) -> bool:
    try:
        return not regular_file(folder, path) and not (folder / path).is_symlink()
    except FileNotFoundError:
        return False


def _set_aside(folder: Path, aside: Path, entry: FileEntry) -> None:
    """Turn a damaged file into a partial one; a partial one of an earlier repair is kept.

    What is no regular file of the folder stays and is fetched whole. A file that has a second
    name, elsewhere or in a deployment, is mended in a copy.
    """
    path, target = folder / entry.path, aside / entry.path
    if not entry.blocks or not _is_plain(folder, entry.path):
        return
    damaged = set(damaged_blocks(path, entry.blocks))
    states = {
        number: BlockState(min(BLOCK, entry.size - number * BLOCK), int(crc, 16))
        for number, crc in enumerate(entry.blocks)
        if number not in damaged
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.stat().st_nlink > 1:
        shutil.copyfile(path, target)
        path.unlink()
    else:
        path.replace(target)
    with target.open("r+b") as file:
        file.truncate(entry.size)
    journal = Journal(aside / JOURNALS / f"{entry.path}.journal")
    identity = {"digests": {"sha256": entry.sha256}, "validator": None}
    journal.begin(Recorded(identity, entry.size, states))
    journal.close()
