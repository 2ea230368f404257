"""Authentication: the API key, which web pages may call, and by which name of this machine.

Health routes and the static page are open; everything else needs the key where
one is set. A page of another origin may not call unless CORS allows it, so that
no web site a user happens to visit can use a server on that user's machine.
Nor may a site whose name was made to point at this machine: without a key, a
server on loopback answers only to loopback's own names.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from llama_hub.inference.service.api_key import ApiKey, missing_key
from llama_hub.inference.service.problems import Problem
from llama_hub.inference.service.settings import ServiceSettings
from llama_hub.inference.service.streaming import problem_response


def is_loopback(host: str) -> bool:
    """Whether ``host`` (name or address, IPv6 also in brackets) is this machine only."""
    bare = host.strip("[]")
    if bare == "localhost":
        return True
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False


def sees_details(settings: ServiceSettings, headers: Headers) -> bool:
    """Whether who asks may learn more than whether all is well."""
    if settings.api_key is None:
        return settings.check_host  # then nobody but this machine's own users gets here
    return ApiKey(settings.api_key).is_sent(headers.get)


class HostCheck:
    """ASGI middleware: a server without a key, on loopback, is called by a name of loopback.

    A page of ``evil.example`` whose name was made to point at 127.0.0.1 is of the same origin as
    this server to a browser; the Host that it sends gives it away.
    """

    def __init__(self, app: ASGIApp, settings: ServiceSettings) -> None:
        self._app = app
        self._checks = settings.check_host and settings.api_key is None
        self._allowed = settings.allowed_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on or answer 403."""
        if self._checks and scope["type"] == "http" and not self._knows(_host(scope)):
            problem = Problem(
                403,
                "without an API key this server answers only to localhost and 127.0.0.1; "
                "start it with --api-key, or --allowed-host NAME, to call it by another name",
                kind="permission_error",
                code="foreign_host",
            )
            await problem_response(problem, "openai")(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _knows(self, host: str) -> bool:
        return is_loopback(host) or host in self._allowed


def _host(scope: Scope) -> str:
    """The name in the Host header, without its port; empty if it is none."""
    return _parts(f"//{Headers(scope=scope).get('host', '')}")[1]


def _parts(url: str) -> tuple[str, str]:
    """Host with port, and host alone, of ``url``; both empty if it is none."""
    try:
        split = urlsplit(url)
        return split.netloc, split.hostname or ""
    except ValueError:  # "http://["
        return "", ""


class Authentication:
    """ASGI middleware that lets through whom the settings allow.

    ``open_routes``: method and path of those that need no key.
    """

    def __init__(
        self, app: ASGIApp, settings: ServiceSettings, open_routes: frozenset[tuple[str, str]]
    ) -> None:
        self._open = open_routes
        self._app = app
        self._origins = settings.cors_origins
        self._allowed = settings.allowed_hosts
        self._key = None if settings.api_key is None else ApiKey(settings.api_key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on or answer 401 or 403."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            problem = self._origin_problem(headers) or self._key_problem(scope, headers)
            if problem is not None:
                await problem_response(problem, "openai")(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _key_problem(self, scope: Scope, headers: Headers) -> Problem | None:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        if self._key is None or (method, scope["path"]) in self._open:
            return None
        return None if self._key.is_sent(headers.get) else missing_key()

    def _origin_problem(self, headers: Headers) -> Problem | None:
        origin = headers.get("origin")
        if origin is None or origin in self._origins or "*" in self._origins:
            return None
        host, name = _parts(origin)
        # Without a key, "same host" is not enough: a foreign name may be made to point here.
        trusted = self._key is not None or is_loopback(name) or name in self._allowed
        if host and host == headers.get("host") and trusted:
            return None
        return Problem(
            403,
            "pages of another origin may not call this server; see --cors-origin",
            kind="permission_error",
            code="foreign_origin",
        )
