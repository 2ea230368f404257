"""Requests that replicas did not survive: the third replica is not risked for them.

When a replica ends by an accident, every request that it was working on, and
those whose clients had just left, are suspects. What was suspected twice is
refused for a while; a request that is answered is suspected no longer.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable

from llama_hub.inference.service.problems import Problem

CRASHES = 2  # after which a request is refused
MEMORY = 600.0  # seconds for which a suspicion lasts
LEFT = 60.0  # seconds for which a request counts whose client has left
KEPT = 4096  # suspicions

Clock = Callable[[], float]


class Workload:
    """The requests, by their digest, that one replica has been given."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._open: Counter[str] = Counter()
        self._left: OrderedDict[str, float] = OrderedDict()  # when the client left

    def begin(self, digest: str) -> None:
        """The replica has all of the request."""
        self._open[digest] += 1

    def end(self, digest: str, *, answered: bool) -> None:
        """It is answered, or the client has left, or the replica said nothing."""
        self._open[digest] -= 1
        if self._open[digest] <= 0:
            del self._open[digest]
        if not answered:
            self._left[digest] = self._clock()
            while len(self._left) > KEPT:
                self._left.popitem(last=False)

    def suspects(self) -> set[str]:
        """What the replica may have ended by, now that it has."""
        since = self._clock() - LEFT
        return set(self._open) | {key for key, left in self._left.items() if left >= since}


class Quarantine:
    """How many replicas ended while they worked on a request."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._crashes: OrderedDict[str, tuple[int, float]] = OrderedDict()  # number, last time

    def record_crash(self, digests: Iterable[str]) -> None:
        """A replica ended while it worked on these."""
        for digest in digests:
            self._crashes[digest] = (self._count(digest) + 1, self._clock())
            self._crashes.move_to_end(digest)
        while len(self._crashes) > KEPT:
            self._crashes.popitem(last=False)

    def clear(self, digest: str) -> None:
        """The request was answered."""
        self._crashes.pop(digest, None)

    def check(self, digest: str) -> None:
        """Raise ``Problem`` (503) for a request that is not sent again."""
        if self._count(digest) >= CRASHES:
            raise Problem(
                503,
                f"this request was sent {CRASHES} times, and each time the replica that worked on "
                f"it ended; it is not sent again for {MEMORY / 60:.0f} minutes: llama-hub logs "
                "tells why",
                kind="service_unavailable",
                code="quarantined",
                headers={"x-should-retry": "false"},
            )

    def _count(self, digest: str) -> int:
        number, last = self._crashes.get(digest, (0, 0.0))
        return number if self._clock() - last <= MEMORY else 0
