"""Servers that mean harm: answers without an end, sizes that are none, redirects to what is near.

Each fault comes to an end of its own, in bytes or in pieces, with a good answer behind it: a client
that waits for that has no bound, and fails its test.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from llama_hub.errors import IntegrityError
from llama_hub.hub.sources.web import HttpTree
from llama_hub.hub.transfer.http import Client, StatusError
from llama_hub.hub.transfer.remote_file import Transient, read_all
from llama_hub.hub.transfer.retry import Policy, TransferError
from tests.support.hostile_client import no_proxies, read  # noqa: F401 - a fixture
from tests.support.raw_server import OK, PATIENCE, Answer, Peer, drip, flood, raw
from tests.support.transfers import DATA, SIZE, Target

MIB = 1 << 20
QUICK = Policy(
    connections=1, attempts=3, backoff=0.001, longest_wait=0.01, ramp=0, stall_seconds=PATIENCE
)


@pytest.fixture
def client() -> Iterator[Client]:
    with closing(Client(timeout=PATIENCE)) as made:
        yield made


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
WITHOUT_END: dict[str, Answer] = {
    "100 Continue, fast": flood(b"", CONTINUE, MIB),
    "100 Continue, slow": drip(b"", CONTINUE * 40, OK),
    "interim headers": flood(b"HTTP/1.1 100 Continue\r\n", b"A: b\r\n", MIB, b"\r\n" + OK),
    "head, slow": drip(b"", OK),
    "headers": flood(
        b"HTTP/1.1 200 OK\r\n", b"A: " + b"b" * 60_000 + b"\r\n", 5 * MIB, OK.split(b"\r\n", 1)[1]
    ),
    "trailers, fast": flood(CHUNKED + b"2\r\nok\r\n0\r\n", b"A: b\r\n", 4 * MIB, b"\r\n"),
    "trailers, slow": drip(CHUNKED + b"2\r\nok\r\n0\r\n", b"A: b\r\n" * 40, b"\r\n"),
    "chunk extensions": flood(CHUNKED, b"1;" + b"x" * 60_000 + b"\r\ny\r\n", 4 * MIB, b"0\r\n\r\n"),
}


@pytest.mark.parametrize("fault", WITHOUT_END)
def test_what_has_no_end_is_left(client: Client, fault: str) -> None:
    with raw(WITHOUT_END[fault]) as server, pytest.raises(Transient):
        read(client, f"{server.url}/file")


def test_a_handshake_that_drips_is_left(client: Client) -> None:
    """A TLS record of 80 bytes, piece by piece."""
    with (
        raw(drip(b"", b"\x16\x03\x03\x00\x50" + bytes(75)), reads_head=False) as server,
        pytest.raises(Transient, match="nothing came|time"),
    ):
        read(client, server.url.replace("http:", "https:"))


def test_a_proxy_that_never_ends_its_answer_is_left(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = b"HTTP/1.1 200 OK\r\n"
    with raw(flood(head, b"A: b\r\n", 2 * MIB, b"\r\n")) as server:
        monkeypatch.setenv("https_proxy", server.url)
        with pytest.raises(Transient, match="more than such an answer"):
            read(client, "https://mirror.example/file")


@pytest.mark.parametrize("status", [403, 404, 500, 503])
@pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked", b"Content-Length: 99999999999"])
def test_an_error_text_is_read_as_far_as_it_is_shown(
    client: Client, status: int, framing: bytes
) -> None:
    piece = b"400\r\n" + b"x" * 1024 + b"\r\n"
    head = b"HTTP/1.1 %d No\r\n%s\r\n\r\n" % (status, framing)
    with raw(flood(head, piece, 64 * MIB)) as server:
        with pytest.raises((StatusError, Transient)) as caught:
            read(client, f"{server.url}/file")
        assert server.sent < 32 * MIB
    assert len(str(caught.value)) < 200


def test_an_error_text_that_drips_is_not_waited_for(client: Client) -> None:
    head = b"HTTP/1.1 403 No\r\nContent-Length: 40\r\n\r\n"
    with raw(drip(head, b"y" * 40)) as server, pytest.raises(StatusError) as caught:
        read(client, f"{server.url}/file")
    assert caught.value.status == 403
    assert "y" * 40 not in caught.value.text


@pytest.mark.parametrize("length", [b"Content-Length: 99999999999", b"X: y"])
def test_the_text_of_416_is_not_read(client: Client, length: bytes) -> None:
    head = b"HTTP/1.1 416 No\r\nContent-Range: bytes */5\r\n%s\r\n\r\n" % length
    with raw(flood(head, b"x" * 4096, 64 * MIB)) as server:
        assert read(client, f"{server.url}/file", 5) == b""
        assert server.sent < 32 * MIB
    assert client._kept == {}


# Sizes that are none

HUGE = [str(2**60), "9" * 5000, "1" + "0" * 18]


@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize(
    "header", ["200 OK\r\nContent-Length: {}", "206 Part\r\nContent-Range: bytes 0-1/{}"]
)
def test_a_size_that_no_file_has_is_refused(tmp_path: Path, header: str, number: str) -> None:
    with raw(f"HTTP/1.1 {header.format(number)}\r\n\r\nPK".encode()) as server:
        target = Target(tmp_path, server.url)
        with pytest.raises((IntegrityError, TransferError)):
            target.fetch({}, None, QUICK)
    assert not target.path.exists() or target.path.stat().st_size == 0


@pytest.mark.parametrize(
    "headers", ["Content-Length: 2\r\nContent-Length: 3", "Content-Length: -1", "Content-Length: x"]
)
def test_a_length_that_is_none_is_not_taken_for_no_length(client: Client, headers: str) -> None:
    with raw(f"HTTP/1.1 200 OK\r\n{headers}\r\n\r\nok".encode()) as server:
        with pytest.raises(Transient, match="length that is none"):
            read(client, f"{server.url}/file")


@pytest.mark.parametrize("framing", ["", "Transfer-Encoding: chunked\r\n"])
def test_a_body_without_length_ends_where_the_file_ends(tmp_path: Path, framing: str) -> None:
    piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    head = f"HTTP/1.1 200 OK\r\n{framing}\r\n".encode()
    with raw(flood(head, piece, SIZE + 64 * MIB)) as server:
        target = Target(tmp_path, server.url, "tokenizer.model")
        with pytest.raises(IntegrityError, match="does not end after 1000 bytes"):
            target.fetch({}, 1000, QUICK)
        assert server.sent < 32 * MIB
    assert target.path.stat().st_size == 0


def test_a_part_of_unknown_size_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 206 Part\r\nContent-Range: bytes 0-1/*\r\nContent-Length: 2\r\n\r\nPK"
    with raw(answer) as server:
        target = Target(tmp_path, server.url)
        with pytest.raises(TransferError, match="does not say of how much"):
            target.fetch({}, None, QUICK)


def test_a_small_file_is_bounded_in_bytes_and_time(client: Client) -> None:
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    with raw(flood(head, b"x" * 4096, 64 * MIB)) as server:
        with pytest.raises(IntegrityError, match="larger than the 1000 bytes"):
            read_all(HttpTree(server.url).request("LICENSE"), 1000)
        assert server.sent < 32 * MIB
    stated = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"
    with raw(stated) as server, pytest.raises(IntegrityError, match="larger than the 1000"):
        read_all(HttpTree(server.url).request("LICENSE"), 1000)
    with raw(drip(stated, b"x" * 5000)) as server, pytest.raises(Transient, match="in time"):
        read_all(HttpTree(server.url).request("LICENSE"), 10_000, seconds=PATIENCE)


def test_one_byte_for_each_connection_is_no_progress(tmp_path: Path) -> None:
    def answer(peer: Peer) -> None:
        start = int(peer.head.split(b"bytes=")[1].split(b"-")[0])
        head = b"HTTP/1.1 206 Part\r\nContent-Range: bytes %d-%d/%d\r\nContent-Length: %d\r\n\r\n"
        peer.send(head % (start, SIZE - 1, SIZE, SIZE - start) + DATA[start : start + 1])

    with raw(answer) as server:
        with pytest.raises(TransferError, match="tried 3 times"):
            Target(tmp_path, server.url).fetch(policy=QUICK)
        assert server.connections == 3


def test_what_a_server_asks_to_wait_is_a_number_or_nothing(tmp_path: Path) -> None:
    for wait in ("²", "9" * 400, "Sun, 99 Foo 99999 99:99:99 GMT", "-1", "nan"):
        with raw(
            f"HTTP/1.1 503 No\r\nRetry-After: {wait}\r\n\r\n".encode("latin-1", "replace")
        ) as s:
            with pytest.raises(TransferError, match="tried 3 times"):
                Target(tmp_path, s.url).fetch(policy=QUICK)


def test_a_validator_that_is_no_plain_text_is_not_kept(client: Client) -> None:
    for etag in ('"' + "x" * 5000 + '"', '"\x01"', '"é"'):
        head = f"HTTP/1.1 200 OK\r\nETag: {etag}\r\nContent-Length: 0\r\n\r\n"
        with raw(head.encode("latin-1")) as server:
            body = client.open(f"{server.url}/file", 0, None)
            assert body.validator is None
            body.close()
