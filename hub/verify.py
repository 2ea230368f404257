"""Verification of a model folder against its manifest: offline, on all cores, block by block."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

from llama_hub.hub import gguf_file, release_items
from llama_hub.hub.digests import damaged_blocks, hash_file
from llama_hub.hub.manifest import MANIFEST_NAME, FileEntry, Manifest, read
from llama_hub.hub.relative_path import regular_file
from llama_hub.progress import NO_PROGRESS, Progress

Status = Literal["ok", "missing", "size", "damaged", "extra"]
TASK = "verify"
MAX_FILE = 1 << 40  # bytes; a 70B model as float32 in one file has 280 GB
MAX_EXTRA = 1000  # files that are named; a model has a few dozen
PATIENCE = 60.0  # seconds
SLOWEST = 256 << 10  # bytes a second, of a file that is still waited for


@dataclass(frozen=True)
class FileCheck:
    """What was found of one file."""

    path: str
    status: Status
    blocks: tuple[int, ...] = ()  # numbers of the damaged blocks, where they can be told
    detail: str = ""


@dataclass(frozen=True)
class Verification:
    """What was found of a folder."""

    path: Path
    manifest: Manifest
    files: tuple[FileCheck, ...]
    tensors: int | None = None  # how many were read, if asked for
    damaged_tensors: tuple[str, ...] = ()  # their bytes are not those that the manifest states

    @property
    def damaged(self) -> tuple[FileCheck, ...]:
        """The files that are not as they should be; extra files are not among them."""
        return tuple(file for file in self.files if file.status not in ("ok", "extra"))

    @property
    def ok(self) -> bool:
        """Whether everything that the manifest lists is there and right."""
        return not self.damaged and not self.damaged_tensors


def verify(folder: Path, *, deep: bool = False, progress: Progress = NO_PROGRESS) -> Verification:
    """Check every file of ``folder``, or those that belong to a GGUF file; ``deep``: every
    tensor's canonical digest too.

    ``IntegrityError`` only if the manifest itself was edited; everything else is in the result.
    """
    named, folder = folder, folder if folder.is_dir() else folder.parent
    manifest = read(named) if named.is_dir() else gguf_file.described(named)
    progress.start(TASK, manifest.bytes)
    entries = sorted(manifest.files, key=lambda entry: -entry.size)  # the longest first

    def check(entry: FileEntry) -> FileCheck:
        return check_file(folder, entry, lambda count: progress.advance(TASK, count))

    with ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:
        checks = list(pool.map(check, entries))
    if named.is_dir():
        checks += [FileCheck(path, "extra") for path in extra_files(folder, manifest)]
    verification = Verification(
        named, manifest, tuple(sorted(checks, key=lambda check: check.path))
    )
    if deep and verification.ok:
        verification = _check_tensors(verification, progress)
    progress.finish(TASK, "ok" if verification.ok else "DAMAGED")
    return verification


def check_file(
    folder: Path, entry: FileEntry, advance: Callable[[int], None] = lambda count: None
) -> FileCheck:
    """Compare one file with its entry; a second pass finds the blocks, if it is damaged."""
    try:
        problem = regular_file(folder, entry.path)
        if problem:
            return FileCheck(entry.path, "damaged", detail=problem)
        return _compare(folder / entry.path, entry, _in_time(entry.size, advance))
    except FileNotFoundError:
        return FileCheck(entry.path, "missing")
    except OSError as error:  # a disk that cannot read a sector, or not in time
        return FileCheck(entry.path, "damaged", detail=f"cannot be read: {error.strerror}")


def _compare(path: Path, entry: FileEntry, advance: Callable[[int], None]) -> FileCheck:
    size = path.stat().st_size
    if size > MAX_FILE:
        return FileCheck(entry.path, "size", detail=f"{size} bytes are no file of a model")
    if size == entry.size:
        hashed = hash_file(path, blocks=False, limit=size, advance=advance)
        if hashed.digests["sha256"] == entry.sha256:
            return FileCheck(entry.path, "ok")
    blocks = tuple(damaged_blocks(path, entry.blocks)) if entry.blocks else ()
    if size == entry.size:
        return FileCheck(entry.path, "damaged", blocks)
    return FileCheck(entry.path, "size", blocks, f"{size} bytes instead of {entry.size}")


def _in_time(size: int, advance: Callable[[int], None]) -> Callable[[int], None]:
    """``advance``, which gives up on a file that comes slower than any disk or network."""
    end = time.monotonic() + PATIENCE + size / SLOWEST

    def tell(count: int) -> None:
        if time.monotonic() > end:
            raise TimeoutError(errno.ETIMEDOUT, f"slower than {SLOWEST >> 10} KiB a second")
        advance(count)

    return tell


def extra_files(folder: Path, manifest: Manifest) -> list[str]:
    """Files in the folder that the manifest does not list; the first ``MAX_EXTRA`` of them."""
    listed = {entry.path for entry in manifest.files} | {MANIFEST_NAME}
    extras = (
        name
        for name in _names(folder)
        if name not in listed and not release_items.is_ours(name, listed)
    )
    return sorted(islice(extras, MAX_EXTRA))


def _names(folder: Path) -> Iterator[str]:
    """Every regular file below the folder, through no link."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            if path.is_file():
                yield path.relative_to(folder).as_posix()


def _check_tensors(found: Verification, progress: Progress) -> Verification:
    """Read every tensor as an engine would; compare where the manifest says what it must be."""
    from llama_hub.hub.checkpoints.fingerprint import tensor_entries

    expected = {entry.name: entry for entry in found.manifest.tensors}
    computed = {entry.name: entry for entry in tensor_entries(found.path, progress=progress)}
    names = (
        sorted(set(expected) | set(computed)) if expected else ()  # a download states no tensors
    )
    wrong = tuple(name for name in names if expected.get(name) != computed.get(name))
    return replace(found, tensors=len(computed), damaged_tensors=wrong)
