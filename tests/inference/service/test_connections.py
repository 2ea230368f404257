"""Connections have deadlines and a limit; who may learn what, and by which name."""

from __future__ import annotations

import asyncio
import asyncio.selector_events
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from llama_hub.inference.service import connections, server
from llama_hub.inference.service.settings import ServiceSettings
from tests.support.serving import Running, echo_engine, serving

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
SHORT = ServiceSettings(head_timeout=0.1, write_timeout=0.1, body_timeout=0.2)


def connect(running: Running) -> socket.socket:
    host, port = running.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def everything(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    seen = b""
    try:
        while part := connection.recv(1 << 16):
            seen += part
    except ConnectionError:
        pass
    return seen


def read_until(connection: socket.socket, text: bytes) -> None:
    seen = b""
    while text not in seen:
        part = connection.recv(4096)
        assert part, seen
        seen += part


def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to that")


def get(running: Running, path: str, **headers: str) -> httpx.Response:
    return httpx.get(running.url + path, headers=headers, trust_env=False, timeout=20)


def test_who_says_nothing_is_cut_off() -> None:
    with serving(settings=SHORT) as running, connect(running) as silent:
        assert everything(silent) == b""


@pytest.mark.parametrize("before", [b"", b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_a_head_that_comes_drop_by_drop_has_an_end(before: bytes) -> None:
    with serving(settings=SHORT) as running, connect(running) as slow:
        if before:
            slow.sendall(before)
            assert b"200" in slow.recv(4096)
        slow.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        slow.settimeout(0.01)
        seen = b""
        for count in range(2000):
            try:
                slow.sendall(b"X-%d: y\r\n" % count)
                seen += slow.recv(4096)
            except TimeoutError:
                continue
            except ConnectionError:
                break
            if b"408" in seen:
                break
        else:
            raise AssertionError("the head was waited for without end")


def test_a_request_that_takes_long_is_not_cut_off() -> None:
    with serving(echo_engine(pace=0.05), SHORT) as running:
        body = {"prompt": "one", "max_tokens": 20}
        answer = httpx.post(f"{running.url}/v1/completions", json=body, trust_env=False, timeout=60)
        assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/v1/completions", "/nowhere", "/health", "/ping"])
def test_the_body_of_a_refused_request_is_not_kept(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LINGER", 0.1)
    settings = ServiceSettings(api_key="k", max_body_bytes=1 << 30)
    with serving(settings=settings) as running, connect(running) as sender:
        sender.sendall(HEAD.replace(b"/v1/completions", path.encode()))
        assert sender.recv(4096).startswith(b"HTTP/1.1 ")
        # The rest is dropped for a moment, so that the answer is read, and then no more.
        sender.settimeout(0.01)
        for _ in range(2000):
            try:
                sender.sendall(b"x")
                if not sender.recv(4096):
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            raise AssertionError("the body was taken without end")
        assert running.service.bodies.held == 0


def test_a_refused_body_that_ends_leaves_the_connection_usable() -> None:
    with serving(settings=ServiceSettings(api_key="k")) as running, connect(running) as sender:
        sender.sendall(HEAD.replace(b"1000000", b"100000"))
        read_until(sender, b"invalid_api_key")
        sender.sendall(b"x" * 100_000)
        sender.sendall(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")
        read_until(sender, b'"version"')


def test_who_does_not_read_is_cut_off() -> None:
    with serving(settings=SHORT) as running, connect(running) as deaf:
        deaf.settimeout(0.05)
        request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
        try:
            for _ in range(2000):  # until neither side's buffers take more
                deaf.sendall(request)
        except (TimeoutError, ConnectionError):
            pass
        until(lambda: len(running.connections) == 0)


def test_a_stream_that_nobody_reads_gives_its_place_back() -> None:
    engine = echo_engine(context=1 << 20)
    with serving(engine, SHORT) as running, connect(running) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = b'{"prompt": "one", "max_tokens": 1000000, "stream": true}'
        deaf.sendall(HEAD.replace(b"1000000", b"%d" % len(body)) + body)
        assert b"200" in deaf.recv(100)
        until(lambda: running.service.admission.sequences == 0)
        until(lambda: engine.running == {})


@pytest.mark.parametrize("start", [b"", b"GET / HT", HEAD + b"{"])
def test_one_connection_too_many_takes_the_place_of_the_one_that_waits_longest(
    start: bytes,
) -> None:
    with serving(settings=ServiceSettings(max_connections=3)) as running:
        kept: list[socket.socket] = []
        for count in range(3):
            kept.append(connect(running))
            kept[-1].sendall(start)
            until(lambda wanted=count + 1: len(running.connections) == wanted)  # type: ignore[misc]
        assert get(running, "/health").status_code == 200
        assert everything(kept[0]) == b""
        assert len(running.connections) <= 3
        for connection in kept:
            connection.close()


def test_answers_under_way_are_not_cut_off_for_new_connections() -> None:
    engine = echo_engine()
    with serving(engine, ServiceSettings(max_connections=2)) as running:
        body = b'{"prompt": "one", "max_tokens": 3, "stream": true}'
        engine.gate = asyncio.Event()
        busy = [connect(running) for _ in range(2)]
        for connection in busy:
            connection.sendall(HEAD.replace(b"1000000", b"%d" % len(body)) + body)
            assert b"200" in connection.recv(100)
        with connect(running) as third:
            assert everything(third).startswith(b"HTTP/1.1 503 ")
        running.loop.call_soon_threadsafe(engine.gate.set)
        for connection in busy:
            read_until(connection, b"[DONE]")
            connection.close()


def test_heads_have_a_size() -> None:
    with serving() as running, connect(running) as sender:
        sender.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * (1 << 17))
        assert everything(sender).startswith(b"HTTP/1.1 4")


CHUNKED = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunks(body: bytes, size: int) -> bytes:
    parts = (body[start : start + size] for start in range(0, len(body), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize("size", [80, 1000, 1 << 20])
def test_many_chunks_are_parsed_a_little_at_a_time(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[int] = []
    parse = connections.Connection._parse

    def noted(self: connections.Connection, data: bytes) -> None:
        parsed.append(len(data))
        parse(self, data)

    monkeypatch.setattr(connections.Connection, "_parse", noted)
    body = b'{"prompt": "one", "max_tokens": 2' + b" " * 50_000 + b"}"
    version = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with serving() as running, connect(running) as sender:
        # Pipelined: three requests in one go, one of them in chunks.
        sender.sendall(version + CHUNKED + chunks(body, size) + version)
        seen = b""
        while seen.count(b'"version"') < 2:
            part = sender.recv(4096)
            assert part, seen
            seen += part
        assert seen.count(b"HTTP/1.1 200") == 3
        assert b"text_completion" in seen
    assert max(parsed) <= (connections.SLICE if size == 80 else connections.BODY_SLICE)


@pytest.mark.parametrize(("size", "status"), [(1, b"400"), (60, b"400"), (80, b"200")])
def test_a_body_is_not_cut_too_fine(size: int, status: bytes) -> None:
    """Each chunk costs as much as a small request: 400,000 of one byte took seconds."""
    body = b'{"prompt": "one", "max_tokens": 2' + b" " * 50_000 + b"}"
    with serving() as running, connect(running) as sender:
        sender.sendall(
            CHUNKED.replace(b"\r\n", b"\r\nConnection: close\r\n", 1) + chunks(body, size)
        )
        answer = everything(sender)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert (b"too many small chunks" in answer) == (status == b"400")


# --- names and details ------------------------------------------------------------------------

ROUTES = ["/", "/health", "/ping", "/v1/models", "/metrics", "/manifest", "/docs", "/page.json",
          "/openapi.json", "/version", "/nowhere", "/page/page.js", "/health/live"]  # fmt: skip


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.nip.io", "", "[x"])
def test_without_a_key_a_foreign_name_gets_nothing(running: Running, host: str) -> None:
    for path in ROUTES:
        refused = get(running, path, Host=host)
        assert refused.status_code in (400, 403), path
        assert "llama" not in refused.text
    for path in ("/v1/completions", "/", "/ping", "/invocations"):
        refused = httpx.post(running.url + path, json={}, headers={"Host": host}, trust_env=False)
        assert refused.status_code in (400, 403), path
    preflight = {"Host": host, "Origin": "http://a", "Access-Control-Request-Method": "POST"}
    assert httpx.options(running.url, headers=preflight, trust_env=False).status_code in (400, 403)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.1.2.3:9", "[::1]:8"]
)
def test_names_of_loopback_are_right(running: Running, host: str) -> None:
    assert get(running, "/v1/models", Host=host).status_code == 200


@pytest.mark.parametrize("settings", [{"api_key": "k"}, {"check_host": False}])
def test_other_names_are_for_servers_that_others_reach(settings: dict[str, Any]) -> None:
    with serving(settings=ServiceSettings(**settings)) as running:
        headers = {"Host": "models.example", "Authorization": "Bearer k"}
        assert get(running, "/v1/models", **headers).status_code == 200


def secret_failure(**settings: Any) -> list[tuple[int, str]]:
    """Status and text of what an engine that cannot start makes each open route say."""
    engine = echo_engine(fail=RuntimeError("/home/me/secret path"))
    seen = []
    with serving(engine, ServiceSettings(**settings)) as running:
        for path in ("/health", "/health/ready", "/ping", "/page.json"):
            answer = get(running, path)
            seen.append((answer.status_code, answer.text))
        known = get(running, "/health", Authorization="Bearer k")
        seen.append((known.status_code, known.text))
    return seen


def test_the_reason_is_for_who_has_the_key() -> None:
    *open_to_all, (status, text) = secret_failure(api_key="k")
    assert [code for code, _ in open_to_all] == [503, 503, 503, 200]
    assert not any("secret" in text for _, text in open_to_all)
    assert open_to_all[0][1] == '{"status":"unavailable"}'
    assert status == 503
    assert "secret path" in text


def test_nobody_learns_the_reason_where_everybody_may_ask() -> None:
    assert not any("secret" in text for _, text in secret_failure(check_host=False))


def test_an_unready_server_refuses_without_the_errors_text() -> None:
    engine = echo_engine(fail=RuntimeError("/home/me/secret path"))
    with serving(engine) as running:
        answer = httpx.post(f"{running.url}/v1/completions", json={"prompt": "a"}, trust_env=False)
        assert answer.status_code == 503
        assert "did not start" in answer.text
        assert "secret" not in answer.text


def test_few_connections_are_taken_in_one_go_and_many_may_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1500 at once were taken and begun in one round of the event loop, a third of a second."""
    taken: list[int] = []
    accept = asyncio.selector_events.BaseSelectorEventLoop._accept_connection  # type: ignore[attr-defined]

    def noted(self: Any, factory: Any, sock: Any, *more: Any) -> None:
        before = len(asyncio.all_tasks(self))
        accept(self, factory, sock, *more)
        taken.append(len(asyncio.all_tasks(self)) - before)

    monkeypatch.setattr(asyncio.selector_events.BaseSelectorEventLoop, "_accept_connection", noted)
    with serving() as running:
        held = threading.Event()
        running.loop.call_soon_threadsafe(held.wait, 10)
        waiting = [connect(running) for _ in range(200)]  # none is refused, none is taken yet
        held.set()
        assert get(running, "/health").status_code == 200
        for connection in waiting:
            connection.close()
    assert max(taken) <= server.ACCEPTED
