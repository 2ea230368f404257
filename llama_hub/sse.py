"""Server-sent events, however the bytes that carry them are cut."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

DONE = b"[DONE]"  # ends a stream of OpenAI's API


def whole_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Lines of a stream whose pieces may end anywhere, without their ends; the rest at last."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    if rest:
        yield rest


def documents(pieces: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON documents of the events; ``ValueError`` for one that is none."""
    for line in whole_lines(pieces):
        data = line.strip().removeprefix(b"data:").strip()
        if line.startswith(b"data:") and data != DONE:
            yield json.loads(data)
