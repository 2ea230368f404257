"""The ASGI application: the routes, and what surrounds every one of them."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llama_hub.inference.engine import Engine
from llama_hub.inference.service.auth import Authentication, HostCheck
from llama_hub.inference.service.body import read_json
from llama_hub.inference.service.client import CLIENT, client_of
from llama_hub.inference.service.host import Host
from llama_hub.inference.service.problems import ClientGoneError, Problem, as_problem
from llama_hub.inference.service.proxies import Forwarded
from llama_hub.inference.service.route import Route
from llama_hub.inference.service.routes import OPEN, ROUTES
from llama_hub.inference.service.settings import ServedModel, ServiceSettings
from llama_hub.inference.service.state import Service
from llama_hub.inference.service.streaming import Document, problem_response, while_connected

if TYPE_CHECKING:
    from llama_hub.inference.tokenizer import Tokenizer

CLIENT_CLOSED = 499  # nginx's number; only the log sees it
_log = logging.getLogger("llama_hub.service")

Endpoint = Callable[[Request], Awaitable[Response]]


def create_app(
    engine: Engine, tokenizer: Tokenizer, served: ServedModel, settings: ServiceSettings
) -> Starlette:
    """The application; the engine is started in the background when the server starts.

    ``app.state.service`` is the ``Service`` that its routes share.
    """
    service = Service(engine, tokenizer, served, settings)
    return application(service, ROUTES, lambda route: _endpoint(service, route))


def application(
    host: Host, routes: Sequence[Route], endpoint: Callable[[Route], Endpoint]
) -> Starlette:
    """``routes``, and what surrounds every one of them; ``host`` begins and ends with the server.

    ``app.state.service`` is the host.
    """
    settings = host.settings
    app = Starlette(
        routes=[
            StarletteRoute(route.path, endpoint(route), methods=[route.method]) for route in routes
        ],
        lifespan=lambda _: _lifespan(host),
        exception_handlers={HTTPException: _http_error},
        middleware=[
            Middleware(RequestLog, host=host),
            Middleware(HostCheck, settings=settings),
            Middleware(Forwarded, settings=settings),
            Middleware(HostCheck, settings=settings),  # the name that a proxy passed on, too
            *_cors(settings),
            Middleware(Authentication, settings=settings, open_routes=OPEN),
        ],
    )
    app.state.service = host
    return app


@asynccontextmanager
async def _lifespan(host: Host) -> AsyncIterator[None]:
    start = asyncio.create_task(host.start())
    yield
    start.cancel()
    await asyncio.gather(start, return_exceptions=True)
    await host.close()


def _cors(settings: ServiceSettings) -> list[Middleware]:
    if not settings.cors_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # those that are asked for: clients send names of their own
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    ]


def _endpoint(service: Service, route: Route) -> Endpoint:
    """What Starlette calls for ``route``."""

    async def endpoint(request: Request) -> Response:
        CLIENT.set(client_of(request.scope))
        try:
            if not route.bodies:
                return await _answer(service, route, request, {})
            document = await read_json(request, service.bodies, service.settings.body_timeout)
            await service.pacer.next_round()
            return await while_connected(
                request.receive, _answer(service, route, request, document)
            )
        except ClientGoneError:
            return Response(status_code=CLIENT_CLOSED)
        except Exception as error:
            return problem_response(as_problem(error), route.shape)

    return endpoint


async def _answer(service: Service, route: Route, request: Request, document: Document) -> Response:
    if route.needs_model:
        service.require_ready()
    return await route.handler(service, request, document)


async def _http_error(_: Request, error: Exception) -> Response:
    """404 and 405 of the router, in the shape of all other errors."""
    assert isinstance(error, HTTPException)
    problem = Problem(
        error.status_code,
        "there is no such route; see /docs" if error.status_code == 404 else error.detail,
        code="not_found" if error.status_code == 404 else None,
        headers=error.headers,
    )
    return problem_response(problem, "openai")


class RequestLog:
    """ASGI middleware: an id on every answer, one line in the log, one count in the metrics."""

    def __init__(self, app: ASGIApp, host: Host) -> None:
        self._app = app
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and note how it was answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = uuid.uuid4().hex
        begun = time.monotonic()
        status = CLIENT_CLOSED

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                named = (b"x-request-id", request_id.encode())
                message = {**message, "headers": [*message.get("headers", []), named]}
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            route = scope.get("route")
            path = getattr(route, "path", "unknown")
            self._host.metrics.answered(path, status)
            seconds = time.monotonic() - begun
            _log.info("%s %s %d %.3f s id=%s", scope["method"], path, status, seconds, request_id)
