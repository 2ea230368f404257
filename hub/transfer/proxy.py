"""Proxies and certificates that the environment states, read as other tools read them."""

from __future__ import annotations

import base64
import http.client
import os
import ssl
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from llama_hub.errors import UsageError
from llama_hub.hub.redaction import plain_url
from llama_hub.hub.transfer.addresses import NEAREST, Zone, dial, peer_zone, require, zone_of_name
from llama_hub.hub.transfer.bounded_response import BoundedResponse

CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def certificate_bundle(*first: str) -> str | None:
    """The file or folder of certificates for libraries that take one; none: the system's.

    ``first``: the variables that such a library, or its platform's tools, look at before others.
    """
    names = (*first, *CERTIFICATE_VARIABLES)
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def tls_context() -> ssl.SSLContext:
    """The trusted certificates: the environment's bundles, else the system's, else certifi's.

    One for all calls of this program, whichever library makes them. Each variable is some tool's
    own; whoever sets two of them means both.
    """
    named = ((name, os.environ.get(name)) for name in CERTIFICATE_VARIABLES)
    bundles = tuple((name, value) for name, value in named if value)
    return _context_with(bundles) if bundles else _system_context()


@cache
def _system_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not context.get_ca_certs() and not _has_certificate_folder():
        try:
            import certifi
        except ModuleNotFoundError:
            return context
        context.load_verify_locations(certifi.where())
    return context


@cache
def _context_with(bundles: tuple[tuple[str, str], ...]) -> ssl.SSLContext:
    """``bundles``: variable and what it names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for variable, bundle in bundles:
        try:
            if Path(bundle).is_dir():
                context.load_verify_locations(capath=bundle)
            else:
                context.load_verify_locations(cafile=bundle)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(
                f"the certificates in {bundle} cannot be read: {error}",
                hint=f"{variable} must name a file with PEM certificates",
            ) from error
    return context


def _has_certificate_folder() -> bool:
    folder = ssl.get_default_verify_paths().capath
    return folder is not None and any(Path(folder).glob("*"))


def proxy_for(url: SplitResult) -> SplitResult | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY give for ``url``.

    ``UsageError`` for one that is not http://.
    """
    proxies = urllib.request.getproxies()
    address = proxies.get(url.scheme) or proxies.get("all")
    if not address or urllib.request.proxy_bypass(url.netloc.rpartition("@")[2]):
        return None
    proxy = _proxy(address if "://" in address else f"http://{address}")
    if proxy.scheme != "http" or not proxy.hostname:
        raise UsageError(
            f"the proxy {plain_url(proxy.geturl())} is not an http:// proxy; no other can be used",
            hint=f"set {url.scheme.upper()}_PROXY to http://HOST:PORT, or NO_PROXY={url.hostname}",
        )
    return proxy


def _proxy(text: str) -> SplitResult:
    try:
        proxy = urlsplit(text)
        _ = proxy.port
    except ValueError:
        return urlsplit("")
    return proxy


class Connection(http.client.HTTPConnection):
    """A connection that knows how near its other end is, and whose answers are bounded."""

    zone = Zone.PUBLIC  # once connected


class SecureConnection(Connection, http.client.HTTPSConnection):
    """The same with TLS."""


def connect(
    url: SplitResult, proxy: SplitResult | None, timeout: float, nearest: Zone = NEAREST
) -> Connection:
    """An open connection for requests to ``url``, through ``proxy``; nothing is asked yet.

    ``nearest``: how near the address may be; ``ForbiddenAddressError`` if it is nearer. Behind a
    proxy, which resolves the name, only the name can be judged.
    """
    secure = url.scheme == "https"
    host, port = url.hostname or "", url.port or (443 if secure else 80)
    if proxy is not None:
        require(zone_of_name(host), host, nearest)
        host, port = proxy.hostname or "", proxy.port or 80
        nearest = NEAREST
    connection = (
        SecureConnection(host, port, timeout=timeout, context=tls_context())
        if secure
        else Connection(host, port, timeout=timeout)
    )
    connection.response_class = BoundedResponse
    if proxy is not None and secure:
        connection.set_tunnel(url.hostname or "", url.port or 443, proxy_headers(proxy))
    _dial_with(connection, nearest)
    try:
        connection.connect()
        assert connection.sock is not None
        connection.zone = zone_of_name(url.hostname or "") if proxy else peer_zone(connection.sock)
        connection.sock.settimeout(timeout)
    except BaseException:
        connection.close()
        raise
    return connection


def _dial_with(connection: Any, nearest: Zone) -> None:
    """Let ``http.client`` connect through ``dial``; it calls this attribute for nothing else."""
    connection._create_connection = lambda place, timeout, _=None: dial(
        place[0], place[1], timeout, nearest
    )


def proxy_headers(proxy: SplitResult) -> dict[str, str]:
    """What the proxy wants to know about us."""
    return {"Proxy-Authorization": basic(proxy)} if proxy.username else {}


def basic(url: SplitResult) -> str:
    """The value of an authorization header for the user and password in ``url``."""
    pair = f"{unquote(url.username or '')}:{unquote(url.password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()
