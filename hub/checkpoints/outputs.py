"""The output files of a conversion: made at full size, written by offset, checked, hashed."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from isal.isal_zlib import crc32

from llama_hub.errors import IntegrityError
from llama_hub.files import CHUNK, open_own, write_at
from llama_hub.hub.checkpoints.blueprint import Blueprint, Extent, FilePlan

FLUSH_SECONDS = 0.5  # between two flushes while the files are being written


class Outputs:
    """The output files, made at their full size so that a full disk is met at once."""

    def __init__(self, files: Sequence[FilePlan], folder: Path) -> None:
        self.files = files
        self.folder = folder
        self.descriptors: list[int] = []
        self._ending = threading.Event()
        self._flusher = ThreadPoolExecutor(1, thread_name_prefix="flush")
        self._flushing: Future[None] | None = None

    def __enter__(self) -> Outputs:
        for file in self.files:
            path = self.folder / file.name
            descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
            self.descriptors.append(descriptor)
            reserve(descriptor, file.size)
            for offset, content in file.fixed:
                write_at(descriptor, content, offset)
        self._flushing = self._flusher.submit(self._flush)
        return self

    def _flush(self) -> None:
        """Send to the disk what has been written, so that little is left to wait for at the end."""
        while not self._ending.wait(FLUSH_SECONDS):
            for descriptor in self.descriptors:
                os.fsync(descriptor)

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._flusher.shutdown()
        for descriptor in self.descriptors:
            os.close(descriptor)

    def write_trailers(self, crcs: dict[str, tuple[int, ...]]) -> None:
        """The last bytes of files that state checksums of their tensors."""
        for number, file in enumerate(self.files):
            if file.trailer is not None and file.trailer_at is not None:
                content = file.trailer({name: crc[number] for name, crc in crcs.items()})
                write_at(self.descriptors[number], content, file.trailer_at)

    def sync(self) -> None:
        """Flush everything to the disk; an error that was met before is raised here."""
        self._ending.set()
        if self._flushing is not None:
            self._flushing.result()
        for descriptor in self.descriptors:
            os.fsync(descriptor)


def reserve(descriptor: int, size: int) -> None:
    """Give a file its size and, where the system can, its disk space."""
    os.ftruncate(descriptor, size)
    if not hasattr(os, "posix_fallocate") or not size:
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise


def seal(place: Extent, crc: int, outputs: Outputs) -> None:
    """Write what depends on the checksum of a place."""
    if place.seal is not None:
        offset, content = place.seal(crc)
        write_at(outputs.descriptors[place.file], content, offset)


def read_at(descriptor: int, into: npt.NDArray[np.uint8], offset: int) -> None:
    """Fill ``into`` from ``offset``; the file has its full size.

    ``IntegrityError`` if it was cut short meanwhile.
    """
    view = into.data
    while view:
        count = os.preadv(descriptor, [view], offset)
        if count == 0:
            raise IntegrityError("an output file was cut short by somebody else")
        view, offset = view[count:], offset + count


class Sum:
    """A checksum of what was written to a place, however it was cut into blocks.

    The sum of its machine words modulo 2**64 (many times faster than a hash, enough to notice
    pages that never reached the disk), and the CRC-32 where the file format wants one.
    """

    def __init__(self, place: Extent) -> None:
        self.total = 0
        self.crc = 0
        self._seal = place.seal is not None
        width = next(width for width in (8, 4, 2, 1) if place.row_bytes % width == 0)
        self._word = np.dtype(f"<u{width}")

    def add(self, data: npt.NDArray[Any]) -> None:
        """Whole rows."""
        words = data.reshape(-1).view(np.uint8).view(self._word)
        self.total = (self.total + int(np.add.reduce(words, dtype=np.uint64))) % (1 << 64)
        if self._seal:
            self.crc = crc32(data.data, self.crc)


@dataclass(frozen=True)
class _Span:
    """What a place takes of a file: bytes ``start`` to ``end``."""

    end: int
    start: int
    tensor: str


class FileHasher:
    """Hashes one output file from front to end.

    What is written right at its position is hashed from memory on the way; the rest from the
    page cache, as far as its tensors are complete.
    """

    def __init__(
        self, blueprint: Blueprint, number: int, outputs: Outputs, is_done: Callable[[str], bool]
    ) -> None:
        """``is_done`` tells whether a tensor is written; ``number``: of the file."""
        self._descriptor = outputs.descriptors[number]
        self._is_done = is_done
        self._size = blueprint.files[number].size
        self._hashes = [hashlib.sha256()]
        if blueprint.md5:
            self._hashes.append(hashlib.md5(usedforsecurity=False))
        self._spans = _spans(blueprint, number)  # the next is the last
        self._at = 0
        self._lock = threading.Lock()

    def offer(self, place: Extent, offset: int, data: memoryview) -> None:
        """``data`` was written at ``offset``: hash it if the file is hashed up to there.

        Not where a checksum that comes later is written before the data.
        """
        if place.seal is not None or not self._lock.acquire(blocking=False):
            return
        try:
            if not self._spans or self._spans[-1].start != place.offset:
                return
            if offset == place.offset:
                self._hash_to(offset)  # what lies between two tensors is there from the start
            if offset == self._at:
                self._update(data)
        finally:
            self._lock.release()

    def advance(self, stop: threading.Event, *, to_the_end: bool) -> None:
        """Hash on, unless another worker is at it."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            while self._spans and self._is_done(self._spans[-1].tensor):
                self._hash_to(self._spans.pop().end, stop)
            if to_the_end:
                self._hash_to(self._size, stop)
        finally:
            self._lock.release()

    @property
    def sha256(self) -> str:
        """Of the whole file, in hexadecimal."""
        return self._hashes[0].hexdigest()

    @property
    def md5(self) -> str | None:
        """Of the whole file, where it is wanted."""
        return self._hashes[1].hexdigest() if len(self._hashes) > 1 else None

    def _hash_to(self, end: int, stop: threading.Event | None = None) -> None:
        buffer = np.empty(min(CHUNK, max(0, end - self._at)), np.uint8)
        while self._at < end and not (stop and stop.is_set()):
            piece = buffer[: end - self._at]
            read_at(self._descriptor, piece, self._at)
            self._update(piece.data)

    def _update(self, data: memoryview) -> None:
        for one in self._hashes:
            one.update(data)
        self._at += data.nbytes


def _spans(blueprint: Blueprint, number: int) -> list[_Span]:
    """Every place in a file, the last one first."""
    return sorted(
        (
            _Span(place.offset + portion.rows * place.row_bytes, place.offset, plan.spec.name)
            for plan in blueprint.tensors
            for portion in plan.portions
            for place in portion.places
            if place.file == number
        ),
        key=lambda span: -span.end,
    )
