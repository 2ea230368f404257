"""Failures of a transfer: how often to try again, how long to wait, when to give up."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from llama_hub.errors import UnreachableError
from llama_hub.hub.redaction import redact
from llama_hub.hub.transfer.blocks import Stopped
from llama_hub.hub.transfer.journal import BLOCK
from llama_hub.hub.transfer.remote_file import Transient
from llama_hub.progress import Progress

T = TypeVar("T")


@dataclass(frozen=True)
class Policy:
    """How a source wants to be asked."""

    connections: int = 4  # for one file, where the first alone is slow
    span: int | None = 4 * BLOCK  # bytes asked for at a time; None: all that is missing
    attempts: int = 8  # tries without getting anything new
    patient: bool = True  # a try that got something does not count
    backoff: float = 0.5  # seconds before the second try, doubled each time
    longest_wait: float = 60.0  # seconds
    ramp: float = 0.5  # seconds in which the connections so far may show that they are enough
    stall_seconds: float = 30.0  # the time over which ...
    stall_bytes: int = 32 << 10  # ... at least this much has to arrive
    retry_damaged: bool = True  # fetch a file once more if its digest is wrong
    finish_others: bool = False  # when one file fails, let those under way come to their end


class TransferError(UnreachableError):
    """The network or the other side failed again and again; what came is kept."""


class Cancel:
    """Stops every transfer of a download, from whatever thread."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._actions: list[Callable[[BaseException], None]] = []

    def set(self, reason: BaseException) -> None:
        """Stop what is going on and what will begin."""
        self._event.set()
        with self._lock:
            actions = list(self._actions)
        for action in actions:
            action(reason)

    @property
    def is_set(self) -> bool:
        """Whether nothing new should begin."""
        return self._event.is_set()

    def sleep(self, seconds: float) -> None:
        """Wait; ``Stopped`` if the download is cancelled meanwhile."""
        if self._event.wait(seconds):
            raise Stopped

    @contextmanager
    def watching(self, action: Callable[[BaseException], None]) -> Iterator[None]:
        """Call ``action`` with the reason when the download is cancelled."""
        with self._lock:
            self._actions.append(action)
        try:
            if self.is_set:
                action(Stopped())
            yield
        finally:
            with self._lock:
                self._actions.remove(action)


class RetryState:
    """Counts failures in a row, and waits longer after each."""

    def __init__(self, what: str, policy: Policy, cancel: Cancel, progress: Progress) -> None:
        self._what = what
        self._policy = policy
        self._cancel = cancel
        self._progress = progress
        self._failures = 0

    def failed(self, error: Transient, *, progressed: bool = False) -> None:
        """Wait before the next try, or give up with ``TransferError``."""
        policy = self._policy
        if progressed and policy.patient:
            self._failures = 0
        self._failures += 1
        if self._failures >= (error.tries or policy.attempts):
            raise TransferError(
                f"{self._what}: {redact(error)} (tried {self._failures} times)",
                hint="what came so far is kept: run the command again to continue",
            ) from error
        wait = policy.backoff * 2 ** (self._failures - 1) * random.uniform(0.75, 1.25)
        wait = error.wait if error.wait is not None else wait
        wait = min(wait, policy.longest_wait)
        self._progress.say(f"{self._what}: {redact(error)}; trying again in {wait:.0f} s")
        self._cancel.sleep(wait)

    def until_done(self, action: Callable[[], T]) -> T:
        """Try ``action`` until it works or the tries are used up."""
        while True:
            try:
                return action()
            except Transient as error:
                self.failed(error)


class Pulse:
    """Notices a connection that has stopped, or that only drips."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._since = time.monotonic()
        self._bytes = 0

    def beat(self, count: int) -> int:
        """``count`` bytes have arrived; ``Transient`` if it was the end or too little for long."""
        if count == 0:
            raise Transient("the connection was closed before the end")
        self._bytes += count
        now = time.monotonic()
        if now - self._since >= self._policy.stall_seconds:
            if self._bytes < self._policy.stall_bytes:
                raise Transient(f"only {self._bytes} bytes came in {now - self._since:.0f} seconds")
            self._since, self._bytes = now, 0
        return count
