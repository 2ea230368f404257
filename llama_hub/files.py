"""The few file operations on which every promise of durability rests.

Nothing unverified has its final name: write aside in the same folder, flush to
the disk, rename, flush the folder. Locks are advisory ``flock`` locks, which
the kernel releases when a process dies, so a crash leaves none behind.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from llama_hub.errors import IntegrityError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

CHUNK = 1 << 20  # bytes read at a time
PRIVATE = 0o600  # mode of ledgers, journals, states and logs: for their owner only
PRIVATE_FOLDER = 0o700  # of the folders that hold them

# Bytes written at a time. The kernel sizes the folios of its page cache by the write; from 256 KiB
# on they need contiguous memory that a virtual machine's host must first supply, which took five
# times as long (4.2 GB on ext4 in such a machine: 2 s against 10 s).
WRITE = 128 << 10


def fsync_folder(folder: Path) -> None:
    """Make a rename or a new name in ``folder`` survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private_folder(path: Path, top: Path | None = None) -> None:
    """Make ``path``, readable by its owner only, and so each folder from ``top`` down to it.

    ``top`` is ``path`` or a folder above it; what is above ``top`` is made as the umask says.
    A folder that is there and is ours loses what it granted to others.
    """
    above = [path]
    while top is not None and above[-1] != top:
        above.append(above[-1].parent)
    above[-1].parent.mkdir(parents=True, exist_ok=True)
    for folder in reversed(above):
        folder.mkdir(exist_ok=True, mode=PRIVATE_FOLDER)
        there = folder.stat()
        if there.st_mode & 0o077 and there.st_uid == os.geteuid():
            folder.chmod(PRIVATE_FOLDER)


def write_atomic(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Give ``path`` the content ``data``, whole or not at all; ``mode`` is before the umask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            aside.unlink()
        raise
    fsync_folder(path.parent)


_NO_PLAIN_FILE = {errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO, errno.ENODEV, errno.EACCES}


def open_regular(path: Path) -> int:
    """A descriptor to read ``path``; ``IntegrityError`` unless it is a file of bytes.

    A link is followed. A FIFO would make the reader wait for ever, a device need not end.
    """
    _require_regular(path, path.stat())  # opening a device may already act
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _require_regular(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_regular(path: Path, state: os.stat_result) -> None:
    if not stat.S_ISREG(state.st_mode):
        raise IntegrityError(f"{path} is no file but a folder, a pipe or a device")


def open_own(path: Path, flags: int, mode: int = 0o666, *, shared: bool = False) -> int:
    """A descriptor of a work file that an earlier run may have left at ``path``.

    ``IntegrityError`` unless it is a regular file of this user with this one name: what is written
    must not end up elsewhere, and what is read must not come from elsewhere. ``shared``: it may
    be another user's.
    """
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, mode)
    except OSError as error:
        if error.errno in _NO_PLAIN_FILE and (path.is_symlink() or not path.is_file()):
            raise _not_own(path, "a link, a folder, a pipe or a device") from error
        raise
    state = os.fstat(descriptor)
    problem = _foreign(state, shared)
    if problem:
        os.close(descriptor)
        raise _not_own(path, problem)
    return descriptor


def read_own(path: Path, limit: int) -> bytes:
    """What an earlier run left at ``path``; ``IntegrityError`` as for ``open_own``, or if large."""
    with os.fdopen(open_own(path, os.O_RDONLY), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise IntegrityError(f"{path} is larger than {limit} bytes, the most it may have")
    return data


def _foreign(state: os.stat_result, shared: bool) -> str:
    if not stat.S_ISREG(state.st_mode):
        return "no file but a folder, a pipe or a device"
    if state.st_uid != os.geteuid() and not shared:
        return f"a file of another user (number {state.st_uid})"
    return "a file with a second name elsewhere (a hard link)" if state.st_nlink > 1 else ""


def _not_own(path: Path, what: str) -> IntegrityError:
    return IntegrityError(
        f"{path} should be a file of an earlier run and is {what}; it was not touched",
        hint="find out who put it there, remove it and run the command again",
    )


def write_at(descriptor: int, data: ReadableBuffer, offset: int) -> None:
    """Write all of ``data`` at ``offset`` of an open file."""
    view = memoryview(data).cast("B")
    while view:
        count = os.pwrite(descriptor, view[:WRITE], offset)
        view, offset = view[count:], offset + count


@contextmanager
def locked(path: Path, *, blocking: bool = True, mode: int = 0o666) -> Iterator[None]:
    """Hold the exclusive lock file ``path``; ``BlockingIOError`` if taken and not ``blocking``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = open_own(path, os.O_RDWR | os.O_CREAT, mode, shared=True)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
