"""Weights on their way into a cloud: what is missing is sent, once, and compared on the way.

A model is uploaded file by file, a large file in parts. What the storage holds already, by
digest, is not sent again, so that a run that was cut off goes on where it stopped; the file's own
SHA-256 is computed as it is read, for whoever joins the parts; the manifest goes last.
How one part is put into place is each storage's own affair.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from llama_hub.errors import IntegrityError
from llama_hub.hub.manifest import FileEntry, Manifest
from llama_hub.progress import Progress

Tell = Callable[[int], None]  # so many bytes more are done


class Hash(Protocol):
    """What ``hashlib`` makes."""

    def update(self, data: bytes, /) -> None:
        """Take more bytes in."""
        ...


def send_model(
    manifest: Manifest,
    progress: Progress,
    is_there: Callable[[FileEntry], bool],
    send: Callable[[Sequence[FileEntry], Tell], int],
    end: str,
) -> dict[str, int]:
    """Send what is missing of ``manifest``; bytes in all, sent, and there before.

    ``is_there``: whether the storage proves that it holds a file. ``send`` sends files and
    whatever closes the upload, and returns how many bytes had to go. ``end``: the last words.
    """
    missing = [entry for entry in manifest.files if not is_there(entry)]
    task = f"upload {manifest.model}"
    done = manifest.bytes - sum(entry.size for entry in missing)
    progress.start(task, manifest.bytes, done=done)
    sent = send(missing, _teller(progress, task))
    progress.finish(task, end)
    return {"bytes": manifest.bytes, "bytes_sent": sent, "bytes_there": manifest.bytes - sent}


def _teller(progress: Progress, task: str) -> Tell:
    lock = threading.Lock()

    def tell(amount: int) -> None:
        with lock:
            progress.advance(task, amount)

    return tell


def part_size(size: int, part: int, most: int) -> int:
    """Bytes of a part, so that ``size`` bytes are ``most`` parts at the most."""
    return max(part, -(-size // most))


def send_parts(
    path: Path,
    size: int,
    is_held: Callable[[int, bytes], bool],
    send: Callable[[int, bytes], None],
    tell: Tell,
    *,
    hashes: Sequence[Hash] = (),
    workers: int,
) -> int:
    """Send the parts of ``path`` that are not held yet, ``workers`` at a time; bytes sent.

    The file is read once, in order, ``size`` bytes a part; ``hashes`` take all of them in. Parts
    are numbered from 0. At most ``workers`` + 1 parts are in memory.
    """
    sent = 0
    with Sending(workers) as sending:
        for number, data in enumerate(pieces(path, size)):
            for digest in hashes:
                digest.update(data)
            if is_held(number, data):
                tell(len(data))
                continue
            sending.add(partial(send, number, data))
            sent += len(data)
    return sent


def pieces(path: Path, size: int) -> Iterator[bytes]:
    """The content of a file, ``size`` bytes at a time."""
    with path.open("rb") as file:
        while data := file.read(size):
            yield data


def damaged(entry: FileEntry, why: str) -> IntegrityError:
    """The error for a file on this machine that is not what its manifest says."""
    return IntegrityError(
        f"{entry.path} is not what the manifest says: {why}; nothing of it was put in place",
        hint="llama-hub verify --repair",
    )


class Sending:
    """A few calls at a time; waits where all workers are busy, so that memory stays bounded."""

    def __init__(self, workers: int) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="upload")
        self._most = workers
        self._running: set[Future[Any]] = set()

    def __enter__(self) -> Sending:
        return self

    def add(self, call: Callable[[], Any]) -> None:
        """Start ``call`` when a worker is free; raises what an earlier one has raised."""
        while len(self._running) >= self._most:
            done, self._running = wait(self._running, return_when=FIRST_COMPLETED)
            for finished in done:
                finished.result()
        self._running.add(self._pool.submit(call))

    def __exit__(self, *problem: object) -> None:
        failed = problem[0] is not None
        self._pool.shutdown(wait=True, cancel_futures=failed)
        if not failed:
            for finished in self._running:
                finished.result()
