"""Calling an endpoint: our service as it is, or our core behind the stock image."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from llama_hub.deploy import client
from llama_hub.deploy.backend import Endpoint


def call(at: Endpoint, is_stock: bool, body: Mapping[str, Any], *, stream: bool) -> Iterator[bytes]:
    """An OpenAI chat body; the stock image takes it as ``inputs`` and cannot stream."""
    if not is_stock:
        yield from client.post(at, client.CHAT, {**body, "stream": stream})
        return
    whole = b"".join(client.post(at, "/", {"inputs": {**body, "stream": False}}))
    yield from _as_events(whole) if stream else [whole]


def manifest(at: Endpoint, is_stock: bool) -> str:
    """The digest that the service states."""
    if not is_stock:
        return str(client.get(at, "/manifest").get("manifest"))
    said = json.loads(b"".join(client.post(at, "/", {"inputs": {"manifest": True}})))
    return str(said.get("manifest"))


def _as_events(answer: bytes) -> Iterator[bytes]:
    """A whole completion as the one event of a stream."""
    whole = json.loads(answer)
    choices = [
        {"index": 0, "delta": choice["message"], "finish_reason": choice["finish_reason"]}
        for choice in whole["choices"]
    ]
    event = {**whole, "object": "chat.completion.chunk", "choices": choices}
    yield b"data: " + json.dumps(event).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"
