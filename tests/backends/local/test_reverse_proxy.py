"""The address of a local deployment against hostile clients and dying replicas, on loopback.

The replicas are sockets of this test that keep what they get and answer what a test says.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any
from unittest.mock import create_autospec

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_hub.backends.local import http1, quarantine, reverse_proxy
from llama_hub.backends.local.reverse_proxy import ReverseProxy
from llama_hub.backends.local.upstream import Upstream
from llama_hub.inference.service import chunks

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HOST = b"Host: x\r\n"

Behaviour = Callable[["Replica", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def answer(
    replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Read one whole request and answer it."""
    replica.whole.append(await read_request(reader))
    writer.write(OK)


async def die(replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read one whole request and say nothing."""
    replica.whole.append(await read_request(reader))
    replica.ended()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head:
        body = b""
        while not body.endswith(b"0\r\n\r\n"):
            piece = await reader.read(1 << 16)
            if not piece:
                raise asyncio.IncompleteReadError(body, None)
            body = body[-5:] + piece if len(body) > 1 << 20 else body + piece
        return head + body
    length = [line for line in head.split(b"\r\n") if line.startswith(b"content-length:")]
    return head + (await reader.readexactly(int(length[0].split(b":")[1])) if length else b"")


class Replica:
    """A service process, as far as the proxy can tell."""

    def __init__(self, behaviour: Behaviour = answer) -> None:
        self.behaviour = behaviour
        self.connections = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.whole: list[bytes] = []  # requests that came to their end
        self.ended: Callable[[], None] = lambda: None  # what the supervisor would do
        self.upstream = Upstream(0)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self.behaviour(self, reader, writer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            self.tasks.discard(task)


@asynccontextmanager
async def proxy(*replicas: Replica, **options: Any) -> AsyncIterator[Proxied]:
    servers = [await asyncio.start_server(one, "127.0.0.1", 0) for one in replicas]
    made = ReverseProxy(lambda: [one.upstream for one in replicas], **options)
    for one, server in zip(replicas, servers, strict=True):
        one.upstream.port = server.sockets[0].getsockname()[1]
        one.ended = lambda one=one: made.quarantine.record_crash(  # type: ignore[misc]
            one.upstream.workload.suspects()
        )
    server = await made.listen("127.0.0.1", 0)
    for one in (server, *servers):  # or the system would keep up to 32 MiB of each connection
        one.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    try:
        yield Proxied(made, server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await made.close()
        for one in servers:
            one.close()
        left = [task for replica in replicas for task in replica.tasks]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


class Proxied:
    """The proxy as a client meets it."""

    def __init__(self, made: ReverseProxy, port: int) -> None:
        self.made = made
        self.port = port

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, *pieces: bytes) -> bytes:
        """Send pieces, and read until the proxy closes."""
        reader, writer = await self.connect()
        with suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
        said = b""
        with suppress(ConnectionError):
            said = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        return said


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


CLOSE = b"Connection: close\r\n"
KEEP = b"X-Kept: yes\r\n"


def post(body: bytes = b"{}", *headers: bytes, last: bytes = CLOSE) -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    head = b"POST /v1/x HTTP/1.1\r\n" + HOST + length + last + b"".join(headers)
    return head + b"\r\n" + body


def get(path: bytes = b"/", last: bytes = CLOSE) -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\n" + HOST + last + b"\r\n"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines that a test can wait for; what they are worth in seconds is not tested."""
    monkeypatch.setattr(http1, "LINGER", 0.05)
    monkeypatch.setattr(reverse_proxy, "RETRY_PAUSE", 0.0)


CHUNKED_ONCE = b"POST / HTTP/1.1\r\n" + HOST + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
SMUGGLED = b"GET /admin HTTP/1.1\r\nHost: x\r\n\r\n"


def headers(*lines: bytes, version: bytes = b"1.1", target: bytes = b"/") -> bytes:
    head = b"POST " + target + b" HTTP/" + version + b"\r\n" + HOST
    return head + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


MALFORMED = {
    "differing lengths": headers(b"Content-Length: 5", b"Content-Length: 6") + b"hello!",
    "differing lengths in one line": headers(b"Content-Length: 5, 6") + b"hello!",
    "negative length": headers(b"Content-Length: -1"),
    "length with a sign": headers(b"Content-Length: +5") + b"hello",
    "length with an underscore": headers(b"Content-Length: 1_0") + b"helloworld",
    "hexadecimal length": headers(b"Content-Length: 0x2") + b"ok",
    "length of 5000 digits": headers(b"Content-Length: " + b"9" * 5000),
    "length that is no number": headers(b"Content-Length: \xb2") + b"ok",
    "empty length": headers(b"Content-Length: ") + b"ok",
    "length and chunks": headers(b"Content-Length: 4", b"Transfer-Encoding: chunked")
    + b"0\r\n\r\n"
    + SMUGGLED,
    "chunks and length": headers(b"Transfer-Encoding: chunked", b"Content-Length: 4")
    + b"0\r\n\r\n"
    + SMUGGLED,
    "xchunked": headers(b"Transfer-Encoding: xchunked") + b"0\r\n\r\n",
    "gzip, chunked": headers(b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
    "identity": headers(b"Transfer-Encoding: identity") + b"0\r\n\r\n",
    "chunked twice": headers(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked")
    + b"0\r\n\r\n",
    "chunked in quotes": headers(b'Transfer-Encoding: "chunked"') + b"0\r\n\r\n",
    "chunked in HTTP/1.0": headers(b"Transfer-Encoding: chunked", version=b"1.0") + b"0\r\n\r\n",
    "chunked behind a vertical tab": headers(b"Transfer-Encoding: \x0bchunked") + b"0\r\n\r\n",
    "space before the colon": headers(b"Transfer-Encoding : chunked") + b"0\r\n\r\n",
    "folded header": headers(b"Transfer-Encoding:\r\n chunked") + b"0\r\n\r\n",
    "folded first header": b"POST / HTTP/1.1\r\n Host: x\r\n\r\n",
    "chunk size with a prefix": CHUNKED + b"0x2\r\nok\r\n0\r\n\r\n",
    "chunk size with an underscore": CHUNKED + b"1_0\r\n" + b"a" * 16 + b"\r\n0\r\n\r\n",
    "negative chunk size": CHUNKED + b"-2\r\nok\r\n0\r\n\r\n",
    "chunk size with a space before it": CHUNKED + b" 2\r\nok\r\n0\r\n\r\n",
    "empty chunk size": CHUNKED + b"\r\nok\r\n0\r\n\r\n",
    "chunk size that overflows": CHUNKED + b"f" * 21 + b"\r\nok",
    "chunk longer than it says": CHUNKED + b"2\r\nokay\r\n0\r\n\r\n",
    "chunk size ended by a bare line feed": CHUNKED + b"2\nok\r\n0\r\n\r\n",
    "chunk ended by a bare line feed": CHUNKED + b"2\r\nok\n0\r\n\r\n",
    "last chunk ended by a bare line feed": CHUNKED + b"2\r\nok\r\n0\r\n\n" + SMUGGLED,
    "line feed in a chunk's extension": CHUNKED + b"2;a\nb\r\nok\r\n0\r\n\r\n",
    "trailer": CHUNKED + b"2\r\nok\r\n0\r\nX: y\r\n\r\n",
    "trailer that is a header": CHUNKED + b"0\r\nContent-Length: 9\r\n\r\n",
    "trailer with a request": CHUNKED + b"0\r\nGET /admin HTTP/1.1\r\nHost: x\r\n\r\n",
    "bare line feeds": b"POST / HTTP/1.1\nHost: x\nContent-Length: 2\n\nok",
    "one bare line feed": b"GET / HTTP/1.1\r\nHost: x\nX: y\r\n\r\n",
    "bare carriage return": b"GET / HTTP/1.1\r\nHost: x\rX: y\r\n\r\n",
    "NUL in a header": headers(b"X: a\x00b"),
    "NUL in a name": headers(b"X\x00: ab"),
    "NUL in the path": b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    "DEL in a header": headers(b"X: a\x7fb"),
    "header without a colon": headers(b"nonsense"),
    "header without a name": headers(b": value"),
    "no request line": b"\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "HTTP/0.9": b"GET / HTTP/0.9\r\nHost: x\r\n\r\n",
    "HTTP/1.2": headers(version=b"1.2"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
    "tab for a space": b"GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": headers(b"Host: y"),
    "absolute target": headers(target=b"http://other/"),
    "target that is a server": b"CONNECT other:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "asterisk": headers(target=b"*"),
    "path with bytes above 127": headers(target=b"/\xff"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_can_be_read_in_two_ways_is_400_and_closed(name: str) -> None:
    async def check() -> None:
        for cut in (len(MALFORMED[name]), 1):  # in one piece, and byte by byte
            replica = Replica()
            async with proxy(replica) as made:
                raw = MALFORMED[name]
                said = await made.ask(*(raw[i : i + cut] for i in range(0, len(raw), cut)))
                assert said.startswith(b"HTTP/1.1 400 "), said
                assert said.count(b"HTTP/1.1 4") == 1
                assert b"Connection: close" in said
                assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["message"]
                assert replica.whole == []

    run(check())


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (headers(b"Content-Length: %d" % (http1.MAX_BODY + 1)), b"413"),
        (CHUNKED + b"%x\r\n" % (http1.MAX_BODY + 1) + b"a" * (http1.MAX_BODY + 1), b"413"),
        (CHUNKED + b"1\r\na\r\n" * (chunks.FEW_CHUNKS + 2), b"413"),
        (CHUNKED + (b"40\r\n" + b"a" * 64 + b"\r\n") * (chunks.MAX_CHUNKS + 1), b"413"),
        (headers(b"X: " + b"a" * http1.MAX_HEAD), b"431"),
        (b"GET /" + b"a" * 3 * http1.MAX_HEAD, b"431"),
        (headers(*[b"X: y"] * (http1.MAX_HEADERS + 1)), b"431"),
    ],
    ids=["length", "chunks", "small chunks", "many chunks", "header", "path", "many headers"],
)
def test_what_is_too_large_is_refused_and_closed(
    raw: bytes, status: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http1, "LINGER", 5.0)  # until the client has sent all and read the answer

    async def check() -> None:
        replica = Replica()
        async with proxy(replica) as made:
            assert (await made.ask(raw)).startswith(b"HTTP/1.1 " + status)
            assert replica.whole == []

    run(check())


WELL_FORMED = {
    "length": post(b"hello"),
    "the same length twice": headers(b"Content-Length: 5", b"Content-Length: 5", CLOSE[:-2])
    + b"hello",
    "chunks": headers(b"Transfer-Encoding: chunked", CLOSE[:-2])
    + b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
    "Chunked": headers(b"Transfer-Encoding: Chunked", CLOSE[:-2]) + b"5\r\nhello\r\n0\r\n\r\n",
    "HTTP/1.0": headers(b"Content-Length: 5", version=b"1.0") + b"hello",
    "HTTP/1.0 without a host": b"POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello",
}  # fmt: skip


@pytest.mark.parametrize("name", WELL_FORMED)
@pytest.mark.parametrize("cut", [1, 1 << 20])
def test_what_is_well_formed_passes(name: str, cut: int) -> None:
    async def check() -> None:
        replica = Replica()
        async with proxy(replica) as made:
            raw = WELL_FORMED[name]
            said = await made.ask(*(raw[i : i + cut] for i in range(0, len(raw), cut)))
            assert said.startswith(b"HTTP/1.1 200 OK")
            assert said.endswith(b"ok")
            (got,) = replica.whole
            assert b"host: " in got
            assert got.count(b"connection: close") == 1
            if b"content-length: 5\r\n" in got:
                assert got.endswith(b"\r\n\r\nhello")

    run(check())


def test_requests_on_one_connection_are_answered_in_turn() -> None:
    async def check() -> None:
        replica = Replica()
        async with proxy(replica) as made:
            said = await made.ask(
                get(b"/1", KEEP) + post(b"two", last=KEEP) + CHUNKED + b"0\r\n\r\n" + get(b"/4")
            )
            assert said.count(b"HTTP/1.1 200 OK") == 4
            assert [one.split(b" ")[1] for one in replica.whole] == [b"/1", b"/v1/x", b"/", b"/4"]

    run(check())


def test_headers_of_the_connection_stay_on_it() -> None:
    async def check() -> None:
        replica = Replica()
        async with proxy(replica) as made:
            hop = b"Connection: close, X-Hop, content-length\r\nX-Hop: 1\r\nTE: trailers\r\n"
            await made.ask(post(b"hello", b"Upgrade: h2c\r\nX-End: 1\r\n", last=hop))
            (got,) = replica.whole
            assert b"x-hop" not in got
            assert b"upgrade" not in got
            assert b"te:" not in got
            assert b"x-end: 1" in got
            assert got.endswith(b"hello")

    run(check())


def test_a_client_cannot_pass_for_another() -> None:
    async def check() -> None:
        replica = Replica()
        async with proxy(replica) as made:
            await made.ask(get(last=CLOSE + b"X-Forwarded-For: 10.0.0.1\r\n"))
            await made.ask(get())
            first, second = replica.whole
            assert b"x-forwarded-for: 10.0.0.1, 127.0.0.1\r\n" in first
            assert b"x-forwarded-for: 127.0.0.1\r\n" in second

    run(check())


def test_a_client_that_waits_for_it_is_told_to_go_on() -> None:
    async def check() -> None:
        async with proxy(Replica()) as made:
            reader, writer = await made.connect()
            writer.write(headers(b"Content-Length: 2", b"Expect: 100-continue"))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
            writer.write(b"{}")
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")
            writer.close()

    run(check())


def test_a_head_request_has_no_body_and_goes_on() -> None:
    async def check() -> None:
        async with proxy(Replica()) as made:
            said = await made.ask(get(last=KEEP).replace(b"GET", b"HEAD") + get(b"/"))
            assert said.count(b"200 OK") == 2
            assert said.count(b"\r\n\r\nok") == 1

    run(check())


def test_without_the_key_no_body_is_read() -> None:
    async def check() -> None:
        replica = Replica()
        async with proxy(replica, key="k") as made:
            for more in (b"", b"Authorization: Bearer wrong\r\n", b"Expect: 100-continue\r\n"):
                reader, writer = await made.connect()
                writer.write(headers(b"Content-Length: 30000000", *more.split(b"\r\n")[:-1]))
                said = await asyncio.wait_for(reader.read(), 10)  # not one byte of it was sent
                assert said.startswith(b"HTTP/1.1 401 ")
                assert b"WWW-Authenticate: Bearer" in said
                assert (
                    json.loads(said.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_api_key"
                )
                writer.close()
            assert replica.connections == 0
            for more in (b"Authorization: bearer k\r\n", b"X-Api-Key: k\r\n", b"api-key: k\r\n"):
                assert b"200 OK" in await made.ask(post(b"{}", more))
            assert b"200 OK" in await made.ask(get(b"/health"))  # the service judges these

    run(check())


def test_a_slow_body_is_no_replicas_business() -> None:
    async def check() -> None:
        replica = Replica()
        async with proxy(replica) as made:
            reader, writer = await made.connect()
            writer.write(headers(b"Content-Length: 10", CLOSE[:-2]) + b"12345")
            await asyncio.sleep(0.1)
            assert replica.connections == 0
            writer.write(b"67890")
            assert b"200 OK" in await asyncio.wait_for(reader.read(), 10)
            assert replica.whole[0].endswith(b"1234567890")
            writer.close()

    run(check())


def test_a_replica_is_given_only_so_many_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reverse_proxy, "IN_FLIGHT", 1)

    async def check() -> None:
        replica = Replica(endless)
        async with proxy(replica, hold=0.05) as made:
            reader, writer = await made.connect()
            writer.write(get())
            await reader.readexactly(100)
            said = await made.ask(get())
            assert said.startswith(b"HTTP/1.1 503 ")
            assert b"all are busy" in said
            writer.transport.abort()

    run(check())


def test_a_body_passes_through_without_being_kept() -> None:
    """A replica that does not read stops the client long before all of it is here."""
    begun = asyncio.Event()

    async def deaf(
        replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(1 << 10)
        begun.set()
        await asyncio.Event().wait()

    async def check() -> None:
        size = 30 << 20
        async with proxy(Replica(deaf)) as made:
            reader, writer = await made.connect()
            writer.write(headers(b"Content-Length: %d" % size))
            sent = 0
            with suppress(TimeoutError):
                while sent < size:
                    writer.write(bytes(64 << 10))
                    sent += 64 << 10
                    await asyncio.wait_for(writer.drain(), 0.5)
            assert begun.is_set()
            assert sent < 16 << 20  # the system's own buffers for sending, of up to 4 MiB each
            writer.transport.abort()

    run(check())


def test_large_bodies_pass_one_piece_at_a_time() -> None:
    """While the loop turns once, one piece of one of them is parsed, however many there are."""

    async def check() -> None:
        turn, order = asyncio.Lock(), list[int]()

        async def pass_body(number: int) -> None:
            reader = asyncio.StreamReader(limit=1 << 26)
            reader.feed_data(headers(b"Content-Length: %d" % (4 << 20)) + bytes(4 << 20))
            reader.feed_eof()
            connection = http1.ClientConnection(reader, create_autospec(asyncio.StreamWriter), turn)
            assert await connection.next_request()
            await connection.prefetch()
            async for _ in connection.body():
                order.append(number)
                rounds[-1].append(number)

        rounds: list[list[int]] = [[]]
        passing = [asyncio.create_task(pass_body(number)) for number in range(4)]
        while not all(task.done() for task in passing):
            await asyncio.sleep(0)
            rounds.append([])
        for task in passing:
            await task
        large = [one for one in rounds[len(rounds) // 4 : -len(rounds) // 4] if one]
        assert max(map(len, large)) == 1
        assert len(set(order[len(order) // 4 : len(order) // 4 + 8])) == 4  # all go on together

    run(check())


async def endless(
    replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """An answer without end."""
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
        await writer.drain()


@pytest.mark.parametrize(
    ("deadline", "sent", "status"),
    [
        ("IDLE", b"", b""),
        ("HEAD", b"GET / HTTP/1.1\r\nHo", b"HTTP/1.1 408 "),
        ("BODY_PIECE", headers(b"Content-Length: 9") + b"a", b"HTTP/1.1 408 "),
        ("BODY", headers(b"Transfer-Encoding: chunked") + b"9\r\na", b"HTTP/1.1 408 "),
    ],
)
def test_a_silent_client_is_not_waited_for(
    deadline: str, sent: bytes, status: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http1, deadline, 0.05)

    async def check() -> None:
        replica = Replica()
        async with proxy(replica) as made:
            said = await made.ask(sent)
            assert said.startswith(status)
            assert bool(said) == bool(status)
            assert replica.whole == []

    run(check())


def test_a_client_that_takes_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "SEND", 0.1)

    async def check() -> None:
        replica = Replica(endless)
        async with proxy(replica) as made:
            _, writer = await made.connect()
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(get())
            while replica.upstream.in_flight == 0:
                await asyncio.sleep(0.01)
            async with asyncio.timeout(10):
                while replica.upstream.in_flight:
                    await asyncio.sleep(0.01)
            writer.transport.abort()

    run(check())


def test_a_replica_stops_when_its_client_leaves() -> None:
    async def check() -> None:
        replica = Replica(endless)
        async with proxy(replica) as made:
            reader, writer = await made.connect()
            writer.write(get())
            await reader.readexactly(1 << 16)
            writer.close()
            async with asyncio.timeout(10):
                while replica.upstream.in_flight:
                    await asyncio.sleep(0.01)

    run(check())


def test_at_the_limit_idle_connections_go_and_busy_ones_stay() -> None:
    async def check() -> None:
        async with proxy(Replica(endless), connections=2) as made:
            first, second = await made.connect(), await made.connect()
            busy_reader, busy = await made.connect()  # the first has to go
            assert await asyncio.wait_for(_ends(first[0]), 10)
            busy.write(get())
            second[1].write(get())
            await busy_reader.readexactly(100)
            await second[0].readexactly(100)
            said = await made.ask(get())
            assert said.startswith(b"HTTP/1.1 503 ")
            assert b"too many connections" in said
            for writer in (first[1], second[1], busy):
                writer.transport.abort()

    run(check())


async def _ends(reader: asyncio.StreamReader) -> bool:
    with suppress(ConnectionError):
        return await reader.read() == b""
    return True


def test_only_what_nobody_worked_on_is_sent_again() -> None:
    async def check() -> None:
        first, second = Replica(die), Replica(die)
        async with proxy(first, second) as made:
            said = await made.ask(post(b"kill"))
            assert said.startswith(b"HTTP/1.1 502 ")
            assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["code"] == "replica_ended"
            assert len(first.whole + second.whole) == 1
            first.behaviour = second.behaviour = answer
            second.upstream.port = 1  # nobody listens there: it cannot have got anything
            for _ in range(4):
                assert b"200 OK" in await made.ask(post(b"other"))
            assert len(first.whole + second.whole) == 5

    run(check())


def test_reading_is_repeated_once() -> None:
    async def check() -> None:
        first, second = Replica(die), Replica(answer)
        second.upstream.taken = 1
        async with proxy(first, second) as made:
            assert b"200 OK" in await made.ask(get(b"/"))
            assert (len(first.whole), len(second.whole)) == (1, 1)
            second.behaviour = die
            assert (await made.ask(get(b"/other"))).startswith(b"HTTP/1.1 502 ")
            assert len(first.whole + second.whole) == 4

    run(check())


@pytest.mark.parametrize(
    "raw", [post(b"kill"), CHUNKED_ONCE + b"4\r\nkill\r\n0\r\n\r\n", get(b"/kill")]
)
def test_a_request_that_preceded_two_crashes_is_not_sent_a_third_time(
    raw: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        replicas = [Replica(die), Replica(die), Replica(die)]
        async with proxy(*replicas) as made:
            for _ in range(5):
                said = await made.ask(raw)
            assert sum(len(one.whole) for one in replicas) == 2
            assert said.startswith(b"HTTP/1.1 503 ")
            assert b"x-should-retry: false" in said
            error = json.loads(said.partition(b"\r\n\r\n")[2])["error"]
            assert error["code"] == "quarantined"
            assert "sent 2 times" in error["message"]
            for one in replicas:
                one.behaviour = answer
            assert b"200 OK" in await made.ask(post(b"other"))
            monkeypatch.setattr(quarantine, "MEMORY", 0.0)
            assert b"200 OK" in await made.ask(raw)

    run(check())


def test_a_client_that_leaves_before_the_crash_is_suspected_too() -> None:
    async def hang(
        replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        replica.whole.append(await read_request(reader))
        await reader.read()  # as long as the client stays

    async def check() -> None:
        replica = Replica(hang)
        async with proxy(replica) as made:
            for _ in range(2):
                _, writer = await made.connect()
                writer.write(post(b"kill"))
                while not replica.upstream.in_flight:
                    await asyncio.sleep(0.01)
                while len(replica.whole) == 0:
                    await asyncio.sleep(0.01)
                writer.close()
                while replica.upstream.in_flight:
                    await asyncio.sleep(0.01)
                replica.ended()
                replica.whole.clear()
            assert b"quarantined" in await made.ask(post(b"kill"))
            assert replica.whole == []

    run(check())


def test_an_answer_clears_a_request_of_suspicion() -> None:
    async def check() -> None:
        replica = Replica(die)
        async with proxy(replica) as made:
            for behaviour in (die, answer, die, answer, die, answer):
                replica.behaviour = behaviour
                said = await made.ask(post(b"unlucky"))
                assert said.startswith(b"HTTP/1.1 502 " if behaviour is die else b"HTTP/1.1 200 ")

    run(check())


def test_without_a_replica_it_says_so_soon() -> None:
    async def check() -> None:
        async with proxy(hold=0.1) as made:
            said = await made.ask(get(last=KEEP) + post(b"{}"))
            assert said.count(b"HTTP/1.1 503 ") == 2  # a kept connection: the first came whole
            assert said.count(b"Retry-After: 1") == 2
        async with proxy(hold=30.0, key="k") as made:  # strangers are not held at all
            assert b"HTTP/1.1 503 " in await made.ask(get())

    run(check())


def test_only_so_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reverse_proxy, "WAITING", 1)

    async def check() -> None:
        async with proxy(hold=30.0) as made:
            _, waiting = await made.connect()
            waiting.write(get())
            await asyncio.sleep(0.05)
            assert b"HTTP/1.1 503 " in await made.ask(get())
            waiting.transport.abort()

    run(check())


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ],
)
def test_half_an_answer_is_never_taken_for_the_whole(said: bytes) -> None:
    async def half(
        replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await read_request(reader)
        writer.write(said)

    async def check() -> None:
        async with proxy(Replica(half)) as made:
            reader, writer = await made.connect()
            writer.write(get())
            got = b""
            with suppress(ConnectionError):
                got = await reader.read()
            assert b"200 OK" in got
            assert not got.endswith(b"0\r\n\r\n")
            assert b"half" not in got or b"content-length: 10" in got
            writer.close()

    run(check())


def test_a_replica_that_refuses_early_is_heard() -> None:
    async def refuse(
        replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")

    async def check() -> None:
        async with proxy(Replica(refuse)) as made:
            reader, writer = await made.connect()
            writer.write(headers(b"Content-Length: 20000000") + bytes(http1.PREFETCH))
            said = await asyncio.wait_for(reader.read(), 10)
            assert said.startswith(b"HTTP/1.1 413 ")
            assert b"connection: close" in said.lower()
            writer.close()

    run(check())


def test_an_answer_that_is_not_http_is_502() -> None:
    async def babble(
        replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await read_request(reader)
        writer.write(b"220 smtp ready\r\n")

    async def check() -> None:
        async with proxy(Replica(babble)) as made:
            assert (await made.ask(post(b"{}"))).startswith(b"HTTP/1.1 502 ")

    run(check())


PARTS = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n", b"POST /x HTTP/1.1\r\n", HOST, b"Content-Length: 3\r\n", b"\r\n",
        b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n", b"\n", b"\r", b"\x00",
        b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"Connection: upgrade\r\n",
        b"Upgrade: websocket\r\n", b"abc", b":", b" ", b"\xff", b"HEAD / HTTP/1.0\r\n",
    ]
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(PARTS | st.binary(max_size=8), max_size=12).map(b"".join))
def test_no_bytes_make_an_error_of_ours(raw: bytes) -> None:
    noticed: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = noticed.append  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)

    async def check() -> None:
        async with proxy(Replica()) as made:
            reader, writer = await made.connect()
            writer.write(raw)
            writer.write_eof()
            said = b""
            with suppress(ConnectionError):
                said = await asyncio.wait_for(reader.read(), 10)
            assert said == b"" or said.startswith(b"HTTP/1.1 "), said
            writer.close()

    try:
        run(check())
    finally:
        logging.getLogger().removeHandler(handler)
    assert [record.getMessage() for record in noticed] == []
