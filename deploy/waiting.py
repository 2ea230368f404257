"""Waiting for a platform, and asking it again: the only place that sleeps.

``clock`` and ``sleep`` are arguments so that tests do not wait in real time.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from llama_hub.errors import ProvisioningError, TransientError

T = TypeVar("T")

RETRIES = 6  # further attempts after a TransientError
FIRST_PAUSE = 1.0  # seconds; doubles with every attempt
LONGEST_PAUSE = 60.0  # seconds
POLL = 5.0  # seconds between two looks at something that takes minutes


def wait_for(
    probe: Callable[[], T | None],
    what: str,
    *,
    timeout: float,
    every: float = POLL,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    why: Callable[[], str] = lambda: "",
) -> T:
    """Call ``probe`` until it returns something, and return that.

    ``timeout`` and ``every`` are seconds. Throttled probes count as "not yet". When the time is
    over a ``ProvisioningError`` names ``what``, and what ``why`` then says.
    """
    begun, paused = clock(), 0.0
    while True:
        pause = every
        try:
            result = probe()
            if result is not None:
                return result
        except TransientError as busy:
            pause = max(every, busy.retry_after or 0.0)
        if max(clock() - begun, paused) + pause > timeout:
            raise _too_late(f"{what} is not there after {timeout:.0f} s", why())
        sleep(pause)
        paused += pause


def _too_late(message: str, why: str) -> ProvisioningError:
    return ProvisioningError(
        f"{message}: {why}" if why else message,
        hint="look at its logs, or give it longer with --timeout",
    )


def until_settled(
    look: Callable[[], T | None],
    is_moving: Callable[[T], bool],
    what: str,
    *,
    timeout: float,
    every: float = POLL,
    sleep: Callable[[float], None] = time.sleep,
) -> T | None:
    """What ``look`` shows once no change of it is under way; ``None`` if it is gone by then."""

    def settled() -> tuple[T | None] | None:
        resource = look()
        return None if resource is not None and is_moving(resource) else (resource,)

    return wait_for(settled, f"a settled {what}", timeout=timeout, every=every, sleep=sleep)[0]


def until_gone(
    look: Callable[[], object | None],
    what: str,
    *,
    timeout: float,
    every: float = POLL,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return when ``look`` shows nothing any more."""
    wait_for(
        lambda: True if look() is None else None,
        f"the end of {what}",
        timeout=timeout,
        every=every,
        sleep=sleep,
    )


def follow(
    look: Callable[[], Sequence[str]],
    shown: Sequence[str],
    *,
    every: float = POLL,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[str]:
    """New lines of a log that can only be read as its newest lines, for ever.

    ``look`` gives those lines, oldest first; ``shown`` are those of the last look. Equal lines
    are told apart by what stands around them: the longest overlap of two looks counts. A look
    that shows nothing (a replica that restarts) is no reason to repeat what was shown.
    """
    while True:
        sleep(every)
        lines = persist(look, sleep=sleep)
        yield from added(shown, lines)
        shown = lines or shown


def added(before: Sequence[str], now: Sequence[str]) -> Sequence[str]:
    """Lines of ``now`` after the last line of ``before``, of which the oldest may be gone."""
    for start in range(len(before)):
        kept = list(before[start:])
        if list(now[: len(kept)]) == kept:
            return now[len(kept) :]
    return now


def persist(
    call: Callable[[], T],
    *,
    retries: int = RETRIES,
    tell: Callable[[str], None] = lambda message: None,
    sleep: Callable[[float], None] = time.sleep,
    jitter: Callable[[], float] = random.random,
) -> T:
    """Call ``call``, again after each ``TransientError`` with growing, jittered pauses."""
    for attempt in range(retries):
        try:
            return call()
        except TransientError as busy:
            pause = pause_after(attempt, busy, jitter())
            tell(f"{busy.message}; again in {pause:.0f} s")
            sleep(pause)
    return call()


def pause_after(attempt: int, busy: TransientError, jitter: float = 1.0) -> float:
    """Seconds before the next attempt: 1, 2, 4 … 60, or longer where the platform says so."""
    grown = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**attempt)
    return max(busy.retry_after or 0.0, grown * (0.5 + jitter / 2))
