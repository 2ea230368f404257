"""The folder in which a conversion puts its output together: one process at a time writes there."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llama_hub.errors import UsageError
from llama_hub.hub.manifest import MANIFEST_NAME


@contextmanager
def exclusive(partial: Path, *, own: bool = False) -> Iterator[None]:
    """Keep other processes out of ``partial``; the lock goes when the process does.

    A folder in which nothing was begun is removed again. What is there already must be an
    unfinished conversion, unless the place is llama-hub's ``own``: all else in it will be deleted.
    ``UsageError`` if it is not.
    """
    descriptor = _locked_folder(partial)
    try:
        if not own and not _is_conversion(partial):
            raise UsageError(
                f"{partial}, where the output is put together, is there and not llama-hub's",
                hint="rename that, or give another destination",
            )
        yield
    finally:
        os.close(descriptor)
        with suppress(OSError):
            partial.rmdir()


_NO_FOLDER = (errno.EEXIST, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)


def _locked_folder(partial: Path) -> int:
    """An open descriptor of the folder, which holds its lock."""
    while True:
        try:
            partial.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:  # another process has just given it its final name
            continue
        except OSError as error:
            if error.errno not in _NO_FOLDER:
                raise
            raise UsageError(
                f"{partial}, where the output is put together, cannot be a folder: "
                f"{error.strerror}",
                hint="give another destination, or rename what is there",
            ) from error
        if _lock(descriptor, partial):
            return descriptor
        os.close(descriptor)


def _lock(descriptor: int, partial: Path) -> bool:
    """Take the lock; ``False`` if the folder meanwhile has another name."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), partial.lstat())
    except FileNotFoundError:
        return False
    except BlockingIOError as error:
        os.close(descriptor)
        raise UsageError(
            f"another conversion is writing {partial}", hint="wait for it, or give another folder"
        ) from error


def _is_conversion(partial: Path) -> bool:
    """Whether all that is there was put there by a conversion."""
    from llama_hub.hub.checkpoints.work_journal import NAME

    names = {path.name for path in partial.iterdir()}
    begun = {name for name in names if name.startswith(f".{NAME}.")}  # a journal being written
    return not names - begun or bool(names & {NAME, MANIFEST_NAME})
