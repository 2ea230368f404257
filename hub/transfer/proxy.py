"""What the environment says about the network: proxies and certificates, as other tools read it."""

from __future__ import annotations

import base64
import http.client
import os
import ssl
import urllib.request
from functools import cache
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from llama_hub.errors import UsageError
from llama_hub.hub.redaction import plain_url

CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@cache
def tls_context() -> ssl.SSLContext:
    """The trusted certificates: the environment's bundle, else the system's, else certifi's."""
    for variable in CERTIFICATE_VARIABLES:
        if bundle := os.environ.get(variable):
            return _context_with(Path(bundle), variable)
    context = ssl.create_default_context()
    if not context.get_ca_certs() and not _has_certificate_folder():
        try:
            import certifi
        except ModuleNotFoundError:
            return context
        context.load_verify_locations(certifi.where())
    return context


def _context_with(bundle: Path, variable: str) -> ssl.SSLContext:
    try:
        if bundle.is_dir():
            return ssl.create_default_context(capath=str(bundle))
        return ssl.create_default_context(cafile=str(bundle))
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"the certificates in {bundle} cannot be read: {error}",
            hint=f"{variable} must name a file with PEM certificates",
        ) from error


def _has_certificate_folder() -> bool:
    folder = ssl.get_default_verify_paths().capath
    return folder is not None and any(Path(folder).glob("*"))


def proxy_for(url: SplitResult) -> SplitResult | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY give for ``url``."""
    proxies = urllib.request.getproxies()
    found = proxies.get(url.scheme) or proxies.get("all")
    if not found or urllib.request.proxy_bypass(url.netloc.rpartition("@")[2]):
        return None
    proxy = urlsplit(found if "://" in found else f"http://{found}")
    if proxy.scheme != "http" or not proxy.hostname:
        raise UsageError(
            f"the proxy {plain_url(proxy.geturl())} is not an http:// proxy; no other can be used",
            hint=f"set {url.scheme.upper()}_PROXY to http://HOST:PORT, or NO_PROXY={url.hostname}",
        )
    return proxy


def connect(
    url: SplitResult, proxy: SplitResult | None, timeout: float
) -> http.client.HTTPConnection:
    """A connection for requests to ``url``, through ``proxy``; nothing is sent yet."""
    host, port = url.hostname or "", url.port
    secure = url.scheme == "https"
    if proxy is not None:
        host, port = proxy.hostname or "", proxy.port or 80
    made = (
        http.client.HTTPSConnection(host, port, timeout=timeout, context=tls_context())
        if secure
        else http.client.HTTPConnection(host, port, timeout=timeout)
    )
    if proxy is not None and secure:
        made.set_tunnel(url.hostname or "", url.port or 443, proxy_headers(proxy))
    return made


def proxy_headers(proxy: SplitResult) -> dict[str, str]:
    """What the proxy wants to know about us."""
    return {"Proxy-Authorization": basic(proxy)} if proxy.username else {}


def basic(url: SplitResult) -> str:
    """The value of an authorization header for the user and password in ``url``."""
    pair = f"{unquote(url.username or '')}:{unquote(url.password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()
