"""The transfer's client in front of servers that mean harm: no proxy, and all that is read."""

from __future__ import annotations

import pytest

from llama_hub.hub.transfer.http import Client


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's proxies are not asked."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def read(client: Client, url: str, start: int = 0) -> bytes:
    """All bytes of ``url`` from ``start``."""
    body = client.open(url, start, None)
    data, view = b"", memoryview(bytearray(1 << 16))
    try:
        while count := body.readinto(view):
            data += bytes(view[:count])
    finally:
        body.close()
    return data
