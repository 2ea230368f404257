"""Clients of httpx whose exchanges are bounded in bytes and in time as a whole.

httpx has a limit for each pause between two reads. A server that sends a byte now and then, interim
answers without end, or a compressed answer that unpacks to gigabytes, has none. Here each
connection counts what came since a request was written on it, and for how long; nothing compressed
is asked for or taken; a redirect never leads nearer to this machine than whoever sent it.
Certificates are judged as in every other call of this program: httpx by itself knows no
REQUESTS_CA_BUNDLE.
"""

from __future__ import annotations

import functools
import socket
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urljoin, urlsplit

from llama_hub.hub.transfer.addresses import Zone, zone_of_name, zone_of_text
from llama_hub.hub.transfer.proxy import tls_context

if TYPE_CHECKING:
    import httpx

C = TypeVar("C")

ANSWER_BYTES = 64 << 20  # of one exchange, head and body; hours of generated text
ANSWER_SECONDS = 3600.0


@dataclass(frozen=True)
class _Limits:
    bytes: int
    seconds: float


def client(
    *, limit: int = ANSWER_BYTES, seconds: float = ANSWER_SECONDS, **settings: Any
) -> httpx.Client:
    """A new ``httpx.Client`` with bounds; ``settings`` are its own."""
    import httpx

    bare = httpx.Client(**{"verify": tls_context(), **settings})
    return bounded(bare, limit=limit, seconds=seconds)


def bounded(client: C, *, limit: int = ANSWER_BYTES, seconds: float = ANSWER_SECONDS) -> C:
    """``client`` itself, an ``httpx.Client`` (or one of its fork, ``httpx2``), with bounds."""
    made: Any = client
    made.headers["Accept-Encoding"] = "identity"
    hooks = made.event_hooks
    made.event_hooks = hooks | {"response": [*hooks["response"], _judge]}
    # httpx has no public way to the connections of a pool that it makes itself.
    for transport in (made._transport, *made._mounts.values()):
        pool = getattr(transport, "_pool", None)
        if pool is not None:
            pool._ssl_context = tls_context()
            pool._network_backend = _Backend(
                pool._network_backend, _errors(pool), _Limits(limit, seconds)
            )
    return client


def _errors(pool: Any) -> Any:
    """The module (httpcore, httpcore2) whose exceptions the client understands."""
    return sys.modules[type(pool).__module__.partition(".")[0]]


def _judge(response: Any) -> None:
    """Of an answer whose head has come: ``RemoteProtocolError`` if it is not to be followed."""
    kind = sys.modules[type(response).__module__.partition(".")[0]].RemoteProtocolError
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise kind("the server compresses what it sends although it was asked not to")
    if response.has_redirect_location:
        here, there = str(response.url), response.headers["Location"]
        if not _may_lead(here, there):
            raise kind("the server redirects to an address that is nearer to this machine")


def _may_lead(here: str, there: str) -> bool:
    try:
        old, new = urlsplit(here), urlsplit(urljoin(here, there))
        downgraded = (old.scheme, new.scheme) == ("https", "http")
        return not downgraded and _zone(new.hostname or "") <= _zone(old.hostname or "")
    except ValueError:
        return False


@functools.lru_cache(maxsize=64)
def _zone(host: str) -> Zone:
    """The nearest of the addresses of a name, as far as it can be resolved here."""
    try:
        addresses = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return zone_of_name(host)
    return max(zone_of_text(str(place[0])) for *_, place in addresses)


class _Backend:
    """A network backend of httpcore whose streams are bounded."""

    def __init__(self, inner: Any, errors: Any, limits: _Limits) -> None:
        self._inner = inner
        self._errors = errors
        self._limits = limits

    def connect_tcp(self, *arguments: Any, **more: Any) -> _Stream:
        return _Stream(self._inner.connect_tcp(*arguments, **more), self._errors, self._limits)

    def connect_unix_socket(self, *arguments: Any, **more: Any) -> _Stream:
        stream = self._inner.connect_unix_socket(*arguments, **more)
        return _Stream(stream, self._errors, self._limits)

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _Stream:
    """A network stream of httpcore that counts what comes after each request."""

    def __init__(self, inner: Any, errors: Any, limits: _Limits) -> None:
        self._inner = inner
        self._errors = errors
        self._limits = limits
        self._read = 0  # bytes since the last write
        self._since = time.monotonic()  # the last write

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        left = self._since + self._limits.seconds - time.monotonic()
        if left <= 0:
            raise self._errors.ReadTimeout(f"no end after {self._limits.seconds:g} seconds")
        data = bytes(self._inner.read(max_bytes, left if timeout is None else min(left, timeout)))
        self._read += len(data)
        if self._read > self._limits.bytes:
            raise self._errors.RemoteProtocolError(f"no end after {self._limits.bytes} bytes")
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, timeout)
        self._read, self._since = 0, time.monotonic()

    def close(self) -> None:
        self._inner.close()

    def start_tls(self, *arguments: Any, **more: Any) -> _Stream:
        return _Stream(self._inner.start_tls(*arguments, **more), self._errors, self._limits)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
