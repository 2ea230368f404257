"""Server-sent events, however the bytes that carry them are cut."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from llama_hub.errors import UnreachableError

MAX_LINE = 1 << 20  # bytes; an event holds a few letters of an answer
DONE = b"[DONE]"  # ends a stream of OpenAI's API


class EventError(UnreachableError, ValueError):
    """What a server streams is none of the events that were asked for."""


def whole_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Lines of a stream whose pieces may end anywhere, without their ends; the rest at last.

    ``EventError`` for a line longer than ``MAX_LINE``.
    """
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
        if len(rest) > MAX_LINE:
            raise EventError(f"the stream holds a line of more than {MAX_LINE} bytes")
    if rest:
        yield rest


def documents(pieces: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON objects of the events; ``EventError`` for one that is none."""
    for line in whole_lines(pieces):
        data = line.strip().removeprefix(b"data:").strip()
        if line.startswith(b"data:") and data != DONE:
            yield _parsed(data)


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise EventError(f"the stream holds an event that is not JSON: {error}") from error
    if not isinstance(event, dict):
        raise EventError("the stream holds an event that is no JSON object")
    return event
