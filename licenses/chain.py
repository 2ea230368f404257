"""An append-only file of JSON lines in which every change by other means shows.

Each line is tied to the one before::

    {"entry": {…}, "number": 2, "previous": "<SHA-256 of line 1 without its line end>"}

A chain alone cannot tell that its last lines are missing, nor that the last one
was edited, so a second file, the head, states how many lines there are and the
digest of the last. An append first announces the digest of the coming line
there, then writes the line, then the new head, each flushed to the disk. What a
crash leaves is therefore one of three things: nothing new, exactly the
announced line (it counts), or a part of it. A part was never acknowledged; the
next append replaces it and says so in its own line, under ``torn``. Anything
else is an ``IntegrityError`` that names the line.

What this cannot show: somebody who may write here and makes a whole new chain
with its head. Against that a digest of the chain has to be kept elsewhere.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from llama_hub.errors import DamagedFileError, IntegrityError, NotFoundError, UsageError
from llama_hub.files import PRIVATE, fsync_folder, locked, private_folder, write_atomic
from llama_hub.strict import FileKind, open_regular, parse_json, read_json

GENESIS = hashlib.sha256(b"llama-hub licence ledger, version 1").hexdigest()
MAX_LINE = 64 << 10  # bytes; a receipt is about one KiB
LINES = FileKind("the licence ledger", max_bytes=MAX_LINE)
HEAD = FileKind("the head of the licence ledger", max_bytes=4096)


@dataclass(frozen=True)
class Content:
    """A chain that holds."""

    entries: tuple[Mapping[str, Any], ...] = ()
    digests: tuple[str, ...] = ()  # SHA-256 of each line
    size: int = 0  # bytes of whole lines
    torn: int = 0  # bytes of an unfinished line after them
    unsealed: bool = False  # whether a crash came between the last line and its head
    repaired: tuple[int, ...] = ()  # numbers of the lines that replaced an unfinished one

    @property
    def head(self) -> str:
        """Digest of the last line; ``GENESIS`` if there is none."""
        return self.digests[-1] if self.digests else GENESIS


@dataclass(frozen=True)
class _Head:
    count: int = 0  # lines
    sha256: str = GENESIS  # of the last one
    coming: str | None = None  # SHA-256 of a line that is being written


class Chain:
    """The chain in ``path``, with its head and its lock file beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._head_path = path.with_suffix(".head")
        self._lock_path = path.with_name(f".{path.name}.lock")

    def read(self) -> Content:
        """Everything in it; ``IntegrityError`` unless each line is as it was written."""
        if not self.path.exists() and not self._head_path.exists():
            return Content()
        with _reading(self._lock_path):
            return self._read(self._read_head())

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add ``entry``: it is on the disk when this returns, whoever else appends."""
        private_folder(self.path.parent)
        with locked(self._lock_path, mode=PRIVATE):
            content = self._read(self._read_head())
            count = len(content.digests)
            line = _line(entry, count + 1, content)
            self._write_head(_Head(count, content.head, coming=_sha256(line)))
            self._write_line(line, content.size)
            self._write_head(_Head(count + 1, _sha256(line)))

    def _read(self, head: _Head) -> Content:
        try:
            with os.fdopen(open_regular(self.path, LINES), "rb") as file:
                return _Reader(file, head, self.path).content()
        except FileNotFoundError as error:
            if head.count:
                raise _broken(self.path, f"it is missing; it had {head.count} lines") from error
            return Content()
        except OSError as error:
            raise _broken(self.path, f"it cannot be read: {error.strerror}") from error

    def _read_head(self) -> _Head:
        name = self._head_path.name
        try:
            head = _Head(**read_json(self._head_path, HEAD))
        except NotFoundError as error:
            if self.path.exists() and self.path.stat().st_size:
                raise _broken(self.path, f"{name}, which states its length, is missing") from error
            return _Head()
        except (DamagedFileError, TypeError) as error:
            raise _broken(self.path, f"{name}, which states its length, was edited") from error
        if type(head.count) is not int or head.count < 0:
            raise _broken(self.path, f"{name}, which states its length, was edited")
        return head

    def _write_head(self, head: _Head) -> None:
        write_atomic(self._head_path, json.dumps(asdict(head)).encode() + b"\n", mode=PRIVATE)

    def _write_line(self, line: bytes, offset: int) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT, PRIVATE)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, PRIVATE)  # earlier versions made it readable by all
            file.seek(offset)
            file.truncate()
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())
        fsync_folder(self.path.parent)


class _Reader:
    """Reads a chain line by line against its head."""

    def __init__(self, file: IO[bytes], head: _Head, path: Path) -> None:
        self._file = file
        self._head = head
        self._path = path
        self._entries: list[Mapping[str, Any]] = []
        self._digests: list[str] = []
        self._repaired: list[int] = []
        self._size = 0

    def content(self) -> Content:
        torn = 0
        while not torn and (line := self._file.readline(MAX_LINE + 1)):
            if self._is_torn(line):
                torn = os.fstat(self._file.fileno()).st_size - self._size
            else:
                self._take(line)
        count = len(self._digests)
        if count < self._head.count:
            raise _broken(self._path, f"lines {count + 1} to {self._head.count} are missing")
        return Content(
            entries=tuple(self._entries),
            digests=tuple(self._digests),
            size=self._size,
            torn=torn,
            unsealed=count > self._head.count,
            repaired=tuple(self._repaired),
        )

    def _is_torn(self, line: bytes) -> bool:
        """Whether ``line`` is what a crash left of the line that the head announces."""
        number = len(self._digests) + 1
        if number <= self._head.count:
            return False
        if number > self._head.count + 1 or self._head.coming is None:
            raise _broken(self._path, f"line {number} was not written by llama-hub")
        return not line.endswith(b"\n") or _sha256(line[:-1]) != self._head.coming

    def _take(self, line: bytes) -> None:
        number = len(self._digests) + 1
        digest = _sha256(line[:-1])
        problem = _problem(line, number, self._digests[-1] if self._digests else GENESIS)
        if not problem and number == self._head.count and digest != self._head.sha256:
            problem = f"line {number}, the last one, or the head was edited"
        if problem:
            raise _broken(self._path, problem)
        document = json.loads(line)
        self._entries.append(document["entry"])
        self._digests.append(digest)
        self._size += len(line)
        if "torn" in document:
            self._repaired.append(number)


def _problem(line: bytes, number: int, previous: str) -> str:
    """What is wrong with line ``number``, which follows the one with digest ``previous``."""
    if len(line) > MAX_LINE or not line.endswith(b"\n"):
        return f"line {number} was edited: it is {'too long' if len(line) > MAX_LINE else 'cut'}"
    try:
        document = parse_json(line, f"line {number}", LINES)
    except DamagedFileError:
        return f"line {number} was edited: it is not JSON"
    if not isinstance(document, dict) or not isinstance(document.get("entry"), dict):
        return f"line {number} was edited: it is no entry of a ledger"
    if document.get("number") != number:
        return f"line {number} was removed, doubled, moved or edited"
    if document.get("previous") != previous:
        changed = (
            f"line {number - 1}, or what line {number} says of it," if number > 1 else "line 1"
        )
        return f"{changed} was edited"
    return ""


def _line(entry: Mapping[str, Any], number: int, known: Content) -> bytes:
    document = {"entry": entry, "number": number, "previous": known.head}
    if known.torn:
        document["torn"] = known.torn
    line = json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    if len(line) >= MAX_LINE:
        raise UsageError(f"an entry of {len(line)} bytes is too long for the ledger")
    return line


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _broken(path: Path, what: str) -> IntegrityError:
    return IntegrityError(
        f"the licence ledger {path} was tampered with: {what}",
        hint=f"restore {path.parent} from a backup, or move it aside as evidence and accept again",
    )


@contextmanager
def _reading(lock: Path) -> Iterator[None]:
    """Keep writers out; works without permission to write, and creates nothing."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:  # a copy of a ledger, to which nobody has written yet
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)
