"""Receivers: threads that take missing spans of a file and read them from their source."""

from __future__ import annotations

import threading

from isal.isal_zlib import crc32

from llama_hub.errors import IntegrityError
from llama_hub.files import CHUNK, write_at
from llama_hub.hub.transfer.blocks import Coverage, Span, Stopped
from llama_hub.hub.transfer.buffers import Buffers
from llama_hub.hub.transfer.connection import Connection
from llama_hub.hub.transfer.journal import BLOCK
from llama_hub.hub.transfer.remote_file import Body, Changed, RemoteFile, Transient
from llama_hub.hub.transfer.retry import Pulse

FAST = 100 << 20  # bytes a second: one connection that is so fast needs no second
AHEAD = 32 * BLOCK  # bytes that receiving may be ahead of hashing


class Receiver(threading.Thread):
    """Takes missing spans until the whole file is there and hashed."""

    def __init__(
        self,
        connection: Connection,
        coverage: Coverage,
        buffers: Buffers,
        descriptor: int,
        number: int,
    ) -> None:
        super().__init__(name=f"receive {connection.file.path} {number}", daemon=True)
        self._intake = connection
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
