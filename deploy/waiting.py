"""Waiting for a platform, and asking it again: the only place that sleeps.

``clock`` and ``sleep`` are arguments so that tests do not wait in real time.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from llama_hub.errors import ProvisioningError, TransientError

T = TypeVar("T")

RETRIES = 6  # further attempts after a TransientError
FIRST_PAUSE = 1.0  # seconds; doubles with every attempt
LONGEST_PAUSE = 60.0  # seconds


def wait_for(
    probe: Callable[[], T | None],
    what: str,
    *,
    timeout: float,
    every: float = 5.0,
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
            found = probe()
            if found is not None:
                return found
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
            pause = _pause(attempt, busy, jitter())
            tell(f"{busy.message}; again in {pause:.0f} s")
            sleep(pause)
    return call()


def _pause(attempt: int, busy: TransientError, jitter: float) -> float:
    grown = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**attempt)
    return max(busy.retry_after or 0.0, grown * (0.5 + jitter / 2))
