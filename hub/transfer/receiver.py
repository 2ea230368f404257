"""Receivers: threads that take missing spans of a file and read them from their source."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from isal.isal_zlib import crc32

from llama_hub.errors import IntegrityError, UnreachableError
from llama_hub.files import CHUNK, write_at
from llama_hub.hub.redaction import redact
from llama_hub.hub.transfer.blocks import Coverage, Span, Stopped
from llama_hub.hub.transfer.buffers import Buffers
from llama_hub.hub.transfer.journal import BLOCK
from llama_hub.hub.transfer.remote_file import MAX_UNSIZED, Body, Changed, RemoteFile, Transient
from llama_hub.progress import Progress

FAST = 100 << 20  # bytes a second: one connection that is so fast needs no second
AHEAD = 32 * BLOCK  # bytes that receiving may be ahead of hashing
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


class Intake:
    """One file's connections to its source; used by all of its receivers."""

    def __init__(
        self, file: RemoteFile, policy: Policy, progress: Progress, cancel: Cancel
    ) -> None:
        self.file = file
        self.policy = policy
        self.progress = progress
        self.cancel = cancel
        self.received = 0  # bytes from the source
        self.whole_only = False  # the source does not answer ranges
        self.validator: str | None = None  # of a file without known digests
        self._first: tuple[int, Body] | None = None
        self._bodies: set[Body] = set()
        self._lock = threading.Lock()

    def tries(self) -> Tries:
        """A fresh count of failures."""
        what = f"{self.file.path} from {self.file.request.where}"
        return Tries(what, self.policy, self.cancel, self.progress)

    def open(self, start: int, stop: int | None) -> Body:
        """Ask the source, or take the answer that told the size."""
        with self._lock:
            first, self._first = self._first, None
        if first is not None and first[0] == start:
            return first[1]
        if first is not None:
            self.close(first[1])
        body = self.file.request.open(start, stop, self.validator)
        if self.validator is None and not self.file.digests:
            self.validator = body.validator
        with self._lock:
            self._bodies.add(body)
        return body

    def keep_first(self, start: int, body: Body) -> None:
        """Let the receiver that asks for ``start`` have ``body``."""
        self._first = (start, body)

    def close(self, body: Body) -> None:
        """Done with ``body``."""
        with self._lock:
            self._bodies.discard(body)
        body.close()

    def close_all(self) -> None:
        """Done with everything that is still open."""
        for body in list(self._bodies):
            self.close(body)

    def abort(self) -> None:
        """Wake receivers that wait for their connection."""
        with self._lock:
            for body in self._bodies:
                body.abort()

    def arrived(self, count: int) -> None:
        """Count bytes from the source."""
        with self._lock:
            self.received += count

    def check_size(self, total: int, expected: int | None) -> None:
        """``IntegrityError`` if the source's copy has another size than the file must have."""
        if expected is None and total > self.file.limit:
            raise self._too_large(f"has {total} bytes", self.file.limit)
        if expected not in (None, total):
            raise IntegrityError(
                f"{self.file.path} has {total} bytes at {self.file.request.where}, "
                f"it must have {expected}",
                hint="the source's copy is truncated or another file: try another --source",
            )

    def check_unsized(self, so_far: int) -> None:
        """The same for a body whose length nobody states, while it comes."""
        known = self.file.limit if self.file.size is None else self.file.size
        limit = min(known, MAX_UNSIZED)
        if so_far > limit:
            raise self._too_large(f"does not end after {limit} bytes", limit)

    def _too_large(self, what: str, limit: int) -> IntegrityError:
        return IntegrityError(
            f"{self.file.path} {what} at {self.file.request.where}; it can have at most {limit}",
            hint="the address is wrong, or whoever runs that server means harm: try another",
        )


class Receiver(threading.Thread):
    """Takes missing spans until the whole file is there and hashed."""

    def __init__(
        self, intake: Intake, coverage: Coverage, buffers: Buffers, descriptor: int, number: int
    ) -> None:
        super().__init__(name=f"receive {intake.file.path} {number}", daemon=True)
        self._intake = intake
        self._coverage = coverage
        self._buffers = buffers
        self._descriptor = descriptor
        self._number = number
        self._at = 0

    def run(self) -> None:
        """Work; whatever goes wrong stops the transfer."""
        try:
            self._wait_until_slow()
            while self._wanted() and self._coverage.wait_for_work():
                span = self._coverage.claim(self._limit())
                if span is not None:
                    self._receive(span)
        except Stopped:
            return
        except BaseException as error:
            self._coverage.stop(error)

    def _wait_until_slow(self) -> None:
        """Each further connection comes only when those before it turn out to be slow."""
        ramp = self._intake.policy.ramp
        if not self._number or not ramp:
            return
        rate = FAST
        while rate >= FAST:
            before = self._intake.received
            if self._coverage.wait_done(ramp * self._number):
                return
            rate = int((self._intake.received - before) / (ramp * self._number))

    def _wanted(self) -> bool:
        """One receiver is enough for a source that does not answer ranges."""
        return self._number == 0 or not self._intake.whole_only

    def _limit(self) -> int | None:
        return None if self._intake.whole_only else self._intake.policy.span

    def _receive(self, span: Span) -> None:
        """Read a span to its end, over as many connections as it takes."""
        tries, policy = self._intake.tries(), self._intake.policy
        self._at = span.start
        try:
            while self._at < span.stop and self._wanted():
                begun = self._at
                try:
                    self._read_body(span.stop)
                except Transient as error:
                    tries.failed(error, progressed=self._at - begun >= policy.stall_bytes)
        finally:
            self._coverage.release(span)

    def _read_body(self, stop: int) -> None:
        """Read from one connection as far as it goes."""
        body = self._intake.open(self._at, stop)
        try:
            self._check(body)
            pulse = Pulse(self._intake.policy)
            if not self._skip(body, pulse):
                return
            while self._at < stop:
                self._read_piece(body, pulse)
        finally:
            self._intake.close(body)

    def _check(self, body: Body) -> None:
        total = self._coverage.total
        if body.total in (None, total):
            return
        if not self._intake.file.digests and self._intake.file.size is None:
            raise Changed(self._intake.file.path)
        self._intake.check_size(body.total or 0, total)

    def _skip(self, body: Body, pulse: Pulse) -> bool:
        """Pass over what a source sends too early because it does not answer ranges.

        False if the first receiver should do that alone.
        """
        if body.start == self._at:
            return True
        self._intake.whole_only = True
        if self._number:
            return False
        passed = body.start
        view = memoryview(bytearray(CHUNK))
        while passed < self._at:
            piece = view[: self._at - passed]
            count = pulse.beat(body.readinto(piece))
            self._sniff(body, passed, piece[:count])
            self._intake.arrived(count)
            passed += count
        return True

    def _read_piece(self, body: Body, pulse: Pulse) -> None:
        """Read what has come, at most to the end of the block, and write it at its place."""
        crc, end = self._coverage.position(self._at)
        self._coverage.pace(self._at, AHEAD)
        buffer = self._buffers.take()
        try:
            count = pulse.beat(body.readinto(buffer[: end - self._at]))
            piece = buffer[:count]
            self._sniff(body, self._at, piece)
            crc = crc32(piece, crc)
            write_at(self._descriptor, piece, self._at)
        except BaseException:
            self._buffers.give_back(buffer)
            raise
        self._buffers.offer(self._at, buffer, count)
        self._coverage.wrote(self._at, count, crc)
        self._at += count
        self._intake.arrived(count)
        self._intake.progress.advance(self._intake.file.path, count)

    def _sniff(self, body: Body, offset: int, piece: memoryview) -> None:
        if offset == 0:
            refuse_web_page(self._intake.file, body, piece)


class Tries:
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


_BINARY = (".pth", ".safetensors", ".model", ".gguf", ".bin", ".chk", ".json", ".pdf")


def refuse_web_page(file: RemoteFile, body: Body, beginning: memoryview) -> None:
    """``IntegrityError`` if the first bytes are those of a web page, before any is written."""
    if not file.path.endswith(_BINARY):
        return
    text = bytes(beginning[:64]).lstrip().lower()
    if body.media == "text/html" or text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise IntegrityError(
            f"{file.request.where} answered with a web page instead of {file.path}",
            hint="the address is wrong, has expired, or wants a login: open it in a browser, "
            "and give the one that downloads the file",
        )
