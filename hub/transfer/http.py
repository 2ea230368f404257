"""HTTP for large files: ranges, kept connections, redirects that lose no secret.

Written on ``http.client`` because the data path is ours: bytes go from the socket straight into
the caller's buffer. Whatever an answer says is checked before its body is used.
"""

from __future__ import annotations

import email.utils
import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from urllib.parse import SplitResult, urljoin, urlsplit

from llama_hub import __version__
from llama_hub.errors import AccessError, LlamaHubError, UsageError
from llama_hub.hub.redaction import plain_url, redact
from llama_hub.hub.transfer.proxy import basic, connect, proxy_for, proxy_headers
from llama_hub.hub.transfer.remote_file import Changed, Transient

TIMEOUT = 30.0  # seconds without a byte, and for connecting
MAX_REDIRECTS = 5
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
REDIRECTS = {301, 302, 303, 307, 308}
_SNIPPET = 2048  # bytes of an error's body that are looked at
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")
_FIRST_CONTACT_TRIES = 3


class Refusal(Exception):
    """An answer that is neither bytes nor a passing trouble; the source says what it means."""

    def __init__(self, url: str, status: int, headers: Mapping[str, str], text: str) -> None:
        super().__init__(f"{plain_url(url)} answered {status}")
        self.host = urlsplit(url).hostname or ""
        self.place = plain_url(url)
        self.status = status
        self.headers = headers
        self.text = redact(text)


class Body:
    """The body of one answer; see ``origins.Body``."""

    def __init__(
        self,
        client: Client,
        key: str,
        connection: http.client.HTTPConnection,
        response: http.client.HTTPResponse,
        start: int,
        total: int | None,
    ) -> None:
        self.start = start
        self.total = total
        self.media = response.headers.get_content_type() if response.headers else ""
        self.validator = _validator(response)
        self._client = client
        self._key = key
        self._connection = connection
        self._response = response
        self._left = response.length  # None: chunked, or until the connection is closed

    def readinto(self, view: memoryview) -> int:
        """See ``origins.Body``."""
        try:
            if self._left is None:
                data = self._response.read1(len(view))
                view[: len(data)] = data
                return len(data)
            count = self._response.fp.readinto1(view[: self._left]) if self._left else 0
            self._left -= count
            return count
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Transient(f"the connection broke: {_reason(error)}") from error

    def abort(self) -> None:
        """See ``origins.Body``."""
        sock = self._connection.sock
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Keep the connection if the body was read to its end."""
        if self._left == 0 and not self._response.will_close:
            self._response.length = 0
            self._response.read()
            self._client.keep(self._key, self._connection)
        else:
            self._response.close()
            self._connection.close()


class Client:
    """Kept connections and the rules of asking; used by many threads."""

    def __init__(self, *, timeout: float = TIMEOUT, follow: Callable[[str], bool] | None = None):
        self._timeout = timeout
        self._follow = follow or (lambda url: True)  # whether a redirect to that URL is wanted
        self._kept: dict[str, list[http.client.HTTPConnection]] = {}
        self._reached: set[str] = set()
        self._lock = threading.Lock()

    def open(
        self,
        url: str,
        start: int,
        stop: int | None,
        validator: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Body:
        """GET bytes ``start`` to ``stop``; raises ``Transient``, ``Changed`` or ``Refusal``."""
        sent = dict(headers or {}) | _range_headers(start, stop, validator)
        for _ in range(MAX_REDIRECTS + 1):
            connection, key, response = self._get(url, sent)
            if response.status not in REDIRECTS:
                return self._body(url, connection, key, response, start, validator)
            _finish(response, connection)
            target = self._redirected(url, response)
            if _origin(urlsplit(target)) != _origin(urlsplit(url)):
                sent = {name: value for name, value in sent.items() if name not in _PRIVATE}
            url = target
        raise Transient(f"{plain_url(url)}: more than {MAX_REDIRECTS} redirects")

    def keep(self, key: str, connection: http.client.HTTPConnection) -> None:
        """Take back a connection whose answer was read to its end."""
        with self._lock:
            self._kept.setdefault(key, []).append(connection)

    def close(self) -> None:
        """Close the connections that are kept; others may be opened after it."""
        with self._lock:
            kept, self._kept = self._kept, {}
        for connections in kept.values():
            for connection in connections:
                connection.close()

    def _get(
        self, url: str, headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPConnection, str, http.client.HTTPResponse]:
        parts = _split(url)
        proxy = proxy_for(parts)
        key = f"{_origin(parts)} {proxy.netloc if proxy else ''}"
        target, sent = _target(parts, proxy), dict(headers) | _common_headers(parts, proxy)
        kept = self._take(key)
        if kept is not None:
            with suppress(OSError, http.client.HTTPException):  # it may have been closed meanwhile
                return kept, key, _ask(kept, target, sent)
            kept.close()
        connection = connect(parts, proxy, self._timeout)
        try:
            response = _ask(connection, target, sent)
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            raise self._trouble(parts, error) from error
        self._reached.add(key)
        return connection, key, response

    def _take(self, key: str) -> http.client.HTTPConnection | None:
        with self._lock:
            kept = self._kept.get(key)
            return kept.pop() if kept else None

    def _trouble(self, parts: SplitResult, error: Exception) -> Exception:
        """What a failed connection means."""
        host = parts.hostname
        if isinstance(error, ssl.SSLCertVerificationError):
            return AccessError(
                f"the certificate of {host} cannot be trusted: {error.verify_message}",
                hint="behind a company's proxy, set SSL_CERT_FILE to its certificate bundle",
            )
        if isinstance(error, OSError) and "407" in str(error):
            return AccessError(
                "the proxy wants a user and a password",
                hint="set HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT",
            )
        known = any(key.startswith(_origin(parts)) for key in self._reached)
        return Transient(
            f"{host} cannot be reached: {_reason(error)}",
            tries=None if known else _FIRST_CONTACT_TRIES,
        )

    def _redirected(self, url: str, response: http.client.HTTPResponse) -> str:
        target = urljoin(url, response.headers.get("Location", ""))
        old, new = urlsplit(url), urlsplit(target)
        if new.scheme not in ("http", "https") or (old.scheme, new.scheme) == ("https", "http"):
            raise AccessError(
                f"{plain_url(url)} redirects to {plain_url(target)}, which is not secure",
                hint="ask whoever runs that server",
            )
        if not self._follow(target):
            raise Refusal(target, response.status, dict(response.headers.items()), "")
        return target

    def _body(
        self,
        url: str,
        connection: http.client.HTTPConnection,
        key: str,
        response: http.client.HTTPResponse,
        start: int,
        validator: str | None,
    ) -> Body:
        try:
            first, total = self._extent(url, response, start)
            body = Body(self, key, connection, response, first, total)
            if validator is not None and body.validator not in (None, validator):
                raise Changed(plain_url(url))
            return body
        except BaseException:
            response.close()
            connection.close()
            raise

    def _extent(
        self, url: str, response: http.client.HTTPResponse, start: int
    ) -> tuple[int, int | None]:
        """Offset of the first byte and size of the whole file, as the answer states them."""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise LlamaHubError(
                f"{plain_url(url)} compresses what it sends although it was asked not to",
                hint="ask whoever runs that server to turn compression off for these files",
            )
        if response.status == 200:
            return 0, response.length
        if response.status == 416:
            return _nothing_left(url, response, start)
        if response.status != 206:
            self._refuse(url, response)
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None or match.group(1) is None or int(match.group(1)) != start:
            raise Transient(f"{plain_url(url)} answered with another range than was asked for")
        return start, None if match.group(3) == "*" else int(match.group(3))

    def _refuse(self, url: str, response: http.client.HTTPResponse) -> None:
        if response.status in TRANSIENT:
            raise Transient(f"{plain_url(url)} answered {response.status}", _retry_after(response))
        try:
            text = response.read(_SNIPPET).decode("utf-8", errors="replace")
        except (OSError, http.client.HTTPException):
            text = ""
        raise Refusal(url, response.status, dict(response.headers.items()), text)


_PRIVATE = ("Authorization", "Cookie")


def _range_headers(start: int, stop: int | None, validator: str | None) -> dict[str, str]:
    headers = {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}
    if validator is not None and validator.startswith('"'):  # only a strong one may be sent
        headers["If-Range"] = validator
    return headers


def _common_headers(parts: SplitResult, proxy: SplitResult | None) -> dict[str, str]:
    headers = {"User-Agent": f"llama-hub/{__version__}", "Accept-Encoding": "identity"}
    if parts.username:
        headers["Authorization"] = basic(parts)
    if proxy is not None and parts.scheme == "http":
        headers |= proxy_headers(proxy)
    return headers


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        valid = False
    if not valid or re.search(r"[\s\x00-\x1f\x7f]", url):
        raise UsageError("that is not a usable http:// or https:// address", hint="check --url")
    return parts


def _target(parts: SplitResult, proxy: SplitResult | None) -> str:
    """What stands in the request line: a proxy for plain HTTP wants the whole URL."""
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if proxy is None or parts.scheme == "https":
        return target
    return f"http://{parts.netloc.rpartition('@')[2]}{target}"


def _origin(parts: SplitResult) -> str:
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    return f"{parts.scheme}://{parts.hostname}:{port}"


def _ask(
    connection: http.client.HTTPConnection, target: str, headers: Mapping[str, str]
) -> http.client.HTTPResponse:
    connection.request("GET", target, headers=dict(headers))
    return connection.getresponse()


def _finish(response: http.client.HTTPResponse, connection: http.client.HTTPConnection) -> None:
    response.close()
    connection.close()


def _validator(response: http.client.HTTPResponse) -> str | None:
    etag = response.headers.get("ETag")
    return etag if etag else response.headers.get("Last-Modified")


def _nothing_left(
    url: str, response: http.client.HTTPResponse, start: int
) -> tuple[int, int | None]:
    """416 says where the file ends: exactly there means that nothing is missing."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    total = match.group(3) if match else "*"
    if total == str(start):
        response.read()
        response.length = 0
        return start, start
    if total == "*":
        raise Transient(f"{plain_url(url)} answered 416 and does not say how long the file is")
    raise Changed(plain_url(url))


def _retry_after(response: http.client.HTTPResponse) -> float | None:
    value = response.headers.get("Retry-After", "")
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "nothing came for a while"
    return redact(str(error) or type(error).__name__)
