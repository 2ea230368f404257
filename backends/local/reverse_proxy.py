"""The stable address of a local deployment: HTTP in, to whichever replica serves now.

Requests are routed one by one, also on kept connections, so that an update
never meets a connection that leads to the old revision. A request goes out on a
connection of its own and is answered whole or, if its replica dies before it
has said anything, by another replica; so it is read in full first.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

MAX_HEAD = 64 << 10  # bytes of request line and headers
MAX_BODY = 32 << 20  # bytes; the service itself allows less
PIECE = 64 << 10  # bytes relayed at a time
IDLE = 75.0  # seconds that a kept connection may be silent
HOLD = 60.0  # seconds that a request waits for a replica, as during a restart
ATTEMPTS = 3  # replicas that are tried
RETRY_PAUSE = 0.2  # seconds, in which a dead replica is noticed
PEEK = 0.5  # seconds between two looks whether the client is still there
CONNECT = 10.0  # seconds

_HOP = {b"connection", b"keep-alive", b"proxy-connection", b"expect", b"upgrade", b"te"}


@dataclass(eq=False)
class Upstream:
    """A replica that takes requests."""

    port: int
    in_flight: int = 0
    taken: int = 0  # requests so far, so that idle replicas take turns


@dataclass
class Message:
    """A parsed head: the first line, the headers in order, and the body that belongs to it."""

    line: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""

    def get(self, name: bytes) -> bytes | None:
        """The first value of a header; ``name`` in lower case."""
        return next((value for key, value in self.headers if key.lower() == name), None)

    def encode(self, connection: bytes) -> bytes:
        """The head as it is sent on, with its own ``Connection``."""
        kept = [(key, value) for key, value in self.headers if key.lower() not in _HOP]
        lines = [self.line, *(key + b": " + value for key, value in kept)]
        return b"\r\n".join([*lines, b"Connection: " + connection, b"", b""])

    @property
    def chunked(self) -> bool:
        """Whether the body's length is told chunk by chunk."""
        return b"chunked" in (self.get(b"transfer-encoding") or b"").lower()


class BadRequestError(Exception):
    """What came in is not HTTP/1 as we take it; ``status`` is the answer's."""

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


class UpstreamError(Exception):
    """A replica closed before it said anything; another may answer."""


@dataclass
class ReverseProxy:
    """Listens, and asks ``replicas`` for each request which ones take it."""

    replicas: Callable[[], Sequence[Upstream]]
    hold: float = HOLD
    _connections: set[asyncio.Task[None]] = field(default_factory=set)

    async def listen(self, host: str, port: int) -> asyncio.Server:
        """Start; ``port`` 0 takes a free one."""
        return await asyncio.start_server(self._accept, host, port, limit=MAX_HEAD, backlog=1024)

    async def close(self) -> None:
        """Cut the connections that are open."""
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._converse(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client went away, or we are closing
        finally:
            self._connections.discard(task)
            writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Request after request, until one side is done."""
        while True:
            try:
                request = await _read_request(reader, writer)
            except BadRequestError as error:
                writer.write(_refusal(error.status, "the request is not one that we take"))
                await writer.drain()
                return
            if request is None or not await self._answer(request, reader, writer):
                return

    async def _answer(
        self, request: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; whether the client's connection may be used again."""
        for _ in range(ATTEMPTS):
            upstream = await self._pick()
            if upstream is None:
                break
            upstream.in_flight += 1
            upstream.taken += 1
            try:
                return await _Exchange(request, reader, writer).run(upstream.port)
            except UpstreamError:
                await asyncio.sleep(RETRY_PAUSE)
            finally:
                upstream.in_flight -= 1
        writer.write(_refusal("503 Service Unavailable", "no replica is ready", keep=True))
        await writer.drain()
        return _keeps(request)

    async def _pick(self) -> Upstream | None:
        """The replica with the fewest requests; waits for one while there is none."""
        end = time.monotonic() + self.hold
        while True:
            known = self.replicas()
            if known:
                return min(known, key=lambda one: (one.in_flight, one.taken))
            if time.monotonic() >= end:
                return None
            await asyncio.sleep(0.05)


class _Exchange:
    """One request to one replica, and its answer back."""

    def __init__(
        self, request: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._request = request
        self._client = reader
        self._writer = writer

    async def run(self, port: int) -> bool:
        """Whether the client's connection may be used again; ``UpstreamError`` to try another."""
        async with _connection(port) as (source, sink):
            try:
                sink.write(self._request.encode(b"close") + self._request.body)
                await sink.drain()
                response = _parse(await self._until_head(source))
            except (OSError, asyncio.IncompleteReadError, BadRequestError) as error:
                raise UpstreamError from error
            keep = _keeps(self._request) and self._has_end(response)
            self._writer.write(response.encode(b"keep-alive" if keep else b"close"))
            return await self._relay(source, response) and keep

    async def _until_head(self, source: asyncio.StreamReader) -> bytes:
        return await self._while_wanted(source.readuntil(b"\r\n\r\n"))

    async def _relay(self, source: asyncio.StreamReader, response: Message) -> bool:
        """Pass the body on; whether all of it came. If not, the client's connection is cut."""
        sent, tail = 0, b""
        while piece := await self._while_wanted(source.read(PIECE)):
            sent += len(piece)
            tail = (tail + piece)[-5:]
            self._writer.write(piece)
            await self._writer.drain()
        await self._writer.drain()
        whole = self._is_whole(response, sent, tail)
        if not whole:
            self._writer.transport.abort()
        return whole

    async def _while_wanted(self, reading: Coroutine[Any, Any, bytes]) -> bytes:
        """The bytes that ``reading`` brings; ``ConnectionError`` once the client is gone."""
        task = asyncio.create_task(reading)
        try:
            while True:
                done, _ = await asyncio.wait({task}, timeout=PEEK)
                if done:
                    return task.result()
                if self._client.at_eof() or self._writer.is_closing():
                    raise ClientGoneError
        finally:
            task.cancel()

    def _has_end(self, response: Message) -> bool:
        """Whether the client can tell where the answer ends without the connection closing."""
        return (
            self._is_empty(response)
            or response.chunked
            or response.get(b"content-length") is not None
        )

    def _is_empty(self, response: Message) -> bool:
        status = response.line.split(b" ")[1]
        return self._request.line.startswith(b"HEAD ") or status in (b"204", b"304")

    def _is_whole(self, response: Message, sent: int, tail: bytes) -> bool:
        length = response.get(b"content-length")
        if self._is_empty(response):
            return True
        if response.chunked:
            return tail == b"0\r\n\r\n"
        return length is None or sent == int(length)


class ClientGoneError(ConnectionError):
    """The client closed before it had its answer."""


@asynccontextmanager
async def _connection(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    try:
        async with asyncio.timeout(CONNECT):
            source, sink = await asyncio.open_connection("127.0.0.1", port, limit=MAX_HEAD)
    except (OSError, TimeoutError) as error:
        raise UpstreamError from error
    try:
        yield source, sink
    finally:
        sink.close()
        with suppress(OSError):
            await sink.wait_closed()


async def _read_request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Message | None:
    """The next request with its body; ``None`` when the client is done."""
    try:
        async with asyncio.timeout(IDLE):
            head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial.strip():
            raise
        return None
    except asyncio.LimitOverrunError as error:
        raise BadRequestError("431 Request Header Fields Too Large") from error
    request = _parse(head)
    if (request.get(b"expect") or b"").lower() == b"100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.body = await _read_body(request, reader)
    return request


async def _read_body(request: Message, reader: asyncio.StreamReader) -> bytes:
    """The body as it came, chunk marks included."""
    if request.chunked:
        return await _read_chunks(reader)
    length = request.get(b"content-length") or b"0"
    if not length.isdigit():
        raise BadRequestError("400 Bad Request")
    if int(length) > MAX_BODY:
        raise BadRequestError("413 Content Too Large")
    return await reader.readexactly(int(length))


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    pieces: list[bytes] = []
    total = 0
    while True:
        line = await reader.readuntil(b"\r\n")
        try:
            size = int(line.split(b";")[0], 16)
        except ValueError as error:
            raise BadRequestError("400 Bad Request") from error
        total += size
        if total > MAX_BODY or size < 0:
            raise BadRequestError("413 Content Too Large")
        pieces += [line, await reader.readexactly(size + 2)]
        if size == 0:
            return b"".join(pieces)


def _parse(head: bytes) -> Message:
    line, *rest = head[:-4].split(b"\r\n")
    if len(line.split(b" ")) < 2 or b"HTTP/1." not in line:
        raise BadRequestError("400 Bad Request")
    headers = []
    for entry in rest:
        name, colon, value = entry.partition(b":")
        if not colon or name != name.strip() or not name:
            raise BadRequestError("400 Bad Request")
        headers.append((name, value.strip()))
    found = Message(line, headers)
    if found.chunked and found.get(b"content-length") is not None:
        raise BadRequestError("400 Bad Request")  # two lengths: a smuggler's request
    return found


def _keeps(request: Message) -> bool:
    """Whether the client wants to use its connection again."""
    connection = (request.get(b"connection") or b"").lower()
    if request.line.endswith(b"HTTP/1.0"):
        return False
    return b"close" not in connection


def _refusal(status: str, message: str, *, keep: bool = False) -> bytes:
    body = json.dumps({"error": {"message": message, "type": "unavailable", "code": None}}).encode()
    head = [
        f"HTTP/1.1 {status}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *(["Retry-After: 1"] if keep else ["Connection: close"]),
    ]
    return "\r\n".join([*head, "", ""]).encode() + body
