"""Hashers: threads behind the receivers that hash the file as it grows, and flush it.

The leading hasher (SHA-256) also checks the blocks that an earlier run left. Other algorithms
follow it in threads of their own, so that two digests cost the time of the slower one.
"""

from __future__ import annotations

import os
import threading

from isal.isal_zlib import crc32

from llama_hub.errors import IntegrityError
from llama_hub.files import CHUNK
from llama_hub.hub import digests
from llama_hub.hub.transfer.blocks import Coverage, Stopped
from llama_hub.hub.transfer.buffers import Buffers
from llama_hub.hub.transfer.journal import BLOCK, Journal
from llama_hub.progress import Progress

FLUSH_EVERY = 4 * BLOCK  # bytes between two flushes to the disk
PULSE = 0.2  # seconds between two looks at whether to flush


class Hasher(threading.Thread):
    """Follows one file with one algorithm."""

    def __init__(
        self,
        path: str,
        descriptor: int,
        coverage: Coverage,
        buffers: Buffers,
        algorithm: str,
        progress: Progress,
    ) -> None:
        super().__init__(name=f"{algorithm} {path}", daemon=True)
        self.algorithm = algorithm
        self.hexdigest = ""
        self.at = 0  # bytes hashed
        self._path = path
        self._descriptor = descriptor
        self._coverage = coverage
        self._buffers = buffers
        self._progress = progress
        self._leads = algorithm == "sha256"
        self._view = memoryview(bytearray(CHUNK))

    def run(self) -> None:
        """Hash to the end of the file; whatever goes wrong stops the transfer."""
        try:
            state = digests.new(self.algorithm, self._coverage.total)
            while self.at < self._coverage.total:
                state = self._check_block(state) if self._is_inherited() else self._follow(state)
            self.hexdigest = state.hexdigest()
        except Stopped:
            return
        except BaseException as error:
            self._coverage.stop(error)

    def _is_inherited(self) -> bool:
        return self._leads and self._coverage.inherited(self.at // BLOCK)

    def _follow(self, state: digests.Hash) -> digests.Hash:
        """Hash what is there of the block that begins or goes on at ``at``."""
        coverage = self._coverage
        wait = coverage.wait_beyond if self._leads else coverage.wait_hashed_beyond
        stop = min(wait(self.at), (self.at // BLOCK + 1) * BLOCK)
        while self.at < stop:
            self._take_in(state, stop)
            if self._leads:
                coverage.hashed(self.at)
        return state

    def _take_in(self, state: digests.Hash, stop: int) -> None:
        """Hash one piece: the buffer that a receiver has just filled, or else from the file."""
        warm = self._buffers.claim(self.at) if self._leads else None
        if warm is None:
            state.update(self._read(stop))
            return
        buffer, count = warm
        state.update(buffer[:count])
        self.at += count
        self._buffers.give_back(buffer)

    def _check_block(self, state: digests.Hash) -> digests.Hash:
        """Hash one block that an earlier run began; forget it if the journal says otherwise."""
        number, start, before, crc = self.at // BLOCK, self.at, state.copy(), 0
        end = min(start + BLOCK, self._coverage.total)
        self._coverage.wait_beyond(end - 1)
        while self.at < end:
            piece = self._read(end)
            state.update(piece)
            crc = crc32(piece, crc)
        if crc == self._coverage.crc(number):
            self._coverage.hashed(end)
            return state
        self._progress.advance(self._path, start - end)
        self._buffers.forget(start, end)
        self._coverage.distrust(number)
        self.at = start
        return before

    def _read(self, stop: int) -> memoryview:
        piece = self._view[: stop - self.at]
        piece = piece[: os.preadv(self._descriptor, [piece], self.at)]
        if not piece:
            raise IntegrityError(f"{self._path} was cut by someone else while it was written")
        self.at += len(piece)
        return piece


class JournalFlusher(threading.Thread):
    """Flushes data and then journal now and again, and keeps the page cache small."""

    def __init__(
        self, descriptor: int, coverage: Coverage, journal: Journal, hashers: list[Hasher]
    ) -> None:
        super().__init__(name="keeper", daemon=True)
        self._descriptor = descriptor
        self._coverage = coverage
        self._journal = journal
        self._hashers = hashers
        self._finished = threading.Event()

    def finish(self) -> None:
        """Flush a last time and end."""
        self._finished.set()
        if self.ident is not None:
            self.join()

    def run(self) -> None:
        """Flush until finished."""
        flushed = 0
        while not self._finished.wait(PULSE):
            have = self._coverage.have
            if have - flushed >= FLUSH_EVERY:
                self._flush()
                flushed = have
        self._flush()

    def _flush(self) -> None:
        try:
            getattr(os, "fdatasync", os.fsync)(self._descriptor)  # macOS has no fdatasync
            self._journal.sync()
            hashed = min(hasher.at for hasher in self._hashers)
            digests.drop_cache(self._descriptor, 0, hashed)
        except OSError as error:
            self._coverage.stop(error)
