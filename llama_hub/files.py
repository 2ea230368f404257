"""The few file operations on which every promise of durability rests.

Nothing unverified has its final name: write aside in the same folder, flush to
the disk, rename, flush the folder. Locks are advisory ``flock`` locks, which
the kernel releases when a process dies, so a crash leaves none behind.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from llama_hub.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

CHUNK = 1 << 20  # bytes read at a time
PRIVATE = 0o600  # mode of ledgers, journals, states and logs: for their owner only
FULL = (errno.ENOSPC, errno.EDQUOT)  # a disk or a quota
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


def _require_replaceable(path: Path) -> None:
    """Root's rename would put a file in the place of ``/dev/null`` or ``/dev/stdout``."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    top, below = (*path.absolute().parts[1:3], "", "")[:2]
    system = top in ("proc", "sys") or (top == "dev" and below != "shm")
    if system or stat.S_ISDIR(mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise UsageError(f"{path} is a folder or a device", hint="name a file")


def write_atomic(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Give ``path`` the content ``data``, whole or not at all; ``mode`` is before the umask.

    ``UsageError`` for a folder or a device.
    """
    _require_replaceable(path)
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
        state = os.fstat(descriptor)
        _require_regular(path, state)
        if state.st_size == 0 and _gives_bytes(descriptor):
            raise IntegrityError(f"{path} is no file of bytes but one that the system makes up")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _gives_bytes(descriptor: int) -> bool:
    """Whether a file that states no size has content, or would wait for some: /proc and /sys."""
    try:
        return os.read(descriptor, 1) != b""
    except OSError:  # BlockingIOError: /proc/kmsg
        return True


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


def exchange(first: Path, second: Path) -> None:
    """Swap two names in one step, whatever they name; ``OSError`` where the system cannot.

    renameat2(2) with RENAME_EXCHANGE on Linux, renamex_np(2) with RENAME_SWAP on macOS. A kernel,
    C library or file system without it (NFS, some network disks) says ENOSYS or EINVAL.
    """
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(first), os.fsencode(second)
    try:
        if sys.platform == "darwin":
            failed = library.renamex_np(*names, _SWAP)
        else:
            failed = library.renameat2(_HERE, names[0], _HERE, names[1], _SWAP)
    except AttributeError as error:  # the C library does not have it
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from error
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(first), None, str(second))


_SWAP = 2  # RENAME_EXCHANGE of linux/fs.h, RENAME_SWAP of macOS's sys/stdio.h
_HERE = -100  # AT_FDCWD: paths are relative to the present folder


def delete(path: Path) -> None:
    """Delete a file, a link or a whole folder; a link's target is not touched."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_at(descriptor: int, data: ReadableBuffer, offset: int) -> None:
    """Write all of ``data`` at ``offset`` of an open file."""
    view = memoryview(data).cast("B")
    while view:
        count = os.pwrite(descriptor, view[:WRITE], offset)
        view, offset = view[count:], offset + count


@contextmanager
def locked(path: Path, *, blocking: bool = True, mode: int = 0o666) -> Iterator[None]:
    """Hold the exclusive lock file ``path``; ``BlockingIOError`` if taken and not ``blocking``.

    ``IntegrityError`` if somebody put a link there: what it leads to is not ours to make.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = open_own(path, os.O_RDWR | os.O_CREAT, mode, shared=True)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


@contextmanager
def private_lock(path: Path, *, blocking: bool = True) -> Iterator[None]:
    """``locked`` for the owner only; what cannot be a lock file is set aside."""
    try:
        lock = locked(path, blocking=blocking, mode=PRIVATE)
        lock.__enter__()
    except IntegrityError:
        set_aside(path)
        lock = locked(path, blocking=blocking, mode=PRIVATE)
        lock.__enter__()
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock file ``path``; nothing is created."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def set_aside(path: Path) -> Path | None:
    """Give what stands at ``path`` the name ``….damaged``; ``None`` if nothing does.

    What was set aside earlier makes room, so damage does not pile up.
    """
    aside = path.with_name(f"{path.name}.damaged")
    if not os.path.lexists(path):
        return None
    delete(aside)
    path.rename(aside)
    return aside


def keep_regular(path: Path) -> None:
    """Set ``path`` aside if it is there and not a file of bytes, so that it can be written."""
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            set_aside(path)


def keep_folder(path: Path) -> None:
    """Set ``path`` aside if it is there and not a folder, so that one can be made."""
    if os.path.lexists(path) and not path.is_dir():
        set_aside(path)


def write_state(path: Path, data: bytes) -> None:
    """``write_atomic`` for the owner only, for small files that must be written whatever happens.

    A folder or a link in its place is set aside. Where the disk is full, the file that is there is
    overwritten in place, which takes no new space as long as ``data`` is no longer; a crash may
    then leave a mixture, so ``data`` has to carry a digest of itself.
    """
    keep_regular(path)
    try:
        write_atomic(path, data, mode=PRIVATE)
    except OSError as error:
        if error.errno not in FULL:
            raise
        _overwrite(path, data, error)


def _overwrite(path: Path, data: bytes, full: OSError) -> None:
    try:
        descriptor = open_own(path, os.O_WRONLY)
    except (FileNotFoundError, IntegrityError):
        raise full from None
    try:
        if os.fstat(descriptor).st_size < len(data):
            raise full
        write_at(descriptor, data, 0)
        os.ftruncate(descriptor, len(data))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
