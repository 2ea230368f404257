"""Answers of ``http.client`` that cannot go on for ever.

``http.client`` has a timeout for each read, so that a server which sends one byte now and then, or
``100 Continue`` without end, keeps a client for as long as it likes. Here every phase has a number
of bytes on the wire and a time for the whole of it: the head, and each read of the body.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import IO, Any, cast

HEAD_BYTES = 256 << 10  # status line, headers, interim answers, chunk sizes, trailers


class BoundedResponse(http.client.HTTPResponse):
    """An answer whose head takes at most ``HEAD_BYTES`` and the socket's timeout."""

    def __init__(self, sock: socket.socket, *arguments: Any, **more: Any) -> None:
        self._tap = _Tap(sock)
        super().__init__(cast("socket.socket", self._tap), *arguments, **more)
        seconds = sock.gettimeout()
        assert seconds is not None
        self.allow(HEAD_BYTES, seconds)

    def allow(self, count: int, seconds: float) -> None:
        """From here on at most ``count`` bytes, all of them within ``seconds``."""
        self._tap.left = count
        self._tap.deadline = time.monotonic() + seconds

    @property
    def received(self) -> int:
        """Bytes that came over the wire, framing included."""
        return self._tap.received


class _Tap:
    """Stands in for the socket, whose file it hands out with a meter in it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.left = 0
        self.deadline = 0.0
        self.received = 0

    def makefile(self, mode: str) -> IO[bytes]:
        return io.BufferedReader(_Meter(self, self.sock.makefile("rb", buffering=0)))


class _Meter(io.RawIOBase):
    def __init__(self, tap: _Tap, raw: io.RawIOBase | Any) -> None:
        self._tap = tap
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        tap = self._tap
        seconds = tap.deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("it did not come to its end in time")
        if tap.left <= 0:
            raise http.client.HTTPException("the server sends more than such an answer has")
        tap.sock.settimeout(seconds)
        count = self._raw.readinto(buffer)
        tap.received += count or 0
        tap.left -= count or 0
        return cast("int | None", count)

    def close(self) -> None:
        self._raw.close()
        super().close()
