"""A request passed on to the process of one model, and its answer back as a stream."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import h11
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llama_hub.backends.local.model_pool import ModelPool
from llama_hub.backends.local.reverse_proxy import ATTEMPTS, RETRY_PAUSE, not_repeated
from llama_hub.backends.local.upstream import (
    NotSentError,
    ReplicaEndedError,
    Upstream,
    UpstreamConnection,
    connected,
)
from llama_hub.inference.service.problems import ClientGoneError, body_of, unavailable
from llama_hub.inference.service.streaming import sse, while_connected

# What the front has judged already, or says of its own.
_NOT_PASSED = frozenset(
    b"host origin content-length transfer-encoding connection keep-alive te trailer upgrade expect "
    b"authorization x-api-key api-key x-forwarded-for x-forwarded-host x-forwarded-proto "
    b"accept-encoding".split()
)
_OURS = frozenset(b"transfer-encoding connection keep-alive date server x-request-id".split())


async def forward(pool: ModelPool, name: str, request: Request, data: bytes) -> PassedOn:
    """The answer of the model ``name`` to ``request``, whose body is ``data``.

    Raises ``Problem``: 502 if its process ended on the way, 503 if it cannot be loaded or reached.
    """
    start = f"{name} {request.method} {request.scope['path']}\n"
    digest = hashlib.sha256(start.encode() + data).hexdigest()
    head = _head(pool, request, data)
    for _ in range(ATTEMPTS):
        async with AsyncExitStack() as stack:
            upstream = await stack.enter_async_context(pool.lease(name))
            pool.quarantine.check(digest)  # now: the process before this one has been judged
            try:
                connection = await stack.enter_async_context(connected(upstream.port))
                work = stack.enter_context(_Work(pool, upstream, digest))
                answer = await _asked(connection, head, data)
            except NotSentError:
                await asyncio.sleep(RETRY_PAUSE)
                continue
            except ReplicaEndedError as error:
                raise not_repeated() from error
            return PassedOn(answer, connection.body(), stack.pop_all(), work)
    raise unavailable(f"the process of {name} cannot be reached", 5)


async def fetch(pool: ModelPool, upstream: Upstream, path: str, seconds: float) -> bytes | None:
    """What ``GET path`` answers with 200; ``None`` if it does not in so many seconds."""
    pieces: list[bytes] = []
    headers = [(b"host", b"localhost"), (b"authorization", b"Bearer " + pool.secret.encode())]
    request = h11.Request(method=b"GET", target=path.encode(), headers=headers)
    try:
        async with asyncio.timeout(seconds), connected(upstream.port) as connection:
            answer = await _asked(connection, request, b"")
            async for piece in connection.body():
                pieces.append(piece)
    except (NotSentError, ReplicaEndedError, OSError, TimeoutError):
        return None
    return b"".join(pieces) if answer.status_code == 200 else None


async def _asked(connection: UpstreamConnection, head: h11.Request, data: bytes) -> h11.Response:
    """The head of the answer; ``ReplicaEndedError`` if there is none."""
    try:
        await connection.send(head, h11.Data(data=data), h11.EndOfMessage())
    except OSError:
        pass  # it takes no more: what it said, if anything, is read
    return await connection.response()


def _head(pool: ModelPool, request: Request, data: bytes) -> h11.Request:
    """The request's own head, as from this machine: with the key of the processes, and the client
    as the front knows it."""
    headers = [(name, value) for name, value in request.headers.raw if name not in _NOT_PASSED]
    client = request.client.host if request.client else ""
    query = request.scope.get("query_string", b"")
    return h11.Request(
        method=request.method.encode(),
        target=request.scope["path"].encode() + (b"?" + query if query else b""),
        headers=[
            *headers,
            (b"host", b"localhost"),
            (b"authorization", b"Bearer " + pool.secret.encode()),
            (b"x-forwarded-for", client.encode("latin-1", "replace")),
            (b"content-length", str(len(data)).encode()),
            (b"connection", b"close"),
        ],
    )


class _Work:
    """A request that a process works on: a suspect if it ends meanwhile."""

    def __init__(self, pool: ModelPool, upstream: Upstream, digest: str) -> None:
        self._pool = pool
        self._upstream = upstream
        self._digest = digest
        self.answered = False

    def __enter__(self) -> _Work:
        self._upstream.workload.begin(self._digest)
        return self

    def __exit__(self, *_: object) -> None:
        self._upstream.workload.end(self._digest, answered=self.answered)
        if self.answered:
            self._pool.quarantine.clear(self._digest)


class PassedOn(Response):
    """An answer on its way; the model's process is leased until its end, or the client's."""

    def __init__(
        self, head: h11.Response, body: AsyncIterator[bytes], held: AsyncExitStack, work: _Work
    ) -> None:
        self.status_code = head.status_code
        self.background = None
        self.raw_headers = [pair for pair in head.headers if pair[0] not in _OURS]
        kinds = [value for name, value in head.headers if name == b"content-type"]
        self._is_stream = any(value.startswith(b"text/event-stream") for value in kinds)
        self._body = body
        self._held = held
        self._work = work

    def hold(self, more: AsyncExitStack) -> None:
        """Close ``more``, too, when it has been sent."""
        self._held.push_async_callback(more.aclose)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the answer ends or the client is gone."""
        async with self._held:
            try:
                await while_connected(receive, self._send_all(send))
            except ClientGoneError:
                pass

    async def _send_all(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code}
        await send(start | {"headers": self.raw_headers})
        last = b""
        try:
            async for piece in self._body:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            self._work.answered = True
        except ReplicaEndedError:
            if not self._is_stream:
                raise  # the connection is cut: nobody takes a part for the whole
            last = sse(body_of(not_repeated(), "openai"))
        await send({"type": "http.response.body", "body": last, "more_body": False})
