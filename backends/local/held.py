"""The bytes that a local deployment serves, held by the deployment itself.

``service/models/<digest>/`` has the files of one manifest: shared blocks where the file system can
(a clone), else a second name for the same file (a hard link), else a copy. A model that is
downloaded or quantised again gets new files in the store, and one that is removed loses its names
there; neither changes these. A replica that is started again, and a revision that is rolled back
to, therefore serve exactly what was deployed. The folder goes when no revision needs it.

What a hard link does not stop is somebody who writes *into* a file of the store, which llama-hub
itself never does. The files are verified when they are taken, and a service that starts looks
whether they were written since (``hub.unchanged``): it ends rather than serve other bytes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from llama_hub.deploy.backend import Artifact
from llama_hub.errors import DiskFullError, IntegrityError, NotFoundError
from llama_hub.files import PRIVATE, delete, fsync_folder, private_folder, write_atomic
from llama_hub.hub.manifest import MANIFEST_NAME, FileEntry, read
from llama_hub.hub.transfer.linking import FICLONE
from llama_hub.hub.unchanged import NAME as NOTE
from llama_hub.hub.unchanged import check, verify_and_note
from llama_hub.progress import NO_PROGRESS, Progress


def place(service: Path, digest: str) -> Path:
    """Where the deployment in the folder ``service`` holds the model with that manifest digest."""
    return service / "models" / digest.removeprefix("sha256:")


def hold(artifact: Artifact, folder: Path, progress: Progress = NO_PROGRESS) -> None:
    """Make ``folder`` hold what ``artifact`` is, verified; nothing is done if it does already.

    ``IntegrityError`` if the files are not the manifest's, or were replaced meanwhile.
    """
    if _holds(folder, artifact, progress):
        return
    if artifact.folder == folder:  # there is nothing else to take it from
        raise IntegrityError(
            f"{folder} is not what its manifest says, and the store has the model no more",
            hint="download or convert it again, then deploy it",
        )
    aside = folder.with_name(f".{folder.name}.partial")
    for left in (aside, folder):
        delete(left)
    private_folder(aside, folder.parent)
    try:
        with _opened(artifact.folder) as source:
            for entry in artifact.manifest.files:
                _take(source, entry, aside, aside / entry.path)
        write_atomic(aside / MANIFEST_NAME, artifact.manifest.to_text().encode(), mode=PRIVATE)
        verify_and_note(aside, artifact.manifest, progress)
    except BaseException:
        delete(aside)
        raise
    aside.rename(folder)
    fsync_folder(folder.parent)


def _holds(folder: Path, artifact: Artifact, progress: Progress) -> bool:
    """Whether it is all there, and nobody wrote into it since."""
    try:
        if read(folder).digest != artifact.manifest.digest or not (folder / NOTE).is_file():
            return False
        check(folder, artifact.manifest, progress)
    except (IntegrityError, NotFoundError):
        return False
    return True


def release(service: Path, needed: Collection[str]) -> None:
    """Let go of every model that is in none of the folders ``needed``."""
    for folder in (service / "models").glob("*"):
        if str(folder) not in needed:
            delete(folder)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """The folder itself, whatever takes its name while its files are taken one by one."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _take(source: int, entry: FileEntry, top: Path, target: Path) -> None:
    """Give ``target`` the content of one file: cloned, else linked, else copied.

    A link has the file's own rights; who may look into ``top`` decides who reads it here.
    """
    private_folder(target.parent, top)
    try:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(entry.path, flags, dir_fd=source)
    except OSError as error:
        raise _changed(entry, error.strerror or str(error)) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size:
            raise _changed(entry, f"it is no file of {entry.size} bytes")
        if not _clone(descriptor, target) and not _link(source, status, entry, target):
            _copy(descriptor, entry, target)
    finally:
        os.close(descriptor)


def _duplicate(descriptor: int) -> BinaryIO:
    return os.fdopen(os.dup(descriptor), "rb")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _clone(descriptor: int, target: Path) -> bool:
    with open(target, "wb", opener=_private) as output:
        try:
            fcntl.ioctl(output.fileno(), FICLONE, descriptor)
            return True
        except OSError:
            target.unlink()
            return False


def _link(source: int, status: os.stat_result, entry: FileEntry, target: Path) -> bool:
    try:
        os.link(entry.path, target, src_dir_fd=source, follow_symlinks=True)
    except OSError:  # another file system, or another user's file
        return False
    if not os.path.samestat(target.stat(), status):
        raise _changed(entry, "it was replaced while it was taken")
    return True


def _copy(descriptor: int, entry: FileEntry, target: Path) -> None:
    free = shutil.disk_usage(target.parent).free
    try:
        if free < entry.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with _duplicate(descriptor) as content, open(target, "wb", opener=_private) as output:
            shutil.copyfileobj(content, output, 1 << 20)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise DiskFullError(
            f"a deployment keeps its own copy of a model from another file system: {entry.path} "
            f"needs {entry.size / 1e9:.1f} GB, {free / 1e9:.1f} GB are free in {target.parent}",
            hint="LLAMA_HUB_HOME=… on the model's file system shares the files instead",
        ) from error


def _changed(entry: FileEntry, why: str) -> IntegrityError:
    return IntegrityError(
        f"{entry.path} is not the file that the manifest lists: {why}",
        hint="llama-hub verify, then run the command again",
    )
