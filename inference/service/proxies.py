"""The word of a proxy in front of the service: who asked, by which name and path.

``X-Forwarded-For``, ``-Host``, ``-Proto`` and ``-Prefix`` are believed from the addresses of
``trusted_proxies`` alone (this machine's own unless told otherwise); from anybody else they are
nothing. The host that a proxy names is checked as one that a client names, so that what it says
opens no door that the connection itself would not have.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from llama_hub.errors import UsageError
from llama_hub.inference.service.settings import ServiceSettings

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
MAX_HOPS = 32  # proxies in a row that are looked at


def networks(names: Sequence[str]) -> tuple[Network, ...]:
    """``names`` (addresses or networks) parsed; ``UsageError`` for what is neither."""
    try:
        return tuple(ipaddress.ip_network(name) for name in names)
    except ValueError as error:
        raise UsageError(
            f"--trusted-proxy: {error}", hint="--trusted-proxy 10.0.0.7 or 10.0.0.0/24"
        ) from None


class Forwarded:
    """ASGI middleware: a request as the client sent it, where a trusted proxy passed it on."""

    def __init__(self, app: ASGIApp, settings: ServiceSettings) -> None:
        self._app = app
        self._trusted = networks(settings.trusted_proxies)
        self._root = settings.root_path.rstrip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "http":
            peer = (scope.get("client") or ("", 0))[0]
            if self._trusts(peer):
                self._believe(scope, Headers(scope=scope))
            self._strip(scope)
        await self._app(scope, receive, send)

    def _trusts(self, name: str) -> bool:
        try:
            address = ipaddress.ip_address(name.strip().strip("[]"))
        except ValueError:
            return False
        return any(address in network for network in self._trusted)

    def _believe(self, scope: Scope, headers: Headers) -> None:
        # Some proxies add a line of their own below the client's (HAProxy): all are one list.
        hops = ",".join(headers.getlist("x-forwarded-for")).split(",")[-MAX_HOPS:]
        for hop in reversed([hop.strip() for hop in hops if hop.strip()]):
            scope["client"] = (hop, 0)
            if not self._trusts(hop):
                break
        scheme = headers.get("x-forwarded-proto", "").split(",")[0].strip().lower()
        if scheme in ("http", "https"):
            scope["scheme"] = scheme
        host = headers.get("x-forwarded-host", "").split(",")[0].strip()
        if host:
            others = [(name, value) for name, value in scope["headers"] if name != b"host"]
            scope["headers"] = [(b"host", host.encode("latin-1")), *others]

    def _strip(self, scope: Scope) -> None:
        """Without ``--root-path``, where the proxy did not take it away itself."""
        path = scope["path"]
        if self._root and (path == self._root or path.startswith(self._root + "/")):
            scope["path"] = path[len(self._root) :] or "/"
            scope["raw_path"] = scope["path"].encode()
