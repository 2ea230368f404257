"""The logs of a local deployment: rotated by the supervisor, read by whoever asks."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path

from llama_hub.errors import IntegrityError
from llama_hub.files import keep_regular, open_regular

LOG_BYTES = 10 << 20  # of one log file
LOG_FILES = 4  # older ones that are kept
FOLLOW = 0.2  # seconds between two looks


def rotating(path: Path, line: str = "%(message)s") -> logging.Handler:
    """Writes to ``path``; never raises, not even where the disk is full."""
    for part in _parts(path):
        keep_regular(part)  # a FIFO would make the writer wait for ever
    handler = _Log(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter(line))
    return handler


class _Log(RotatingFileHandler):
    """Goes on in a new file where somebody has moved or replaced the one it writes."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or lose it: what is logged is never worth the end of a deployment."""
        try:
            if self.stream is not None and not self._is_mine(self.stream.fileno()):
                self.close()
                self.stream = None
            if self.stream is None:
                keep_regular(Path(self.baseFilename))
        except OSError:
            self.handleError(record)
        super().emit(record)

    def _is_mine(self, descriptor: int) -> bool:
        """Whether the name still leads to the open file."""
        try:
            there = os.lstat(self.baseFilename)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(descriptor))


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log and of the older files behind it; what is no log is passed over."""
    lines: list[str] = []
    for part in _parts(path):
        if len(lines) >= count:
            break
        lines = _text(part, max(0, _size(part) - LOG_BYTES)).splitlines() + lines
    return lines[-count:] if count else []


def follow(path: Path, is_there: Callable[[], bool]) -> Iterator[str]:
    """New lines as they come, across rotation, until the deployment is no longer there."""
    offset, rest = _size(path), ""
    while is_there():
        size = _size(path)
        if size < offset:
            offset = 0  # rotated
        if size == offset:
            time.sleep(FOLLOW)
            continue
        text = rest + _text(path, offset)
        offset = size
        *lines, rest = text.split("\n")
        yield from lines


def _parts(path: Path) -> list[Path]:
    """The log and its older files, youngest first."""
    return [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, LOG_FILES + 1))]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _text(path: Path, start: int) -> str:
    """What stands in the file from byte ``start`` on; empty if it is none."""
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            file.seek(start)
            return file.read(_size(path) - start).decode("utf-8", "replace")
    except (OSError, IntegrityError, ValueError):
        return ""
