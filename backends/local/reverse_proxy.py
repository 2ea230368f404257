"""The stable address of a local deployment: HTTP in, to whichever replica serves now.

Requests are routed one by one, also on kept connections, so that an update
never meets a connection that leads to the old revision. Nothing is buffered: a
request and its answer pass through piece by piece. A request is sent a second
time only where nobody can have worked on it, or where doing it twice is doing
it once (no body, and a method that only reads).
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import h11

from llama_hub.backends.local.exchange import Exchange
from llama_hub.backends.local.http1 import ClientConnection, ClientGoneError, framing
from llama_hub.backends.local.quarantine import Quarantine
from llama_hub.backends.local.upstream import NotSentError, ReplicaEndedError, Upstream
from llama_hub.inference.service.api_key import ApiKey, missing_key
from llama_hub.inference.service.problems import Problem, unavailable

HOLD = 3.0  # seconds that a request waits for a replica, as while one is started again
WAITING = 64  # requests that may wait at once; more are told to come back
ATTEMPTS = 3  # replicas that are tried until one can be reached
RETRY_PAUSE = 0.2  # seconds, in which a dead replica is noticed
CLIENT_BUFFER = 16 << 10  # bytes of a client that wait to be read, twice that at most
IN_FLIGHT = 512  # requests that one replica is given at once; it has limits of its own
CONNECTIONS = 2048  # clients at once, where the process may have that many files
ACCEPTED = 32  # connections that are taken in one go, before others are answered
QUEUED = 1024  # that may wait to be taken
LEAVING = 32  # clients beyond that limit that are given time to read why they are refused
FILES_OF_OURS = 128  # that are no client's
_READING = (b"GET", b"HEAD", b"OPTIONS")


class ReverseProxy:
    """Listens, and asks ``replicas`` for each request which ones take it."""

    def __init__(
        self,
        replicas: Callable[[], Sequence[Upstream]],
        *,
        key: str | None = None,
        hold: float = HOLD,
        connections: int | None = None,
    ) -> None:
        """``key``: what a request has to carry before its body is read."""
        self.quarantine = Quarantine()
        self._replicas = replicas
        self._key: ApiKey | None = None
        self.require(key)
        self._hold = hold
        self._limit = connections or _room()
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._leaving = 0
        self._clients: dict[asyncio.Task[None], ClientConnection] = {}

    async def listen(self, host: str, port: int) -> asyncio.Server:
        """Start; ``port`` 0 takes a free one."""
        server = await asyncio.start_server(
            self._accept, host, port, limit=CLIENT_BUFFER, backlog=ACCEPTED
        )
        for listening in server.sockets:  # asyncio takes one number for both
            with socket.socket(fileno=os.dup(listening.fileno())) as same:
                same.listen(QUEUED)
        return server

    def require(self, key: str | None) -> None:
        """From now on requests have to carry ``key``; ``None`` leaves it to the replicas."""
        self._key = ApiKey(key) if key else None

    async def close(self) -> None:
        """Cut the connections that are open."""
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        client = ClientConnection(reader, writer, self._turn)
        if not self._make_room():
            await self._turn_away(client)
            return
        self._clients[task] = client
        try:
            await self._converse(client)
        except (OSError, asyncio.CancelledError):
            pass  # the client went away, or we are closing
        except Exception:
            logging.exception("a connection ended by an error of ours")
            client.abort()
        finally:
            await client.close()
            self._clients.pop(task, None)

    def _make_room(self) -> bool:
        """Whether one more client may come; one that only keeps its connection has to go."""
        if len(self._clients) < self._limit:
            return True
        idle = next((task for task, client in self._clients.items() if client.is_idle), None)
        if idle is None:
            return False
        self._clients.pop(idle).abort()
        return True

    async def _turn_away(self, client: ClientConnection) -> None:
        self._leaving += 1
        try:
            with suppress(OSError):
                await client.refuse(unavailable("too many connections are open", 1))
            await client.close(linger=self._leaving <= LEAVING)
        finally:
            self._leaving -= 1

    async def _converse(self, client: ClientConnection) -> None:
        """Request after request, until one side is done."""
        while True:
            try:
                request = await client.next_request()
                if request is None:
                    return
                await self._answer(client, request)
            except Problem as problem:
                if client.has_begun_answer:
                    client.abort()
                    return
                await client.refuse(problem)
            if not client.can_go_on:
                return

    async def _answer(self, client: ClientConnection, request: h11.Request) -> None:
        """Have a replica answer; ``Problem`` if none can."""
        has_key = self._has_key(request)
        has_body = framing(request) != 0
        if has_body and not has_key:  # what is open without a key has no body
            raise missing_key()
        if has_body:
            await client.prefetch()
        left, replays = ATTEMPTS, 0 if has_body or request.method not in _READING else 1
        tried: set[Upstream] = set()
        while left:
            upstream = await self._pick(self._hold if has_key else 0.0, tried)
            tried.add(upstream)
            try:
                await self._exchange(client, request, upstream)
                return
            except NotSentError:
                left -= 1
            except ReplicaEndedError as error:
                if client.has_begun_answer:
                    client.abort()
                    raise ClientGoneError from error
                if not replays:
                    raise not_repeated() from error
                replays -= 1
            await asyncio.sleep(RETRY_PAUSE)
        raise unavailable("no replica can be reached", 1)

    async def _exchange(
        self, client: ClientConnection, request: h11.Request, upstream: Upstream
    ) -> None:
        upstream.in_flight += 1
        upstream.taken += 1
        try:
            await Exchange(client, request, upstream, self.quarantine).run()
        finally:
            upstream.in_flight -= 1

    def _has_key(self, request: h11.Request) -> bool:
        if self._key is None:
            return True
        first: dict[str, str] = {}
        for name, value in request.headers:
            first.setdefault(name.decode(), value.decode("latin-1"))
        return self._key.is_sent(first.get)

    async def _pick(self, patience: float, tried: set[Upstream]) -> Upstream:
        """The replica with the fewest requests, if possible one that was not tried.

        Waits ``patience`` seconds while there is none; then ``Problem`` (503).
        """
        end = time.monotonic() + (patience if self._waiting < WAITING else 0.0)
        self._waiting += 1
        try:
            while not (ready := [one for one in self._replicas() if one.in_flight < IN_FLIGHT]):
                if time.monotonic() >= end:
                    raise unavailable("no replica is ready, or all are busy", 1)
                await asyncio.sleep(0.05)
        finally:
            self._waiting -= 1
        return min(ready, key=lambda one: (one in tried, one.in_flight, one.taken))


def not_repeated() -> Problem:
    """502 for a request whose replica ended."""
    return Problem(
        502,
        "the replica that worked on this request ended before it answered; the request may have "
        "been the cause, so it was not sent to another one",
        kind="server_error",
        code="replica_ended",
    )


def _room() -> int:
    """Clients for which there are files: each takes one, and one to its replica."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, min(CONNECTIONS, (files - FILES_OF_OURS) // 2))
