"""Answers on the wire: streams that notice a client's leaving, and work that stops with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from llama_hub.inference.service.problems import (
    ClientGoneError,
    Problem,
    Shape,
    as_problem,
    body_of,
    status_of,
)

T = TypeVar("T")
Document = dict[str, Any]
Frame = Callable[[Document], bytes]
JSON_LINES = ("application/jsonlines", "application/x-ndjson", "application/jsonl")


def sse(document: Document) -> bytes:
    """``document`` as a server-sent event."""
    return b"data: " + _dense(document) + b"\n\n"


def named_sse(document: Document) -> bytes:
    """The same with the document's ``type`` as the event's name."""
    return f"event: {document.get('type', 'error')}\n".encode() + sse(document)


def json_line(document: Document) -> bytes:
    """``document`` as one line."""
    return _dense(document) + b"\n"


def _dense(document: Document) -> bytes:
    return _dense_text(document).encode()


SLICE = 512  # items of a list that are encoded in one go


def json_bytes(value: Any) -> bytes:
    """``value`` as JSON, encoded in slices: the encoder holds Python's lock through each call."""
    return _json_text(value).encode()


def _json_text(value: Any) -> str:
    if isinstance(value, dict) and value:
        parts = (f"{json.dumps(key)}:{_json_text(item)}" for key, item in value.items())
        return "{" + ",".join(parts) + "}"
    if isinstance(value, list) and len(value) > SLICE:
        slices = (value[start : start + SLICE] for start in range(0, len(value), SLICE))
        return "[" + ",".join(_dense_text(each)[1:-1] for each in slices) + "]"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "[" + ",".join(_json_text(item) for item in value) + "]"
    return _dense_text(value)


def _dense_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


async def document_response(make: Callable[[], Any]) -> Response:
    """The document that ``make`` gives, made and encoded beside the event loop: with
    log-probabilities it may have millions of values."""
    data = await asyncio.to_thread(lambda: json_bytes(make()))
    return Response(data, media_type="application/json")


def problem_response(problem: Problem, shape: Shape) -> Response:
    """An error in the shape of the route."""
    return JSONResponse(body_of(problem, shape), status_of(problem, shape), problem.headers)


class StreamReply(Response):
    """A stream of documents; the source is closed at its end or when the client leaves.

    ``done`` is written after the last document; ``media_type`` is that of lines. An error on the
    way becomes a last document.
    """

    def __init__(
        self,
        source: AsyncGenerator[Document, None],
        *,
        shape: Shape = "openai",
        lines: bool = False,
        done: bytes = b"",
        media_type: str = "application/jsonlines",
        frame: Frame = sse,
    ) -> None:
        self._source = source
        self._shape = shape
        self._frame: Frame = json_line if lines else frame
        self._done = b"" if lines else done
        self.status_code = 200
        self.background = None
        kind = media_type if lines else "text/event-stream"
        self.init_headers(
            {
                "content-type": f"{kind}; charset=utf-8",
                "cache-control": "no-cache",
                "x-accel-buffering": "no",
            }
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the source ends or the client is gone."""
        try:
            await while_connected(receive, self._send_all(send))
        except (ClientGoneError, OSError):
            pass
        finally:
            await self._source.aclose()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        while True:
            try:
                document = await anext(self._source)
            except StopAsyncIteration:
                last = self._done
                break
            except Exception as error:
                last = self._frame(body_of(as_problem(error), self._shape))
                break
            await _send_part(send, self._frame(document))
        await _send_part(send, last, more=False)


async def _send_part(send: Send, data: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``; it is cancelled, and ``ClientGoneError`` raised, when the client
    leaves first. The request's body must have been read."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.wait({task, gone})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def started(source: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """``source`` once its first item is there, so that an error still has its own status."""
    try:
        first = await anext(source)
    except StopAsyncIteration:
        return _then(None, source)
    return _then(first, source)


async def _then(first: T | None, source: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    try:
        if first is not None:
            yield first
        async for item in source:
            yield item
    finally:
        await source.aclose()


def wants_lines(request: Request) -> bool:
    """Whether the client asked for JSON lines instead of server-sent events."""
    accepted = request.headers.get("accept", "")
    return any(kind in accepted for kind in JSON_LINES)
