"""The blocks of one file that are there already: state that receivers and hashers share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from llama_hub.hub.transfer.journal import BLOCK, BlockState, Journal, Recorded

STEP = 1 << 20  # bytes of a block between two journal lines: what SIGKILL costs each connection


@dataclass(frozen=True)
class Span:
    """Bytes ``start`` to ``stop`` (exclusive) that one receiver has taken on."""

    start: int
    stop: int


class Stopped(Exception):
    """The transfer was ended from another thread."""


class Coverage:
    """Blocks of a file of known size; each is filled from its beginning by one receiver at a time.

    All methods may be called from any thread.
    """

    def __init__(self, recorded: Recorded, journal: Journal) -> None:
        self.total = recorded.total
        self._journal = journal
        self._states = [
            recorded.blocks.get(number, BlockState())
            for number in range((self.total + BLOCK - 1) // BLOCK)
        ]
        self._written = [state.have for state in self._states]  # as the journal has it
        self._inherited = {number for number, state in enumerate(self._states) if state.have}
        self._claimed: set[int] = set()
        self._changed = threading.Condition()
        self._front = 0
        self._hashed = 0
        self._stopped: BaseException | None = None
        self._stop_actions: list[Callable[[], None]] = []
        self._advance_front()

    # What receivers do

    def claim(self, limit: int | None) -> Span | None:
        """The first missing bytes that nobody has taken on, at most ``limit``; ``None`` if none."""
        with self._changed:
            self._raise_if_stopped()
            for number in range(self._front // BLOCK, len(self._states)):
                if number not in self._claimed and not self._is_full(number):
                    return self._claim_from(number, limit)
            return None

    def _claim_from(self, first: int, limit: int | None) -> Span:
        start = first * BLOCK + self._states[first].have
        number = first
        while True:
            self._claimed.add(number)
            stop = self._end(number)
            number += 1
            if number >= len(self._states) or number in self._claimed or self._states[number].have:
                break
            if limit is not None and stop - start + BLOCK > limit:
                break
        return Span(start, stop)

    def release(self, span: Span) -> None:
        """Give back what was claimed; what was received of it stays."""
        with self._changed:
            for number in range(span.start // BLOCK, (span.stop + BLOCK - 1) // BLOCK):
                self._claimed.discard(number)
                self._note(number)
            self._changed.notify_all()

    def position(self, offset: int) -> tuple[int, int]:
        """For the block that has ``offset``: its running CRC-32 and where it ends."""
        self._raise_if_stopped()
        number = offset // BLOCK
        return self._states[number].crc, self._end(number)

    def wrote(self, offset: int, count: int, crc: int) -> None:
        """``count`` bytes at ``offset`` are in the file; ``crc`` is that of the block so far."""
        number = offset // BLOCK
        with self._changed:
            state = self._states[number]
            state.have += count
            state.crc = crc
            if self._is_full(number):
                self._claimed.discard(number)
            if self._is_full(number) or state.have - self._written[number] >= STEP:
                self._note(number)
            self._advance_front()
            self._changed.notify_all()

    def pace(self, offset: int, ahead: int) -> None:
        """Wait while ``offset`` is more than ``ahead`` bytes beyond what has been hashed."""
        if offset - self._hashed <= ahead:
            return
        with self._changed:
            while offset - self._hashed > ahead:
                self._raise_if_stopped()
                self._changed.wait()

    def wait_for_work(self) -> bool:
        """Wait until something can be claimed; False once every byte is there and hashed."""
        with self._changed:
            while self._hashed < self.total:
                self._raise_if_stopped()
                if any(
                    number not in self._claimed and not self._is_full(number)
                    for number in range(self._front // BLOCK, len(self._states))
                ):
                    return True
                self._changed.wait()
            return False

    def wait_done(self, seconds: float) -> bool:
        """Wait so long at most; whether every byte is there."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopped is not None or self._front == self.total, seconds
            )
            self._raise_if_stopped()
            return self._front == self.total

    # What hashers do

    def wait_beyond(self, offset: int) -> int:
        """Wait until the file is there without a gap from its beginning to beyond ``offset``."""
        with self._changed:
            while self._front <= offset < self.total:
                self._raise_if_stopped()
                self._changed.wait()
            self._raise_if_stopped()
            return self._front

    def wait_hashed_beyond(self, offset: int) -> int:
        """Wait until the leading hasher has confirmed the file to beyond ``offset``."""
        with self._changed:
            while self._hashed <= offset < self.total:
                self._raise_if_stopped()
                self._changed.wait()
            self._raise_if_stopped()
            return self._hashed

    def hashed(self, offset: int) -> None:
        """The leading hasher has confirmed everything before ``offset``."""
        with self._changed:
            self._hashed = offset
            self._changed.notify_all()

    def inherited(self, number: int) -> bool:
        """Whether bytes of the block come from an earlier run, so that they must be checked."""
        return number in self._inherited

    def crc(self, number: int) -> int:
        """CRC-32 of the block so far."""
        return self._states[number].crc

    def distrust(self, number: int) -> None:
        """The block's bytes are not those that the journal speaks of: it has to come again."""
        with self._changed:
            self._states[number] = BlockState()
            self._inherited.discard(number)
            self._note(number)
            self._front = min(self._front, number * BLOCK)
            self._changed.notify_all()

    # For everyone

    @property
    def have(self) -> int:
        """Bytes that are there."""
        with self._changed:
            return sum(state.have for state in self._states)

    @property
    def blocks(self) -> tuple[str, ...]:
        """CRC-32 of each block, 8 hexadecimal digits; of a complete file."""
        return tuple(f"{state.crc:08x}" for state in self._states)

    def stop(self, reason: BaseException) -> None:
        """Make every thread that works on the file raise ``Stopped``; the first reason counts."""
        with self._changed:
            self._stopped = self._stopped or reason
            self._changed.notify_all()
            actions = list(self._stop_actions)
        for action in actions:
            action()

    def on_stop(self, action: Callable[[], None]) -> None:
        """Call ``action`` too when the transfer is stopped; at once if it is already."""
        with self._changed:
            self._stop_actions.append(action)
            stopped = self._stopped is not None
        if stopped:
            action()

    @property
    def stopped(self) -> BaseException | None:
        """Why the transfer was ended, if it was."""
        return self._stopped

    def _raise_if_stopped(self) -> None:
        if self._stopped is not None:
            raise Stopped from self._stopped

    def _end(self, number: int) -> int:
        return min((number + 1) * BLOCK, self.total)

    def _is_full(self, number: int) -> bool:
        return self._states[number].have == self._end(number) - number * BLOCK

    def _advance_front(self) -> None:
        number = self._front // BLOCK
        while number < len(self._states) and self._is_full(number):
            number += 1
        partly = self._states[number].have if number < len(self._states) else 0
        self._front = min(number * BLOCK + partly, self.total)

    def _note(self, number: int) -> None:
        if self._states[number].have != self._written[number]:
            self._journal.add(number, self._states[number])
            self._written[number] = self._states[number].have
