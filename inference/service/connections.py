"""Connections with an end: deadlines for a request's head and for a client that does not read.

uvicorn closes a connection that idles after an answer. It waits without end for the first byte,
for the rest of a head, for the rest of a body that nobody reads, and for a client that does not
take its answer. Here each of these has a deadline, and there are only so many connections: when
one too many comes, that which has kept us waiting longest makes room.

(A body's deadline is ``body.read_json``'s, which answers in the route's own shape.)
"""

from __future__ import annotations

import asyncio
import resource
from collections import deque
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from llama_hub.inference.service.chunks import is_too_fine
from llama_hub.inference.service.settings import ServiceSettings

LINGER = 2.0  # seconds for which the rest of a refused body is dropped, so that the answer arrives
SLICE = 1 << 10  # bytes that are parsed in one go: 170 chunks of one byte, a millisecond
MANY = 16  # chunks in a slice: before the next one of this kind others, and the engine, go on
PAUSE = 0.002  # seconds between two slices with so many
BODY_SLICE = 1 << 16  # the same of a body without chunks, which is only copied
MAX_HEAD = 1 << 15  # bytes of a request's line and headers
OTHER_FILES = 128  # descriptors that are not connections
TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 2\r\n"
    b"Content-Length: 0\r\n\r\n"
)


class Connections:
    """The connections of one server; an instance makes uvicorn's protocols."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self.limit = min(settings.max_connections, _descriptors() - OTHER_FILES)
        self._open: set[Connection] = set()
        self._waiting: dict[Connection, None] = {}  # for their clients, the longest first
        self._coarse, self._fine = _Turns(0.0), _Turns(PAUSE)

    def __call__(self, **given: Any) -> Connection:
        return Connection(self, **given)

    def __len__(self) -> int:
        return len(self._open)

    def opened(self, connection: Connection) -> None:
        """Count a new connection; where it is one too many, another is cut off, or it itself."""
        if len(self._open) >= self.limit:
            if not self._waiting:
                connection.refuse(FULL)
                return
            self._drop(next(iter(self._waiting)))
        self._open.add(connection)
        self.waits(connection)

    def _drop(self, connection: Connection) -> None:
        self.closed(connection)
        connection.transport.abort()

    def waits(self, connection: Connection) -> None:
        """Note that a connection waits for its client from now on, unless it did before."""
        if connection in self._open:
            self._waiting.setdefault(connection)

    def works(self, connection: Connection) -> None:
        """Note that a connection's request is whole and being answered."""
        self._waiting.pop(connection, None)

    def parse_soon(self, connection: Connection) -> None:
        """Have a connection parse a slice: one of all of them in each round of the event loop."""
        (self._fine if connection.is_fine else self._coarse).add(connection)

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self._open.discard(connection)
        self._waiting.pop(connection, None)


class _Turns:
    """Connections that parse a slice one after the other, ``pause`` seconds apart."""

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self._queue: deque[Connection] = deque()

    def add(self, connection: Connection) -> None:
        """Let ``connection`` have its turn after those that wait for theirs."""
        self._queue.append(connection)
        if len(self._queue) == 1:
            self._wait(connection.loop)

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._pause:
            loop.call_later(self._pause, self._take)
        else:
            loop.call_soon(self._take)

    def _take(self) -> None:
        connection = self._queue.popleft()
        if self._queue:
            self._wait(connection.loop)
        connection.parse_slice()


class _Parser(h11.Connection):
    """h11's state of one connection, which takes no body that is cut too fine."""

    trouble = ""  # what was wrong with the request, where h11 itself would have taken it
    chunks = 0  # of the body so far
    _size = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self.chunks = self._size = 0
        elif isinstance(event, h11.Data):
            self.chunks += event.chunk_end
            self._size += len(event.data)
            if is_too_fine(self._size, self.chunks):
                self.trouble = "The body comes in too many small chunks."
                raise h11.RemoteProtocolError(self.trouble)
        return event


class Connection(H11Protocol):
    """One connection."""

    def __init__(self, connections: Connections, **given: Any) -> None:
        super().__init__(**given)
        self.conn = self._parser = _Parser(h11.SERVER, MAX_HEAD)
        self._connections = connections
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self.is_fine = False  # what came last has many chunks, each as costly as a request
        self._unparsed = bytearray()
        self._queued = False  # for a slice of it to be parsed

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm("head", self._connections.settings.head_timeout, self._head_is_late)
        self._connections.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        for name in list(self._timers):
            self._disarm(name)
        self._connections.closed(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._unparsed or len(data) > self._slice():
            self._unparsed += data
            self.transport.pause_reading()
            self._parse_soon()
        else:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        before = self._parser.chunks
        super().data_received(data)
        self.is_fine = self._parser.chunks > before + MANY
        self._note_stage()

    def _slice(self) -> int:
        """How many bytes may be parsed in one go."""
        if self._is_sending_body() and (b"transfer-encoding", b"chunked") not in self.headers:
            return BODY_SLICE
        return SLICE

    def _parse_soon(self) -> None:
        if self._unparsed and not self._queued:
            self._queued = True
            self._connections.parse_soon(self)

    def parse_slice(self) -> None:
        """Parse a little of what came."""
        self._queued = False
        if self.transport.is_closing():
            self._unparsed.clear()
            return
        if self._is_answering() and not self.cycle.more_body:
            return  # a pipelined request waits for the end of this one
        size = self._slice()
        data = bytes(self._unparsed[:size])
        del self._unparsed[:size]
        self._parse(data)
        self._parse_soon()
        if not self._unparsed and not self.flow.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._parse_soon()
        self._connections.waits(self)
        if not self.transport.is_closing():
            self._note_stage()
            if self._is_sending_body() and not self._is_answering():
                self._arm("linger", LINGER, self.transport.close)

    def pause_writing(self) -> None:
        self._arm("write", self._connections.settings.write_timeout, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        self._disarm("write")
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(self._parser.trouble or msg)
        else:  # the answer to it has begun
            self.transport.close()

    def refuse(self, answer: bytes) -> None:
        """Say ``answer`` and close."""
        self.transport.write(answer)
        self.transport.close()

    def _note_stage(self) -> None:
        """After events: what is waited for now, and until when."""
        if self._is_answering():
            self._disarm("head")
            if not self.cycle.more_body:
                self._connections.works(self)
        elif not self._is_sending_body():
            self._disarm("linger")
            if self.timeout_keep_alive_task is None:  # a next request has begun
                timeout = self._connections.settings.head_timeout
                self._arm("head", timeout, self._head_is_late)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _is_sending_body(self) -> bool:
        return bool(self.conn.their_state is h11.SEND_BODY)

    def _head_is_late(self) -> None:
        if self.conn.trailing_data[0]:
            self.refuse(TIMEOUT)
        else:
            self.transport.close()

    def _arm(self, name: str, seconds: float, action: Callable[[], None]) -> None:
        """Start a timer unless it runs: what comes drop by drop does not put it off."""
        if name not in self._timers:
            self._timers[name] = self.loop.call_later(seconds, action)

    def _disarm(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()


def _descriptors() -> int:
    """How many files this process may have open, after asking for as many as it is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1 << 14 if hard == resource.RLIM_INFINITY else min(hard, 1 << 14)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):  # some systems promise more than they give
            return soft
        return wanted
    return wanted if soft == resource.RLIM_INFINITY else soft
