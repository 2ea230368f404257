"""A queue of bodies to parse: one at a time, small ones before large ones that came with them.

A parser holds Python's lock for as long as it works, so two at once are no quicker and everybody
else waits for both. Each body is due after a time that grows with its size, and what is due first
is parsed first: a small one passes the large ones that arrived a moment before, and no large one
is passed for ever. The bodies of one client are due one after another (its small ones apart from
its large ones), so that many of them do not stand before another client's first.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

SMALL = 1 << 18  # bytes: parsed within a few milliseconds
EACH = 0.001  # seconds that each body of a client is due after its last
RATE = 1 << 24  # bytes a second that it is due at besides
REST = 0.1  # seconds, at most, between two large bodies


@dataclass(order=True)
class _Waiting:
    due: float  # the loop's time
    number: int  # the order of arrival decides between equals
    granted: asyncio.Future[None] = field(compare=False)


class ParseQueue:
    """Gives one body at a time its turn."""

    def __init__(self) -> None:
        self._small: list[_Waiting] = []  # a heap
        self._large: list[_Waiting] = []
        self._due: dict[tuple[str, bool], float] = {}  # of a client's small and of its large ones
        self._number = 0
        self._busy = False
        self._rests_until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def turn(self, client: str, size: int) -> AsyncIterator[None]:
        """Until the block ends, nothing else is parsed.

        After a large body, the next large one waits for as long as it took: answers under way have
        half of the time at least, whatever comes in.
        """
        loop = asyncio.get_running_loop()
        waiting = self._enqueue(loop, client, size)
        self._grant()
        try:
            await waiting.granted
        except asyncio.CancelledError:
            if waiting.granted.done() and not waiting.granted.cancelled():
                self._release()  # it was granted in the same moment
            raise
        begun = loop.time()
        try:
            yield
        finally:
            if size > SMALL:
                now = loop.time()
                self._rests_until = now + min(now - begun, REST)
            self._release()

    def _enqueue(self, loop: asyncio.AbstractEventLoop, client: str, size: int) -> _Waiting:
        now, kind = loop.time(), (client, size > SMALL)
        self._due = {name: due for name, due in self._due.items() if due > now}
        self._due[kind] = max(now, self._due.get(kind, now)) + EACH + size / RATE
        self._number += 1
        waiting = _Waiting(self._due[kind], self._number, loop.create_future())
        heapq.heappush(self._large if size > SMALL else self._small, waiting)
        return waiting

    def _release(self) -> None:
        self._busy = False
        self._grant()

    def _grant(self) -> None:
        """Give the next body its turn; nothing while one has it, no large one in a rest."""
        while not self._busy and (waiting := self._next()):
            if not waiting.granted.done():  # else its request has ended
                waiting.granted.set_result(None)
                self._busy = True

    def _next(self) -> _Waiting | None:
        loop = asyncio.get_running_loop()
        rests = self._rests_until - loop.time()
        if self._small and (rests > 0 or not self._large or self._small[0] < self._large[0]):
            return heapq.heappop(self._small)
        if not self._large:
            return None
        if rests <= 0:
            return heapq.heappop(self._large)
        if self._timer is None or self._timer.when() <= loop.time():
            self._timer = loop.call_at(self._rests_until, self._grant)
        return None
