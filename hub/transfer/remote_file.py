"""A remote file: where its bytes can be read from, one range at a time.

The transfer engine knows only these two protocols; HTTP and S3 have modules of
their own, local folders and bytes in memory are here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from llama_hub.errors import IntegrityError, NotFoundError
from llama_hub.files import CHUNK, open_regular
from llama_hub.hub.relative_path import relative_path

MAX_FILE = 1 << 40  # bytes; Llama 2 70B in float32 is 276 GB
MAX_UNSIZED = 1 << 36  # bytes of a file of which nobody said how large it is
SMALL_SECONDS = 30.0  # for the whole of a small file, and ...
SMALL_RATE = 16 << 10  # ... a second more for so many bytes that have come


class Body(Protocol):
    """The bytes of one range, being read."""

    start: int  # offset of the first byte in the file; may be smaller than asked
    total: int | None  # size of the whole file, where the other side says it
    validator: str | None  # changes when the file at the source changes
    media: str  # media type, or empty

    def readinto(self, view: memoryview) -> int:
        """Fill some of ``view``; 0 at the end. Returns as soon as anything has arrived."""

    def abort(self) -> None:
        """Wake a thread that is waiting in ``readinto``; may be called from any thread."""

    def close(self) -> None:
        """Done with it; the connection is kept if everything was read."""


class Request(Protocol):
    """How to get one file's bytes."""

    @property
    def where(self) -> str:
        """The place for a message, without secrets."""

    def open(self, start: int, stop: int | None, validator: str | None = None) -> Body:
        """Bytes ``start`` to ``stop`` (exclusive; ``None``: to the end).

        Raises ``Transient`` for what may go better next time, ``Changed`` if the file is not the
        one with ``validator`` any more, and a ``LlamaHubError`` for what will not.
        """


@dataclass(frozen=True)
class RemoteFile:
    """One file of a model at a source."""

    path: str  # in the model's folder
    request: Request
    size: int | None = None  # bytes, where known beforehand
    digests: Mapping[str, str] = field(default_factory=dict)  # md5, sha256, git-sha1 → hexadecimal
    pinned: bool = False  # a digest was known to us, not sent along with the data
    limit: int = MAX_FILE  # bytes that it has at most, where its size is not known beforehand
    local: Path | None = None  # what claims to be the same on this machine; hashed before it counts

    def __post_init__(self) -> None:
        try:
            relative_path(self.path)
        except ValueError as error:  # no source says where on this machine its files go
            raise IntegrityError(f"{self.request.where} has a wrong name: {error}") from error


class Transient(Exception):
    """Trying again may help.

    ``wait``: seconds the other side asks us to wait; ``tries``: after how many it is hopeless.
    """

    def __init__(
        self, message: str, wait: float | None = None, *, tries: int | None = None
    ) -> None:
        super().__init__(message)
        self.wait = wait
        self.tries = tries


def stated_size(where: str, total: int) -> int:
    """``total`` bytes, unless no file has so many: ``IntegrityError``."""
    if not 0 <= total <= MAX_FILE:
        raise IntegrityError(
            f"{where} claims to have {total} bytes, which no file of a model has",
            hint="the address is wrong, or whoever runs that server means harm: try another",
        )
    return total


class Changed(Exception):
    """The file at the source is not the one that the transfer began with."""


@dataclass(frozen=True)
class FolderRequest:
    """A file on this machine."""

    path: Path

    @property
    def where(self) -> str:
        """The path."""
        return str(self.path)

    def open(self, start: int, stop: int | None, validator: str | None = None) -> Body:
        """Read the file from ``start``.

        ``NotFoundError`` if it is not there, ``Changed`` if it is another than ``validator`` says.
        """
        try:
            descriptor = open_regular(self.path)
        except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: NUL
            raise NotFoundError(f"there is no file {self.path}") from error
        state = os.fstat(descriptor)
        current = f"{state.st_size}-{state.st_mtime_ns}"
        if validator is not None and validator != current:
            os.close(descriptor)
            raise Changed(str(self.path))
        return _FileBody(descriptor, start, stop, state.st_size, current)


class _FileBody:
    def __init__(
        self, descriptor: int, start: int, stop: int | None, total: int, validator: str
    ) -> None:
        self._descriptor = descriptor
        self._at = self.start = start
        self._stop = total if stop is None else min(stop, total)
        self.total: int | None = total
        self.validator: str | None = validator
        self.media = ""

    def readinto(self, view: memoryview) -> int:
        count = os.preadv(self._descriptor, [view[: max(0, self._stop - self._at)]], self._at)
        self._at += count
        return count

    def abort(self) -> None:
        pass

    def close(self) -> None:
        os.close(self._descriptor)


@dataclass(frozen=True)
class BytesRequest:
    """Bytes that were already fetched, such as the licence that was shown before."""

    data: bytes = field(repr=False)
    where: str

    def open(self, start: int, stop: int | None, validator: str | None = None) -> Body:
        """Read the bytes from ``start``."""
        return _BytesBody(self.data, start, stop)


class _BytesBody:
    def __init__(self, data: bytes, start: int, stop: int | None) -> None:
        self._left = memoryview(data)[start:stop]
        self.start = start
        self.total: int | None = len(data)
        self.validator: str | None = None
        self.media = ""

    def readinto(self, view: memoryview) -> int:
        count = min(len(view), len(self._left))
        view[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def abort(self) -> None:
        pass

    def close(self) -> None:
        self._left = self._left[:0]


def read_all(request: Request, limit: int, seconds: float = SMALL_SECONDS) -> bytes:
    """The whole of a small file, at most ``limit`` bytes; one try, no resume.

    ``Transient`` if it breaks off.
    """
    begun = time.monotonic()
    try:
        body = request.open(0, None)
    except Changed as error:
        raise Transient(f"{request.where} is said to end before it begins", tries=2) from error
    try:
        if body.total is not None and body.total > limit:
            raise _too_large(request, limit)
        data = _read_within(body, limit, begun + seconds)
    finally:
        body.close()
    if len(data) > limit:
        raise _too_large(request, limit)
    if body.total is not None and len(data) < body.total - body.start:
        raise Transient(f"{request.where} broke off after {len(data)} of {body.total} bytes")
    return data


def _too_large(request: Request, limit: int) -> IntegrityError:
    return IntegrityError(
        f"{request.where} is larger than the {limit} bytes that such a file has",
        hint="the address is wrong, or whoever runs that server means harm: try another",
    )


def _read_within(body: Body, limit: int, deadline: float) -> bytes:
    """All of ``body``, but no more than one byte beyond ``limit``."""
    data, view = bytearray(), memoryview(bytearray(min(CHUNK, limit + 1)))
    while count := body.readinto(view[: limit + 1 - len(data)]):
        data += view[:count]
        if time.monotonic() > deadline + len(data) / SMALL_RATE:
            raise Transient(f"only {len(data)} bytes came in time", tries=2)
    return bytes(data)
