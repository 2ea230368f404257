"""The SDK's transport against answers that have no end, or unpack to one."""

from __future__ import annotations

import gzip
from typing import Any

import pytest
from azure.core.exceptions import AzureError
from azure.core.rest import HttpRequest

from llama_hub.backends.azure.client import transport
from llama_hub.hub.transfer.bounded_requests import bounded
from tests.support.raw_server import OK, PATIENCE, Answer, drip, flood, raw

HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
GZIP = HEAD.replace(b"Connection", b"Content-Encoding: gzip\r\nConnection")
MIB = 1 << 20
ANSWERS: dict[str, Answer] = {
    "a flood": flood(HEAD, b"x" * 4096, 64 * MIB, b""),
    "a drip": drip(HEAD, b"x" * 40),
    "a bomb": flood(GZIP + gzip.compress(bytes(16 * MIB)), b" ", 0, b""),
    "an error": flood(HEAD.replace(b"200", b"400"), b"x" * 4096, 64 * MIB, b""),
}


def _ask(url: str, *, limit: int) -> Any:
    made = transport(lambda seconds: None)
    bounded(made.session, limit=limit, seconds=PATIENCE)
    with made:
        return made.send(HttpRequest("GET", url)).content


@pytest.mark.parametrize("kind", ANSWERS)
def test_what_azure_says_is_bounded(kind: str) -> None:
    with raw(ANSWERS[kind]) as server:
        with pytest.raises(AzureError):
            _ask(server.url, limit=100_000)
        assert server.sent < 32 * MIB


def test_a_good_answer_comes_whole() -> None:
    with raw(OK) as server:
        assert _ask(server.url, limit=100) == b"ok"
