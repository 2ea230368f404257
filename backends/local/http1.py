"""HTTP/1 as it comes from strangers: ``h11`` parses, and what is doubtful is refused.

``h11`` is lenient where old clients are sloppy (bare line feeds, folded headers,
trailers). Two parties that read such a message differently can be played
against each other, so a message is taken only where there is one way to read
it. Each read and each write has a bound in bytes and in seconds.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from http import HTTPStatus

import h11

from llama_hub.inference.service.chunks import is_too_fine
from llama_hub.inference.service.problems import Problem, body_of, invalid

MAX_HEAD = 64 << 10  # bytes of request line and headers
MAX_HEADERS = 100
MAX_BODY = 32 << 20  # bytes; the service itself allows less
PREFETCH = 64 << 10  # bytes of a body that are awaited before a replica hears of the request
PIECE = 64 << 10  # bytes read at a time
COARSE_PIECE = 16 << 10  # the same of a body in chunks
FINE_PIECE = 1 << 10  # the same where they are small: 170 chunks, parsed without a pause
MANY = 16  # chunks in a piece: the next piece is a fine one
READ_AHEAD = 16 << 10  # bytes of a next request that are taken while one is answered

IDLE = 75.0  # seconds that a kept connection may be silent
HEAD = 10.0  # seconds from the first byte of a head to its last
BODY = 300.0  # seconds for a body
BODY_PIECE = 30.0  # seconds for the next piece of it
SEND = 60.0  # seconds in which a client has to take what was sent
LINGER = 2.0  # seconds in which a refused client may still send, so that it reads the answer

_DOUBTFUL = re.compile(rb"(?<!\r)\n|\r(?!\n)|\r\n[ \t]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class ClientGoneError(ConnectionError):
    """The client closed, or stopped taking its answer."""


class ClientConnection:
    """One connection of a client: request after request, one at a time."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        turn: asyncio.Lock | None = None,
    ) -> None:
        """``turn``: shared by connections whose costly parsing has to take turns."""
        self._reader = reader
        self._turn = turn or asyncio.Lock()
        self._prefetched: list[bytes] = []
        self._body: AsyncIterator[bytes] | None = None
        self._writer = writer
        self._pending = b""  # bytes behind those that the parser has
        self._fed = b""  # the last bytes that the parser was given
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._method = b""
        self._is_chunked = False
        self._is_fine = True
        self._is_spoiled = False  # what came cannot be told apart from what will come
        self.is_idle = True  # between two requests

    async def next_request(self) -> h11.Request | None:
        """The next head; ``None`` when the client is done or was silent for too long.

        Raises ``Problem`` (400, 408, 413, 431), after which the connection has to be closed.
        """
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._method = b""
        self._prefetched, self._body = [], None
        self.is_idle = True
        try:
            async with asyncio.timeout(IDLE):
                self._pending = self._pending or await self._read()
        except TimeoutError:
            return None
        if not self._pending:
            return None
        self.is_idle = False
        try:
            async with asyncio.timeout(HEAD):
                return self._parse(await self._read_head())
        except TimeoutError as error:
            raise Problem(408, f"the head of the request took over {HEAD:.0f} s") from error
        except Problem:
            self._is_spoiled = True
            raise

    async def prefetch(self) -> None:
        """Await the body, or the beginning of a large one; raises ``Problem`` (400, 408, 413).

        A client that takes its time over a small body so takes it at our cost, not a replica's.
        """
        await self._welcome_body()
        self._body, self._prefetched, size = self._read_body(), [], 0
        async for piece in self._body:
            self._prefetched.append(piece)
            size += len(piece)
            if size >= PREFETCH:
                return

    async def body(self) -> AsyncIterator[bytes]:
        """The body of the present request, piece by piece; raises ``Problem`` (400, 408, 413)."""
        for piece in self._prefetched:
            yield piece
        if self._body is not None:
            async for piece in self._body:
                yield piece

    async def _read_body(self) -> AsyncIterator[bytes]:
        end = asyncio.get_running_loop().time() + BODY
        size = chunks = 0
        while self._http.their_state is h11.SEND_BODY:
            pieces: list[bytes] = []
            while isinstance(event := self._event(), h11.Data):
                pieces.append(event.data)
                size, chunks = size + len(event.data), chunks + bool(event.chunk_end)
                if size > MAX_BODY or is_too_fine(size, chunks):
                    raise _too_large()
            if pieces:  # what came together goes on together
                self._is_fine = len(pieces) > MANY
                yield b"".join(pieces)
            if event is h11.NEED_DATA:
                self._feed(await self._next_bytes(end))
                await self._take_turns(size)
            else:
                self._finish(event)

    async def _take_turns(self, size: int) -> None:
        """Parse the chunks, or a large body, of one client at a time; others are answered between.

        ``size``: bytes of the body so far.
        """
        if self._is_chunked or size > PREFETCH:
            async with self._turn:
                await asyncio.sleep(0)

    async def until_gone(self) -> None:
        """Return when the client has closed; a little of what it sends meanwhile is taken."""
        while len(self._pending) < READ_AHEAD:
            data = await self._read()
            if not data:
                return
            self._pending += data
        await asyncio.Event().wait()

    async def send(self, event: h11.Event) -> None:
        """Send a part of the answer; ``ClientGoneError`` when the client does not take it."""
        data = self._http.send(event)
        if not data:
            return
        try:
            self._writer.write(data)
            async with asyncio.timeout(SEND):
                await self._writer.drain()
        except (OSError, TimeoutError) as error:
            raise ClientGoneError from error

    async def refuse(self, problem: Problem) -> None:
        """Answer with an error; the connection ends with it unless the request came whole."""
        body = json.dumps(body_of(problem, "openai")).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        headers |= problem.headers
        if not self.has_whole_request:
            headers["Connection"] = "close"
        await self.send(
            h11.Response(
                status_code=problem.status,
                headers=list(headers.items()),
                reason=HTTPStatus(problem.status).phrase,
            )
        )
        if self._method != b"HEAD":
            await self.send(h11.Data(data=body))
        await self.send(h11.EndOfMessage())

    async def _welcome_body(self) -> None:
        """Tell a client that waits for it that its body may come."""
        if self._http.they_are_waiting_for_100_continue:
            await self.send(h11.InformationalResponse(status_code=100, headers=[]))

    @property
    def address(self) -> str:
        """The client's address."""
        return str((self._writer.get_extra_info("peername") or ("",))[0])

    @property
    def has_whole_request(self) -> bool:
        """Whether the present request came to its end."""
        whole = self._http.their_state in (h11.DONE, h11.MUST_CLOSE)
        return whole and not self._is_spoiled

    @property
    def has_begun_answer(self) -> bool:
        """Whether the head of an answer was sent."""
        return self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE)

    @property
    def can_go_on(self) -> bool:
        """Whether another request may come on this connection."""
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    def abort(self) -> None:
        """Cut the connection, so that nobody takes a part of an answer for the whole."""
        self._writer.transport.abort()

    async def close(self, *, linger: bool = True) -> None:
        """Close, after a moment in which the client can read what it was told.

        Closing with unread bytes resets the connection, which may overtake the answer.
        """
        try:
            if linger and not self._writer.is_closing():
                self._writer.write_eof()
                await self._discard()
            self._writer.close()
            async with asyncio.timeout(SEND):
                await self._writer.wait_closed()
        except (OSError, TimeoutError, asyncio.CancelledError):
            self.abort()

    async def _discard(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while await self._reader.read(PIECE):
                    pass

    async def _read(self) -> bytes:
        try:
            return await self._reader.read(PIECE)
        except OSError as error:
            raise ClientGoneError from error

    async def _read_head(self) -> bytes:
        """Bytes up to the empty line."""
        looked = 0
        while (end := self._pending.find(b"\r\n\r\n", max(0, looked - 3))) < 0:
            _check_bytes(self._pending.removesuffix(b"\r"), max(0, looked - 2))
            looked = len(self._pending)
            if looked > MAX_HEAD:
                raise _head_too_large()
            data = await self._read()
            if not data:
                raise ClientGoneError
            self._pending += data
        head, self._pending = self._pending[: end + 4], self._pending[end + 4 :]
        _check_bytes(head, 0)
        if len(head) > MAX_HEAD or head.count(b"\n") > MAX_HEADERS + 2:
            raise _head_too_large()
        return head

    def _parse(self, head: bytes) -> h11.Request:
        self._http.receive_data(head)
        request = self._event()
        if not isinstance(request, h11.Request):
            raise invalid("the request is not HTTP/1.1")
        self._method = bytes(request.method)
        self._is_chunked, self._is_fine = framing(request) is None, True
        _check_request(request)
        if framing(request) == 0:
            self._finish(self._event())
        return request

    def _event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        try:
            return self._http.next_event()
        except h11.RemoteProtocolError as error:
            raise invalid(f"the request is not HTTP/1.1: {str(error)[:200]}") from error

    async def _next_bytes(self, end: float) -> bytes:
        """What the parser gets next; ``end`` in the loop's time."""
        end = min(end, asyncio.get_running_loop().time() + BODY_PIECE)
        try:
            async with asyncio.timeout_at(end):
                self._pending = self._pending or await self._read()
        except TimeoutError as error:
            raise Problem(408, "the body of the request did not come in time") from error
        if not self._pending:
            raise ClientGoneError
        size = self._piece()
        data, self._pending = self._pending[:size], self._pending[size:]
        return data

    def _piece(self) -> int:
        """Bytes that are parsed in one go."""
        if not self._is_chunked:
            return PIECE
        return FINE_PIECE if self._is_fine else COARSE_PIECE

    def _feed(self, data: bytes) -> None:
        self._fed = self._fed[-4:] + data
        self._http.receive_data(data)

    def _finish(self, event: object) -> None:
        """Take back what the parser has of the next request."""
        self._is_spoiled = True
        if not isinstance(event, h11.EndOfMessage) or list(event.headers):
            raise invalid("headers behind the body are not taken")
        rest, _ = self._http.trailing_data
        if self._is_chunked and not self._fed.removesuffix(rest).endswith(b"\r\n\r\n"):
            raise invalid("the request is not HTTP/1.1: bare line feed")
        self._pending = rest + self._pending
        self._is_spoiled = False


def framing(request: h11.Request) -> int | None:
    """Bytes of the body as announced; ``None`` for one that comes in chunks."""
    length = 0
    for name, value in request.headers:
        if name == b"transfer-encoding":
            return None
        if name == b"content-length":
            length = int(value)
    return length


def _check_bytes(head: bytes, start: int) -> None:
    """Refuse what one party reads as a line end or a separator and another does not."""
    if _DOUBTFUL.search(head, start):
        raise invalid("the request is not HTTP/1.1: control character or bare line end in its head")


def _check_request(request: h11.Request) -> None:
    names = [name for name, _ in request.headers]
    if request.http_version not in (b"1.0", b"1.1") or not request.target.startswith(b"/"):
        raise invalid("the request is not one of HTTP/1.1 for a path of this server")
    if b"transfer-encoding" in names and (
        b"content-length" in names or request.http_version == b"1.0"
    ):
        raise invalid("the request announces its length in two ways")
    if (framing(request) or 0) > MAX_BODY:
        raise _too_large()


def _too_large() -> Problem:
    return Problem(413, f"the body is larger than {MAX_BODY >> 20} MiB or in too many pieces")


def _head_too_large() -> Problem:
    return Problem(431, f"the head has over {MAX_HEAD >> 10} KiB or {MAX_HEADERS} headers")
