"""Sessions of requests (of Azure's SDK) whose answers are bounded in bytes and time as a whole."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

ANSWER_BYTES = 64 << 20
ANSWER_SECONDS = 600.0


def bounded(session: Any, *, limit: int = ANSWER_BYTES, seconds: float = ANSWER_SECONDS) -> Any:
    """``session`` itself; what an answer unpacks to counts, not what comes over the wire."""
    for adapter in set(session.adapters.values()):
        _bound(adapter, limit, seconds)
    return session


def _bound(adapter: Any, limit: int, seconds: float) -> None:
    build = adapter.build_response

    def build_bounded(request: Any, response: Any) -> Any:
        if not isinstance(response.stream, _Stream):  # the bounds that were set last count
            response.stream = _Stream(response, limit, seconds)
        return build(request, response)

    adapter.build_response = build_bounded


class _Stream:
    """In place of ``urllib3.HTTPResponse.stream``: pieces as they arrive."""

    def __init__(self, response: Any, limit: int, seconds: float) -> None:
        self._response = response
        self._limit = limit
        self._seconds = seconds

    def __call__(self, amt: int = 1 << 16, decode_content: bool | None = None) -> Iterator[bytes]:
        from urllib3.exceptions import ProtocolError

        deadline, count = time.monotonic() + self._seconds, 0
        while piece := self._response.read1(amt, decode_content=decode_content):
            count += len(piece)
            if count > self._limit or time.monotonic() > deadline:
                self._response.close()
                raise ProtocolError(
                    f"an answer of more than {self._limit} bytes or {self._seconds:g} seconds"
                )
            yield piece
