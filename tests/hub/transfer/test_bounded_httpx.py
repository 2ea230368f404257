"""Services that mean harm, met by every client of httpx: chat, invoke, attest, Hub, endpoints.

As in ``test_hostile_server``, each fault has a good end far behind its bound.
"""

from __future__ import annotations

import gzip
import importlib
import json
from typing import Any

import pytest

from llama_hub.cli.chat_clients import RemoteSpeaker, Style, Turn
from llama_hub.deploy import client as deployed
from llama_hub.deploy.backend import Endpoint
from llama_hub.errors import LlamaHubError
from llama_hub.hub.transfer.bounded_httpx import bounded
from tests.support.http_server import Server
from tests.support.raw_server import OK, PATIENCE, Answer, Peer, drip, flood, raw

LIMIT = 100_000  # bytes
MIB = 1 << 20
HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
WITHOUT_END: dict[str, Answer] = {
    "100 Continue, fast": flood(b"", CONTINUE, MIB),
    "100 Continue, slow": drip(b"", CONTINUE * 40, OK),
    "head, slow": drip(b"", OK),
    "body, fast": flood(HEAD, b"x" * 4096, 64 * MIB, b""),
    "body, slow": drip(HEAD, b"x" * 40),
    "an error, fast": flood(HEAD.replace(b"200", b"500"), b"x" * 4096, 64 * MIB, b""),
    "chunk extensions": flood(CHUNKED, b"1;" + b"x" * 9000 + b"\r\ny\r\n", 4 * MIB, b"0\r\n\r\n"),
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(params=["httpx", "httpx2"])
def library(request: pytest.FixtureRequest) -> Any:
    return importlib.import_module(request.param)


def _client(library: Any, **more: Any) -> Any:
    return bounded(library.Client(timeout=PATIENCE, **more), limit=LIMIT, seconds=PATIENCE)


@pytest.mark.parametrize("fault", WITHOUT_END)
def test_what_has_no_end_is_left(library: Any, fault: str) -> None:
    with raw(WITHOUT_END[fault]) as server, _client(library) as client:
        with pytest.raises(library.HTTPError):
            client.get(f"{server.url}/file")
        assert server.sent < 32 * MIB


def test_a_proxy_is_bounded_too(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with raw(WITHOUT_END["body, fast"]) as server:
        monkeypatch.setenv("http_proxy", server.url)
        with _client(library) as client, pytest.raises(library.HTTPError):
            client.get("http://service.example/file")


def test_what_was_not_to_be_compressed_is_not_unpacked(library: Any) -> None:
    bomb = gzip.compress(bytes(8 * MIB))
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    with raw(head + bomb) as server, _client(library) as client:
        with pytest.raises(library.HTTPError, match="compresses"):
            client.get(f"{server.url}/file")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "169.254.169.254", "[::1", "10.0.0.1"])
def test_no_redirect_leads_to_what_is_near(
    library: Any, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    with Server({"secret": b"secret"}) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        proxy.fault("file", "status", status=302, headers={"Location": f"http://{host}/secret"})
        with _client(library, follow_redirects=True) as client, pytest.raises(library.HTTPError):
            client.get("http://service.example/file")
        assert [seen.path for seen in proxy.seen] == ["/file"]


def test_a_good_answer_comes_whole_and_again(library: Any) -> None:
    """The bounds are of each exchange, not of the connection."""
    data = b"x" * (LIMIT - 1000)
    with Server({"file": data}) as server, _client(library) as client:
        for _ in range(4):
            assert client.get(f"{server.url}/file").content == data


# What services say

NONSENSE = [
    b"", b"x", b"[]", b"null", b"7", b"[" * 100_000, b'{"choices": 7}', b'{"choices": [7]}',
    b'{"choices": [{"delta": 7}]}', b'{"choices": [{"delta": {"content": 7}}]}', b"{}",
    b'{"error": 7}', b'{"choices": [{}]}', b'{"usage": 7}', b"\xff\xfe",
]  # fmt: skip


@pytest.mark.parametrize("said", NONSENSE, ids=range(len(NONSENSE)))
def test_a_server_that_says_nonsense_to_a_chat_is_an_error(said: bytes) -> None:
    def answer(peer: Peer) -> None:
        models = json.dumps({"data": [{"id": "m"}]}).encode()
        body = b"data: " + said + b"\n\n" if b"POST" in peer.head else models
        peer.send(HEAD + body)

    with raw(answer) as server:
        speaker = RemoteSpeaker(server.url, {})
        try:
            with pytest.raises(LlamaHubError):
                speaker.say([Turn("user", "Hello")], Style(), lambda text: None)
        finally:
            speaker.close()


@pytest.mark.parametrize("said", NONSENSE, ids=range(len(NONSENSE)))
@pytest.mark.parametrize("status", [200, 500])
def test_a_deployment_that_says_nonsense_is_an_error_or_silent(said: bytes, status: int) -> None:
    body = b"data: " + said + b"\n\n"
    head = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
    with raw(head + body) as server:
        endpoint = Endpoint(server.url)
        try:
            text = deployed.streamed_text(deployed.post(endpoint, "/x", {}))
        except LlamaHubError:
            text = ""
        assert text in ("", "7")
        with pytest.raises(LlamaHubError):
            deployed.get(endpoint, "/x")


def test_an_event_has_an_end() -> None:
    with raw(flood(HEAD, b"x" * 4096, 8 * MIB, b"\n")) as server:
        with pytest.raises(LlamaHubError, match="a line of more than"):
            deployed.streamed_text(deployed.post(Endpoint(server.url), "/x", {}))
