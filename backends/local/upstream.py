"""A replica as the proxy sees it: a port that takes one request on each connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import h11

from llama_hub.backends.local.http1 import MAX_HEAD, PIECE
from llama_hub.backends.local.quarantine import Workload

CONNECT = 2.0  # seconds; it is this machine


class NotSentError(Exception):
    """No connection: the replica cannot know of the request, so another may have it."""


class ReplicaEndedError(Exception):
    """The replica closed before its answer was whole."""


@dataclass(eq=False)
class Upstream:
    """A replica that takes requests."""

    port: int
    in_flight: int = 0
    taken: int = 0  # requests so far, so that idle replicas take turns
    workload: Workload = field(default_factory=Workload)


class UpstreamConnection:
    """One request to a replica, and its answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)

    async def send(self, *events: h11.Event) -> None:
        """Send parts of the request; ``OSError`` when the replica has closed."""
        for event in events:
            self._writer.write(self._http.send(event) or b"")
        await self._writer.drain()

    async def response(self) -> h11.Response:
        """The head of the answer; ``ReplicaEndedError`` if there is none."""
        while True:
            event = await self._event()
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse):
                raise ReplicaEndedError

    async def body(self) -> AsyncIterator[bytes]:
        """The body of the answer as it comes; ``ReplicaEndedError`` if it does not end well."""
        while True:
            pieces: list[bytes] = []
            while isinstance(event := self._parsed(), h11.Data):
                pieces.append(event.data)
            if pieces:  # what came together goes together: a stream is many small pieces
                yield b"".join(pieces)
            if isinstance(event, h11.EndOfMessage):
                return
            if event is not h11.NEED_DATA:
                raise ReplicaEndedError
            await self._feed()

    async def _event(self) -> object:
        while (event := self._parsed()) is h11.NEED_DATA:
            await self._feed()
        return event

    def _parsed(self) -> object:
        try:
            return self._http.next_event()
        except h11.RemoteProtocolError as error:
            raise ReplicaEndedError from error

    async def _feed(self) -> None:
        try:
            self._http.receive_data(await self._reader.read(PIECE))
        except OSError as error:
            raise ReplicaEndedError from error


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[UpstreamConnection]:
    """A connection to the replica at ``port``; ``NotSentError`` if there is none."""
    try:
        async with asyncio.timeout(CONNECT):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=PIECE)
    except (OSError, TimeoutError) as error:
        raise NotSentError from error
    try:
        yield UpstreamConnection(reader, writer)
    finally:
        writer.transport.abort()  # it was answered, or nobody waits for it any more
        with suppress(OSError):
            await writer.wait_closed()
