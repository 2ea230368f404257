"""Clients of boto3 whose answers are bounded.

botocore reads every answer whole, however long it is and however slowly it comes; only a pause
between two reads has a limit. Here an answer that is no stream has a number of bytes and a time
for the whole of it, and so has the text of a refusal. Streams are read piece by piece by whoever
asked for them, with ``read_some``.
"""

from __future__ import annotations

import time
from typing import Any

ANSWER_BYTES = 32 << 20  # the Pricing API's pages, the largest, have a few MB
ANSWER_SECONDS = 300.0
_PIECE = 64 << 10


def bounded(client: Any, *, limit: int = ANSWER_BYTES, seconds: float = ANSWER_SECONDS) -> Any:
    """``client`` itself, with an HTTP session that bounds what it reads."""
    endpoint = client._endpoint  # there is no public way; every version of botocore has it
    endpoint.http_session = _Session(endpoint.http_session, limit, seconds)
    return client


class _Session:
    """A session of botocore: ``send`` and ``close``."""

    def __init__(self, inner: Any, limit: int, seconds: float) -> None:
        self._inner = inner
        self._limit = limit
        self._seconds = seconds

    def send(self, request: Any) -> Any:
        wants_stream, request.stream_output = request.stream_output, True
        response = self._inner.send(request)
        if not wants_stream or response.status_code >= 300:
            response._content = _read(response.raw, self._limit, self._seconds)
        return response

    def close(self) -> None:
        self._inner.close()


def read_body(body: Any, *, limit: int = ANSWER_BYTES, seconds: float = ANSWER_SECONDS) -> bytes:
    """The whole of an answer's ``Body``."""
    return _read(body._raw_stream, limit, seconds)


def _read(raw: Any, limit: int, seconds: float) -> bytes:
    from botocore.exceptions import HTTPClientError
    from urllib3.exceptions import HTTPError

    deadline, data = time.monotonic() + seconds, bytearray()
    try:
        while piece := read_some(raw, _PIECE):
            data += piece
            if len(data) > limit or time.monotonic() > deadline:
                raw.close()
                raise HTTPClientError(
                    error=f"an answer of more than {limit} bytes or {seconds:g} seconds"
                )
    except HTTPError as error:
        raise HTTPClientError(error=error) from error
    raw.release_conn()
    return bytes(data)


def read_some(raw: Any, size: int) -> bytes:
    """Some of a stream of urllib3, at most ``size`` bytes; what has come, without more waiting."""
    return bytes((raw.read1(size) if hasattr(raw, "read1") else raw.read(size)) or b"")
