"""HTTP for large files: ranges, kept connections, redirects that lose no secret.

Written on ``http.client`` because the data path is ours: bytes go from the socket straight into
the caller's buffer. Whatever an answer says is checked before its body is used; its head, its error
text and each read of its body are bounded in bytes and in time (see ``bounded_response``); a
redirect never leads nearer to this machine than whoever sent it (see ``addresses``).
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from urllib.parse import SplitResult, urljoin, urlsplit

from llama_hub import __version__, retry_after
from llama_hub.errors import AccessError, IntegrityError, UsageError
from llama_hub.hub.redaction import plain_url, redact
from llama_hub.hub.transfer.addresses import NEAREST, ForbiddenAddressError, Zone
from llama_hub.hub.transfer.bounded_response import HEAD_BYTES, BoundedResponse
from llama_hub.hub.transfer.proxy import Connection, basic, connect, proxy_for, proxy_headers
from llama_hub.hub.transfer.remote_file import Changed, Transient, stated_size

TIMEOUT = 30.0  # seconds for connecting, for the whole head, and for each read of the body
MAX_REDIRECTS = 5
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
REDIRECTS = {301, 302, 303, 307, 308}
_SNIPPET = 2048  # bytes of an error's body that are looked at
_SNIPPET_SECONDS = 10.0
_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)")
_VALIDATOR = re.compile(r"[!-~ ]{1,256}")
_FIRST_CONTACT_TRIES = 3


class StatusError(Exception):
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
        connection: Connection,
        response: BoundedResponse,
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
        # None: chunked, or until the connection is closed. 416 may come with a text; nobody reads
        # it, so that nobody waits for its end.
        self._left = 0 if response.status == 416 else response.length
        self._passed = 0

    def readinto(self, view: memoryview) -> int:
        """See ``remote_file.Body``; ``Transient`` if the connection breaks."""
        try:
            self._response.allow(len(view) + HEAD_BYTES, self._client.timeout)
            if self._left is None:
                return self._read_unsized(view)
            count = self._response.fp.readinto1(view[: self._left]) if self._left else 0
            self._left -= count
            return count
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Transient(f"the connection broke: {_reason(error)}") from error

    def _read_unsized(self, view: memoryview) -> int:
        """Of a body without a length; its framing must not be most of it."""
        data = self._response.read1(len(view))
        view[: len(data)] = data
        self._passed += len(data)
        if self._response.received > 2 * self._passed + 4 * HEAD_BYTES:
            raise http.client.HTTPException("the server sends more framing than content")
        return len(data)

    def abort(self) -> None:
        """See ``origins.Body``."""
        sock = self._connection.sock
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Keep the connection if the body was read to its end."""
        unread = self._response.status == 416 and self._response.length != 0
        if self._left == 0 and not self._response.will_close and not unread:
            self._response.length = 0
            self._response.read()
            self._client.keep(self._key, self._connection)
        else:
            self._response.close()
            self._connection.close()


class Client:
    """Kept connections and the rules of asking; used by many threads."""

    def __init__(self, *, timeout: float = TIMEOUT, follow: Callable[[str], bool] | None = None):
        self.timeout = timeout  # seconds, see ``TIMEOUT``
        self._follow = follow or (lambda url: True)  # whether a redirect to that URL is wanted
        self._kept: dict[str, list[Connection]] = {}
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
        """GET bytes ``start`` to ``stop``; raises ``Transient``, ``Changed`` or ``StatusError``."""
        sent = dict(headers or {}) | _range_headers(start, stop, validator)
        nearest = NEAREST  # the first address is the caller's own choice
        for _ in range(MAX_REDIRECTS + 1):
            connection, key, response = self._get(url, sent, nearest)
            if response.status not in REDIRECTS:
                return self._body(url, connection, key, response, start, stop, validator)
            nearest = connection.zone
            _finish(response, connection)
            target = self._redirected(url, response)
            if _origin(urlsplit(target)) != _origin(urlsplit(url)):
                sent = {name: value for name, value in sent.items() if name not in _PRIVATE}
            url = target
        raise Transient(f"{plain_url(url)}: more than {MAX_REDIRECTS} redirects", tries=1)

    def keep(self, key: str, connection: Connection) -> None:
        """Take back a connection whose answer was read to its end."""
        if connection.sock is not None:
            connection.sock.settimeout(self.timeout)
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
        self, url: str, headers: Mapping[str, str], nearest: Zone
    ) -> tuple[Connection, str, BoundedResponse]:
        parts = _split(url)
        proxy = proxy_for(parts)
        key = f"{_origin(parts)} {proxy.netloc if proxy else ''}"
        target, sent = _target(parts, proxy), dict(headers) | _common_headers(parts, proxy)
        kept = self._take(key, nearest)
        if kept is not None:
            with suppress(OSError, http.client.HTTPException):  # it may have been closed meanwhile
                return kept, key, _ask(kept, target, sent)
            kept.close()
        connection: Connection | None = None
        try:
            connection = connect(parts, proxy, self.timeout, nearest)
            response = _ask(connection, target, sent)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if connection is not None:
                connection.close()
            raise self._trouble(parts, error) from error
        self._reached.add(key)
        return connection, key, response

    def _take(self, key: str, nearest: Zone) -> Connection | None:
        with self._lock:
            kept = self._kept.get(key)
            return kept.pop() if kept and kept[-1].zone <= nearest else None

    def _trouble(self, parts: SplitResult, error: Exception) -> Exception:
        """What a failed connection means."""
        host = parts.hostname
        if isinstance(error, ForbiddenAddressError):
            return AccessError(
                f"a server on the other side sends the request on to {host}: {error}, nearer to "
                "this machine than that server; it was not asked",
                hint="ask whoever runs that server; if you trust the address, name it yourself",
            )
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
        reached = any(key.startswith(_origin(parts)) for key in self._reached)
        return Transient(
            f"{host} cannot be reached: {_reason(error)}",
            tries=None if reached else _FIRST_CONTACT_TRIES,
        )

    def _redirected(self, url: str, response: http.client.HTTPResponse) -> str:
        try:
            target = urljoin(url, response.headers.get("Location", ""))
            old, new = urlsplit(url), _split(target)
        except (ValueError, UsageError) as error:
            raise AccessError(
                f"{plain_url(url)} redirects to what is no http:// or https:// address, which "
                "is not secure",
                hint="ask whoever runs that server",
            ) from error
        if (old.scheme, new.scheme) == ("https", "http"):
            raise AccessError(
                f"{plain_url(url)} redirects to {plain_url(target)}, which is not secure",
                hint="ask whoever runs that server",
            )
        if not self._follow(target):
            raise StatusError(target, response.status, dict(response.headers.items()), "")
        return target

    def _body(
        self,
        url: str,
        connection: Connection,
        key: str,
        response: BoundedResponse,
        start: int,
        stop: int | None,
        validator: str | None,
    ) -> Body:
        try:
            first, total = self._extent(url, response, start)
            if total is None and response.status == 206 and stop is None:
                raise Transient(
                    f"{plain_url(url)} sends a part and does not say of how much", tries=2
                )
            body = Body(self, key, connection, response, first, total)
            if validator is not None and body.validator not in (None, validator):
                raise Changed(plain_url(url))
            return body
        except BaseException:
            response.close()
            connection.close()
            raise

    def _extent(self, url: str, response: BoundedResponse, start: int) -> tuple[int, int | None]:
        """Offset of the first byte and size of the whole file, as the answer states them."""
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise IntegrityError(
                f"{plain_url(url)} compresses what it sends although it was asked not to",
                hint="ask whoever runs that server to turn compression off for these files",
            )
        if response.status == 200:
            return 0, _length(url, response)
        if response.status == 416:
            return _nothing_left(url, response, start)
        if response.status != 206:
            self._refuse(url, response)
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None or match.group(1) is None or int(match.group(1)) != start:
            raise Transient(f"{plain_url(url)} answered with another range than was asked for")
        return start, None if match.group(3) == "*" else stated_size(
            plain_url(url), int(match.group(3))
        )

    def _refuse(self, url: str, response: BoundedResponse) -> None:
        if response.status in TRANSIENT:
            raise Transient(
                f"{plain_url(url)} answered {response.status}",
                retry_after.seconds(dict(response.headers.items())),
            )
        response.allow(HEAD_BYTES, min(_SNIPPET_SECONDS, self.timeout))
        try:
            text = response.read(_SNIPPET).decode("utf-8", errors="replace")
        except (OSError, http.client.HTTPException):
            text = ""
        raise StatusError(url, response.status, dict(response.headers.items()), text)


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


def _ask(connection: Connection, target: str, headers: Mapping[str, str]) -> BoundedResponse:
    connection.request("GET", target, headers=dict(headers))
    response = connection.getresponse()
    assert isinstance(response, BoundedResponse)
    return response


def _finish(response: http.client.HTTPResponse, connection: http.client.HTTPConnection) -> None:
    response.close()
    connection.close()


def _validator(response: http.client.HTTPResponse) -> str | None:
    """What tells one version of the file from another; it is kept and sent back, hence plain."""
    validator = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
    return validator if _VALIDATOR.fullmatch(validator) else None


def _length(url: str, response: http.client.HTTPResponse) -> int | None:
    """Bytes of a whole body; ``None`` if they are told by its end only."""
    stated = set(response.headers.get_all("Content-Length") or ())
    if stated and not response.chunked and (response.length is None or len(stated) > 1):
        raise Transient(f"{plain_url(url)} states a length that is none", tries=2)
    return None if response.length is None else stated_size(plain_url(url), response.length)


def _nothing_left(
    url: str, response: http.client.HTTPResponse, start: int
) -> tuple[int, int | None]:
    """416 says where the file ends: exactly there means that nothing is missing."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    total = match.group(3) if match else "*"
    if total == str(start):
        return start, start
    if total == "*" or start == 0:
        raise Transient(f"{plain_url(url)} answered 416 and does not say how long the file is")
    raise Changed(plain_url(url))


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "nothing came for a while"
    return redact(str(error) or type(error).__name__)
