"""A request's body: read within its limits, and parsed where nobody waits for it.

A parser of JSON holds Python's lock from the first to the last byte, so a thread does not help
against six megabytes of brackets, which take it a second. How many values a body has is counted
first, with array operations that let go of the lock; only what has few enough is parsed.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pydantic_core
from starlette.requests import ClientDisconnect, Request

from llama_hub.inference.service.client import CLIENT
from llama_hub.inference.service.parse_queue import ParseQueue
from llama_hub.inference.service.problems import ClientGoneError, Problem, invalid, overloaded

MAX_VALUES = 1 << 17  # of any kind: 32 prompts of 4096 token ids
MAX_CONTAINERS = 1 << 14  # objects and lists
MAX_FIELDS = 4096  # of one object
MAX_ALL_FIELDS = 1 << 15  # of all objects: each is a text and an entry of a table
MAX_FRACTIONS = 1 << 15  # numbers with a point or an exponent (each is read by a call); true, false
MAX_DEPTH = 100
ON_LOOP = 1 << 14  # bytes below which parsing is quicker than a thread's start
AT_ONCE = 16  # bodies of the largest size that are held together
SPARE = 4  # one in so many of these bytes is kept for clients that hold fewer than half

# What the bytes of a JSON text mean to ``check_structure``; all others are 0.
_QUOTE, _OPENED, _CLOSED, _COLON, _COMMA, _POINT = range(1, 7)
_KINDS = {_QUOTE: b'"', _OPENED: b"[{", _CLOSED: b"]}", _COLON: b":", _COMMA: b",", _POINT: b".eE"}
_MARKS = bytes(
    next((kind for kind, each in _KINDS.items() if byte in each), 0) for byte in range(256)
)


class Bodies:
    """How many bytes of bodies are held while they arrive and until they are parsed.

    The last of them (one in ``SPARE``) are not for a client that holds more than half: bodies that
    never end keep nobody else's out.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes  # of one body
        self.held = 0
        self.thread = ThreadPoolExecutor(1, "llama-hub-body")  # one: they hold the lock in turn
        self._queue = ParseQueue()
        self._of_client: Counter[str] = Counter()  # bytes held

    def close(self) -> None:
        """End the thread."""
        self.thread.shutdown(cancel_futures=True)

    async def parse(self, data: bytes | bytearray) -> dict[str, Any]:
        """A large body as a JSON object, on the thread in its turn; a 400 problem otherwise."""
        loop = asyncio.get_running_loop()
        async with self._queue.turn(CLIENT.get(), len(data)):
            return await loop.run_in_executor(self.thread, parse_json, data)

    @contextmanager
    def room(self) -> Iterator[Body]:
        """A body that may grow; what it holds counts until the block ends."""
        body = Body(self)
        try:
            yield body
        finally:
            self.hold(body.client, -len(body.data))

    def hold(self, client: str, size: int) -> None:
        """Count ``size`` bytes more of ``client``."""
        self.held += size
        self._of_client[client] += size
        if not self._of_client[client]:
            del self._of_client[client]

    def has_room(self, client: str, size: int) -> bool:
        """Whether ``client`` may hold ``size`` bytes more."""
        limit, held = AT_ONCE * self.max_bytes, self.held + size
        is_most = 2 * (self._of_client[client] + size) > limit
        return held <= (limit - limit // SPARE if is_most else limit)


class Body:
    """One body on its way in."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self.client = CLIENT.get()
        self.data = bytearray()

    def expect(self, declared: str) -> None:
        """413 at once for a ``Content-Length`` that is too large."""
        if declared.isdigit() and (len(declared) > 18 or int(declared) > self._bodies.max_bytes):
            raise self._too_large()

    def add(self, chunk: bytes) -> None:
        """Append ``chunk``; 413 or 429 if there is no room for it."""
        bodies = self._bodies
        if len(self.data) + len(chunk) > bodies.max_bytes:
            raise self._too_large()
        if not bodies.has_room(self.client, len(chunk)):
            raise overloaded("too many large bodies are arriving at once", 2)
        bodies.hold(self.client, len(chunk))
        self.data += chunk

    def _too_large(self) -> Problem:
        limit = self._bodies.max_bytes
        return Problem(413, f"the body is larger than {limit} bytes", code="body_too_large")


async def read_json(request: Request, bodies: Bodies, timeout: float) -> dict[str, Any]:
    """The body as a JSON object.

    ``Problem`` 400, 408, 413 or 429 otherwise; ``ClientGoneError`` if the client left.
    """
    async with received(request, bodies, timeout) as data:
        return await parsed(bodies, data)


@asynccontextmanager
async def received(request: Request, bodies: Bodies, timeout: float) -> AsyncIterator[bytearray]:
    """The body's bytes, which count as held until the block ends.

    ``Problem`` 408, 413 or 429 otherwise; ``ClientGoneError`` if the client left.
    """
    with bodies.room() as body:
        try:
            async with asyncio.timeout(timeout):
                await _read(request, body)
        except TimeoutError:
            raise Problem(408, f"the body did not arrive within {timeout:g} s") from None
        except ClientDisconnect:
            raise ClientGoneError from None
        yield body.data


async def parsed(bodies: Bodies, data: bytearray) -> dict[str, Any]:
    """``data`` as a JSON object; a 400 ``Problem`` otherwise."""
    return parse_json(data) if len(data) <= ON_LOOP else await bodies.parse(data)


async def _read(request: Request, body: Body) -> None:
    coding = request.headers.get("content-encoding", "identity")
    if coding != "identity":
        raise Problem(
            415,
            f"a body with Content-Encoding {coding[:40]!r} is not read; send it as it is",
            code="unsupported_encoding",
        )
    body.expect(request.headers.get("content-length", ""))
    async for chunk in request.stream():
        body.add(chunk)


def parse_json(body: bytes | bytearray) -> dict[str, Any]:
    """``body`` as a JSON object with finite numbers and valid Unicode; a 400 problem otherwise."""
    check_structure(body)
    try:
        # Five times as fast as Python's own, so the lock is held for at most some 40 ms.
        document = pydantic_core.from_json(body, allow_inf_nan=False)
        if not isinstance(document, dict):
            raise invalid("the body must be a JSON object")
        _check_values(document)
    except ValueError as error:
        raise invalid(f"the body is not valid JSON: {error}") from None
    return document


def check_structure(body: bytes | bytearray) -> None:
    """400 for a JSON text that would take long to parse, as brackets and commas outside of strings
    tell; about 10 ms for a megabyte, most of it without Python's lock."""
    import numpy as np

    # Escaped pairs go, so that each quotation mark left begins or ends a string.
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in body else body
    marks = np.frombuffer(plain.translate(_MARKS), dtype=np.uint8)
    outside = ~np.logical_xor.accumulate(marks == _QUOTE)
    marks = marks[outside & (marks > _QUOTE)]
    found = np.bincount(marks, minlength=8)
    containers, fields = int(found[_OPENED]), int(found[_COLON])
    _check_count("lists and objects", containers, MAX_CONTAINERS)
    _check_count("fields", fields, MAX_ALL_FIELDS)
    _check_count("fractions, exponents, true and false", int(found[_POINT]), MAX_FRACTIONS)
    _check_count("values", int(found[_COMMA]) + containers, MAX_VALUES)
    brackets = marks[marks <= _CLOSED]
    steps = np.where(brackets == _OPENED, np.int8(1), np.int8(-1))
    depth = int(np.cumsum(steps, dtype=np.int32).max(initial=0))
    _check_count("levels of nesting", depth, MAX_DEPTH)


def _check_count(name: str, count: int, most: int) -> None:
    if count > most:
        raise invalid(f"the body has {count} {name}; at most {most} are taken")


def _check_values(document: dict[str, Any]) -> None:
    """Make ``1.0`` the integer 1, in place, as JSON Schema has it.

    400 for an object with more fields than any route knows what to do with; ``ValueError`` for a
    number that is too large.
    """
    stack: list[Any] = [document]
    while stack:
        container = stack.pop()
        if isinstance(container, dict) and len(container) > MAX_FIELDS:
            count = len(container)
            raise invalid(f"an object has {count} fields; at most {MAX_FIELDS} are taken")
        is_object = isinstance(container, dict)
        values = container.values() if is_object else container
        kinds = set(map(type, values))  # a list of a hundred thousand token ids is passed so
        if float in kinds:
            for key, value in list(container.items() if is_object else enumerate(container)):
                if type(value) is float:
                    container[key] = _number(value)
        if dict in kinds or list in kinds:
            stack += [value for value in values if isinstance(value, (dict, list))]


def _number(value: float) -> float | int:
    if math.isinf(value):
        raise ValueError("a number is too large")
    return int(value) if value.is_integer() and abs(value) < 2**53 else value
