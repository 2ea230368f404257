"""How much is let in: the queue, the body, the prompt."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from llama_hub.inference.service.problems import (
    ClientGoneError,
    Problem,
    invalid,
    overloaded,
    unavailable,
)


class Admission:
    """Counts the sequences in the house and refuses those for which there is no room.

    ``at_once``: sequences that decode together; ``queue``: how many more may wait.
    """

    def __init__(self, at_once: Callable[[], int], queue: int, seconds: Callable[[], float]):
        self._at_once = at_once
        self._queue = queue
        self._seconds = seconds  # mean duration of an answer lately
        self._draining = False
        self._empty = asyncio.Event()
        self._empty.set()
        self.sequences = 0

    @contextmanager
    def admit(self, sequences: int) -> Iterator[None]:
        """Hold places for ``sequences``; 400, 429 or 503 if there are none."""
        self._check(sequences)
        self.sequences += sequences
        self._empty.clear()
        try:
            yield
        finally:
            self.sequences -= sequences
            if not self.sequences:
                self._empty.set()

    def _check(self, sequences: int) -> None:
        if self._draining:
            raise unavailable("the server is shutting down")
        room = self._at_once() + self._queue
        if sequences > room:
            raise invalid(f"{sequences} sequences in one request; at most {room} fit the server")
        if self.sequences + sequences > room:
            raise overloaded(
                f"the queue is full: {self.sequences} sequences are being answered or waiting, "
                f"at most {room} may",
                self._retry_after(),
            )

    def _retry_after(self) -> int:
        rounds = self.sequences / max(1, self._at_once())
        return max(1, min(60, math.ceil(rounds * self._seconds() / 2)))

    @property
    def draining(self) -> bool:
        """Whether nothing new is let in."""
        return self._draining

    def drain(self) -> None:
        """Let nothing new in from now on."""
        self._draining = True

    async def emptied(self) -> None:
        """Return when the last sequence has left."""
        await self._empty.wait()


async def read_json(request: Request, *, max_bytes: int, timeout: float) -> dict[str, Any]:
    """The body as a JSON object; 400, 408 or 413 otherwise."""
    try:
        async with asyncio.timeout(timeout):
            body = await _read(request, max_bytes)
    except TimeoutError:
        raise Problem(408, f"the body did not arrive within {timeout:g} s") from None
    except ClientDisconnect:
        raise ClientGoneError from None
    return parse_json(body)


async def _read(request: Request, max_bytes: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
    return bytes(body)


def _too_large(max_bytes: int) -> Problem:
    return Problem(413, f"the body is larger than {max_bytes} bytes", code="body_too_large")


def parse_json(body: bytes) -> dict[str, Any]:
    """``body`` as a JSON object with finite numbers and valid Unicode; a 400 problem otherwise."""
    try:
        document = json.loads(body.decode(), parse_constant=_refuse, parse_float=_number)
        if b"\\u" in body:
            json.dumps(document, ensure_ascii=False).encode()  # lone surrogates fail here
    except (ValueError, RecursionError) as error:
        raise invalid(f"the body is not valid JSON: {_reason(error)}") from None
    if not isinstance(document, dict):
        raise invalid("the body must be a JSON object")
    return document


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _number(digits: str) -> float | int:
    """A finite number; ``1.0`` is the integer 1, as JSON Schema has it."""
    value = float(digits)
    if math.isinf(value):
        raise ValueError("a number is too large")
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} (line {error.lineno}, column {error.colno})"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeError):
        return "it is not Unicode text"
    return str(error)
