"""The ASGI application: routes, and what surrounds every one of them."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llama_hub import __version__
from llama_hub.inference.engine import Engine
from llama_hub.inference.service import (
    azureml,
    huggingface,
    metrics,
    openai,
    openapi,
    sagemaker,
    stated,
)
from llama_hub.inference.service.auth import Gatekeeper, HostCheck
from llama_hub.inference.service.body import read_json
from llama_hub.inference.service.dispatch import Handler
from llama_hub.inference.service.problems import ClientGoneError, Problem, Shape, as_problem
from llama_hub.inference.service.replies import Document, problem_response, while_connected
from llama_hub.inference.service.service import Service
from llama_hub.inference.service.settings import ServedModel, ServiceSettings

if TYPE_CHECKING:
    from llama_hub.inference.tokenizer import Tokenizer

CLIENT_CLOSED = 499  # nginx's number; only the log sees it
PAGE = files("llama_hub.inference.service.page")
PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_log = logging.getLogger("llama_hub.service")

Endpoint = Callable[[Request], Awaitable[Response]]


def create_app(
    engine: Engine, tokenizer: Tokenizer, served: ServedModel, settings: ServiceSettings
) -> Starlette:
    """The application; the engine is started in the background when the server starts.

    ``app.state.service`` is the ``Service`` that its routes share.
    """
    service = Service(engine, tokenizer, served, settings)
    app = Starlette(
        routes=_routes(service),
        lifespan=lambda _: _lifespan(service),
        exception_handlers={HTTPException: _http_error},
        middleware=[
            Middleware(RequestLog, service=service),
            Middleware(HostCheck, settings=settings),
            *_cors(settings),
            Middleware(Gatekeeper, settings=settings),
        ],
    )
    app.state.service = service
    return app


@asynccontextmanager
async def _lifespan(service: Service) -> AsyncIterator[None]:
    start = asyncio.create_task(service.start())
    yield
    start.cancel()
    await asyncio.gather(start, return_exceptions=True)
    await service.close()


def _cors(settings: ServiceSettings) -> list[Middleware]:
    if not settings.cors_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key"],
        )
    ]


def _routes(service: Service) -> list[Route]:
    posts: tuple[tuple[str, Handler, Shape], ...] = (
        ("/v1/chat/completions", openai.chat, "openai"),
        ("/v1/completions", openai.completions, "openai"),
        ("/tokenize", openai.tokenize, "openai"),
        ("/detokenize", openai.detokenize, "openai"),
        ("/invocations", sagemaker.invocations, "openai"),
        ("/score", azureml.score, "openai"),
        ("/", huggingface.root, "huggingface"),
        ("/generate", huggingface.generate, "huggingface"),
        ("/generate_stream", huggingface.generate_stream, "huggingface"),
    )
    gets: tuple[tuple[str, Callable[[Request], Response]], ...] = (
        ("/health", lambda request: azureml.ready(service, request)),
        ("/health/live", lambda _: azureml.live()),
        ("/health/ready", lambda request: azureml.ready(service, request)),
        ("/metrics", lambda _: _metrics(service)),
        ("/manifest", lambda _: JSONResponse(stated.manifest(service))),
        ("/version", lambda _: JSONResponse({"version": __version__})),
        ("/openapi.json", lambda _: JSONResponse(openapi.document())),
        ("/swagger.json", lambda _: JSONResponse(openapi.document())),
        ("/docs", lambda _: _page_file("docs.html", "text/html")),
        ("/", lambda _: _page_file("index.html", "text/html")),
        ("/page.json", lambda _: JSONResponse(_about(service))),
        ("/page/page.css", lambda _: _page_file("page.css", "text/css")),
        ("/page/page.js", lambda _: _page_file("page.js", "text/javascript")),
        ("/page/docs.js", lambda _: _page_file("docs.js", "text/javascript")),
        ("/page/icon.svg", lambda _: _page_file("icon.svg", "image/svg+xml")),
        ("/v1/models", lambda _: JSONResponse(_when_ready(service, openai.list_models))),
        (
            "/v1/models/{name:path}",
            lambda request: JSONResponse(
                _when_ready(service, lambda s: openai.get_model(s, request.path_params["name"]))
            ),
        ),
    )
    return [
        *(
            Route(path, _post(service, handler, shape), methods=["POST"])
            for path, handler, shape in posts
        ),
        *(Route(path, _get(handler), methods=["GET"]) for path, handler in gets),
        Route("/ping", _get(lambda _: sagemaker.ping(service)), methods=["GET", "POST"]),
    ]


def _when_ready(service: Service, make: Callable[[Service], Document]) -> Document:
    service.require_ready()
    return make(service)


def _get(handler: Callable[[Request], Response]) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        try:
            return handler(request)
        except Exception as error:
            return problem_response(as_problem(error), "openai")

    return endpoint


def _post(service: Service, handler: Handler, shape: Shape) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        try:
            document = await read_json(request, service.bodies, service.settings.body_timeout)
            service.require_ready()
            await service.turnstile.one_at_a_time()
            return await while_connected(request.receive, handler(service, request, document))
        except ClientGoneError:
            return Response(status_code=CLIENT_CLOSED)
        except Exception as error:
            return problem_response(as_problem(error), shape)

    return endpoint


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


def _page_file(name: str, kind: str) -> Response:
    return Response(
        (PAGE / name).read_bytes(),
        media_type=kind,
        headers={
            "Content-Security-Policy": PAGE_POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
        },
    )


def _metrics(service: Service) -> Response:
    up = not service.loading and service.failure is None
    text = service.metrics.exposition(
        service.engine.info if up else None,
        service.engine.stats() if up else None,
        service.served.name,
        service.manifest_digest,
    )
    return Response(text, headers={"Content-Type": metrics.CONTENT_TYPE})


def _about(service: Service) -> Document:
    """What the chat page needs before it may send a key."""
    served = service.served
    return {
        "model": served.name,
        "chat": served.chat,
        "license": served.license_name,
        "notice": served.notice,
        "key": service.settings.api_key is not None,
        "trouble": service.trouble(),
        "version": __version__,
    }


class RequestLog:
    """ASGI middleware: an id on every answer, one line in the log, one count in the metrics."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

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
            self._service.metrics.answered(path, status)
            seconds = time.monotonic() - begun
            _log.info("%s %s %d %.3f s id=%s", scope["method"], path, status, seconds, request_id)
