"""The limit of sequences that are let in."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakValueDictionary

from llama_hub.inference.service.client import CLIENT
from llama_hub.inference.service.problems import invalid, overloaded, unavailable

PACE = 0.002  # seconds from one request to the next: five hundred in a second
REST = 0.01  # seconds more, at most, where the event loop was busy
SPARE = 8  # one in so many places is kept for clients that have fewer than half


class Admission:
    """Counts the sequences in the house and refuses those for which there is no room.

    ``at_once``: sequences that decode together; ``queue``: how many more may wait. The last of the
    places (one in ``SPARE``) are not for a client that has more than half of them already: whoever
    comes then still finds room.
    """

    def __init__(self, at_once: Callable[[], int], queue: int, seconds: Callable[[], float]):
        self._at_once = at_once
        self._queue = queue
        self._seconds = seconds  # mean duration of an answer lately
        self._draining = False
        self._empty = asyncio.Event()
        self._empty.set()
        self._of_client: Counter[str] = Counter()
        self.sequences = 0

    @contextmanager
    def admit(self, sequences: int) -> Iterator[None]:
        """Hold places for ``sequences``; 400, 429 or 503 if there are none."""
        self.check(sequences)
        client = CLIENT.get()
        self.sequences += sequences
        self._of_client[client] += sequences
        self._empty.clear()
        try:
            yield
        finally:
            self.sequences -= sequences
            self._of_client[client] -= sequences
            if not self._of_client[client]:
                del self._of_client[client]
            if not self.sequences:
                self._empty.set()

    def check(self, sequences: int) -> None:
        """400, 429 or 503 if there are no places for ``sequences``: before work on a request."""
        if self._draining:
            raise unavailable("the server is shutting down")
        room = self._at_once() + self._queue
        if sequences > room:
            raise invalid(f"{sequences} sequences in one request; at most {room} fit the server")
        if self.sequences + sequences > room:
            raise overloaded(
                f"the queue is full: {self.sequences} sequences are being answered or waiting, "
                f"at most {room} may",
                self._retry_after(),
            )
        own = self._of_client[CLIENT.get()] + sequences
        if 2 * own > room and self.sequences + sequences > room - room // SPARE:
            raise overloaded(
                f"{own - sequences} sequences of this client are being answered or waiting; the "
                f"last {room // SPARE} of {room} places are kept for others",
                self._retry_after(),
            )

    def _retry_after(self) -> int:
        rounds = self.sequences / max(1, self._at_once())
        return max(1, min(60, math.ceil(rounds * self._seconds() / 2)))

    @property
    def draining(self) -> bool:
        """Whether nothing new is let in."""
        return self._draining

    def drain(self) -> None:
        """Let nothing new in from now on."""
        self._draining = True

    async def emptied(self) -> None:
        """Return when the last sequence has left."""
        await self._empty.wait()


class Pacer:
    """Lets one request pass in each round of the event loop, and some milliseconds after another.

    Hundreds that arrive at the same moment are prepared one by one, with what else has come in
    between them: a question for health waits for one of them, not for all. The engine's thread
    computes meanwhile: it needs Python's lock, which a loop without pauses hardly lets go of.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._of_client: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._next = 0.0  # the loop's time before which nobody passes

    async def next_round(self) -> None:
        """Return when it is the caller's turn; one request of each client waits among all."""
        own = self._of_client.setdefault(CLIENT.get(), asyncio.Lock())
        async with own, self._lock:
            time = asyncio.get_running_loop().time
            waits = self._next > time()
            await asyncio.sleep(max(0.0, self._next - time()))
            if waits:  # the later it wakes, the busier the loop was: it rests for as long
                await asyncio.sleep(min(time() - self._next, REST))
            self._next = time() + PACE
