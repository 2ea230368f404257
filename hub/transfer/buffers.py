"""Buffers that receivers fill and the leading hasher reads while they are still warm.

Without them the hasher would copy every byte from the page cache once more. A piece is only an
offer: if the hasher is late its buffer is used again, and the hasher reads the file.
"""

from __future__ import annotations

import threading

from llama_hub.files import CHUNK

SPARE = 8  # buffers beyond those that receivers are filling


class Buffers:
    """Buffers of CHUNK bytes, bounded in number; all methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made = 0
        self._free: list[memoryview] = []
        self._offered: dict[int, tuple[memoryview, int]] = {}  # file offset → buffer, bytes filled

    def take(self) -> memoryview:
        """A buffer to fill: a free one, else a new one, else that of the oldest offer."""
        with self._lock:
            if self._free:
                return self._free.pop()
            if self._offered and self._made >= SPARE:
                return self._offered.pop(next(iter(self._offered)))[0]
            self._made += 1
            return memoryview(bytearray(CHUNK))

    def offer(self, offset: int, buffer: memoryview, count: int) -> None:
        """The first ``count`` bytes of ``buffer`` are what the file now has at ``offset``."""
        with self._lock:
            replaced = self._offered.pop(offset, None)
            if replaced is not None:
                self._free.append(replaced[0])
            self._offered[offset] = (buffer, count)

    def claim(self, offset: int) -> tuple[memoryview, int] | None:
        """The offer for ``offset``, now the caller's, who gives the buffer back."""
        with self._lock:
            return self._offered.pop(offset, None)

    def give_back(self, buffer: memoryview) -> None:
        """``buffer`` may be filled again."""
        with self._lock:
            self._free.append(buffer)

    def forget(self, start: int, stop: int) -> None:
        """What was offered from ``start`` to ``stop`` is not what the file has any more."""
        with self._lock:
            for offset in [known for known in self._offered if start <= known < stop]:
                self._free.append(self._offered.pop(offset)[0])
