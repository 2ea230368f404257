"""The front of several models: one address, each model under its own name.

A request is passed on to the process of the model that its ``model`` names; without one it is
meant for the first. Everything that surrounds a route (key, host, origins, proxies, limits of
bodies) is the service's own, and so are the page and the descriptions, which need no model.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, cast

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llama_hub import __version__
from llama_hub.backends.local.model_forward import fetch, forward
from llama_hub.backends.local.model_metrics import merged, of_pool
from llama_hub.backends.local.model_pool import ModelPool
from llama_hub.backends.local.reverse_proxy import FILES_OF_OURS
from llama_hub.inference.engine import EngineInfo
from llama_hub.inference.service import openai
from llama_hub.inference.service.app import CLIENT_CLOSED, Endpoint, application
from llama_hub.inference.service.auth import sees_details
from llama_hub.inference.service.body import Bodies, parsed, received
from llama_hub.inference.service.client import CLIENT, client_of
from llama_hub.inference.service.limits import Admission
from llama_hub.inference.service.metrics import CONTENT_TYPE, Metrics
from llama_hub.inference.service.platforms import ollama
from llama_hub.inference.service.problems import (
    ClientGoneError,
    Problem,
    as_problem,
    invalid,
    unavailable,
)
from llama_hub.inference.service.route import Route
from llama_hub.inference.service.routes import ROUTES
from llama_hub.inference.service.settings import ServedModel, ServiceSettings
from llama_hub.inference.service.state import Service
from llama_hub.inference.service.streaming import Document, problem_response, while_connected

SCRAPE = 2.0  # seconds that a model's process has for its metrics or its statement


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model before it is loaded."""

    served: ServedModel
    info: EngineInfo

    @property
    def engine(self) -> ModelFacts:
        """Holds ``info``, as an engine does."""
        return self

    @property
    def manifest_digest(self) -> str:
        """Digest of what is served; empty without a manifest."""
        return self.served.manifest.digest if self.served.manifest else ""

    @property
    def settings(self) -> ServiceSettings:
        """Nothing is refused by name: the front has chosen the model by it."""
        return ServiceSettings()


class ModelFront:
    """``host.Host`` of several models."""

    def __init__(
        self, pool: ModelPool, facts: Sequence[ModelFacts], settings: ServiceSettings
    ) -> None:
        """``facts``: of the pool's models, the one that is meant without a name first."""
        most = min(settings.max_connections, _connections())
        self.settings = replace(settings, max_connections=most)
        self.pool = pool
        self.facts: Mapping[str, ModelFacts] = {each.served.name: each for each in facts}
        self.metrics = Metrics()
        self.bodies = Bodies(settings.max_body_bytes)
        places = sum(each.info.max_batch for each in facts)
        self.admission = Admission(
            lambda: places,
            settings.max_queue * len(facts),
            lambda: self.metrics.recent_seconds,
        )
        self.started = asyncio.Event()
        self.failure: Exception | None = None

    @property
    def served(self) -> ServedModel:
        """The model that is meant where none is named."""
        return next(iter(self.facts.values())).served

    @property
    def engine(self) -> ModelFacts:
        """Its ``info`` is of that model."""
        return next(iter(self.facts.values()))

    async def start(self) -> None:
        """Load what is to be there at once; what goes wrong is kept in ``failure``."""
        try:
            await self.pool.start()
        except Exception as error:
            self.failure = error
        finally:
            self.started.set()

    async def close(self) -> None:
        """End the processes."""
        await self.pool.close()
        self.bodies.close()

    async def cut_off(self) -> None:
        """End every answer under way: the processes tell their clients so."""
        await self.pool.close()

    def trouble(self) -> str | None:
        """Why no request would be answered now; ``None`` if one of some model would."""
        if not self.started.is_set():
            return "the models are being loaded"
        if self.failure is not None:
            return "the models could not be loaded"
        if self.admission.draining:
            return "the server is shutting down"
        words = [slot.word for slot in self.pool.slots.values()]
        alive = ("ready", "loading", "unloading", "unloaded")
        return None if any(word in alive for word in words) else "no model can be loaded"

    def state(self, name: str) -> Document:
        """How a model is, for who may know."""
        slot = self.pool.slots[name]
        state: Document = {"state": slot.word, "requests": slot.in_flight, "waiting": slot.waiting}
        if slot.failure is not None:
            state["error"] = slot.failure.message
        return state

    def named(self, document: Document, *, ollama: bool) -> str:
        """The model that a body means; ``Problem`` 400 for what is no name, 404 for an unknown."""
        name = document.get("model")
        if name is None:
            return self.served.name
        if not isinstance(name, str):
            raise invalid("model: Input should be a valid string", "model", "invalid_value")
        if ollama:
            name = name.removesuffix(":latest")
        if name not in self.facts:
            raise no_such_model(name, self.facts)
        return name


def _connections() -> int:
    """Clients for which there are files: each takes one, and one to the process that it asks."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if most == resource.RLIM_INFINITY else max(16, (most - FILES_OF_OURS) // 2)


def no_such_model(name: str, known: Mapping[str, Any]) -> Problem:
    """404 for a model that is not served here."""
    return Problem(
        404,
        f"the model {name[:100]!r} does not exist here; this server has {', '.join(known)}",
        param="model",
        code="model_not_found",
    )


def create_front(front: ModelFront) -> Starlette:
    """The application; ``app.state.service`` is ``front``."""
    return application(front, ROUTES, lambda route: _endpoint(front, route))


def _endpoint(front: ModelFront, route: Route) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        CLIENT.set(client_of(request.scope))
        try:
            if route.bodies:
                return await _pass_on(front, route, request)
            return await _answer(front, route, request)
        except ClientGoneError:
            return Response(status_code=CLIENT_CLOSED)
        except Exception as error:
            return problem_response(as_problem(error), route.shape)

    return endpoint


async def _pass_on(front: ModelFront, route: Route, request: Request) -> Response:
    """Have the model answer that the body names."""
    async with received(request, front.bodies, front.settings.body_timeout) as data:
        document = await parsed(front.bodies, data)
        name = front.named(document, ollama=route.shape == "ollama")
        if route.path == "/api/show":  # asks of each model, for which none is loaded
            return await ollama.show(_like_service(front.facts[name]), request, document)
        trouble = front.trouble()
        if trouble is not None:
            raise unavailable(trouble)
        async with AsyncExitStack() as held:
            held.enter_context(front.admission.admit(1))
            work = forward(front.pool, name, request, bytes(data))
            answer = await while_connected(request.receive, work)
            answer.hold(held.pop_all())
            return answer


async def _answer(front: ModelFront, route: Route, request: Request) -> Response:
    """What the front knows by itself."""
    own = _OWN.get(route.path)
    if own is not None:
        return await own(front, request)
    # The rest needs no model, or only what the front has like a service.
    return await route.handler(cast(Service, front), request, {})


async def _models(front: ModelFront, request: Request) -> Response:
    data = [openai.model_document(_like_service(facts)) for facts in front.facts.values()]
    return JSONResponse({"object": "list", "data": data})


async def _model(front: ModelFront, request: Request) -> Response:
    name = request.path_params["name"]
    if name not in front.facts:
        raise no_such_model(name, front.facts)
    return JSONResponse(openai.model_document(_like_service(front.facts[name])))


async def _tags(front: ModelFront, request: Request) -> Response:
    tags = [ollama.tag(_like_service(facts)) for facts in front.facts.values()]
    return JSONResponse({"models": tags})


async def _health(front: ModelFront, request: Request) -> Response:
    """200 while some model would answer; how each one is, is for who has the key."""
    trouble = front.trouble()
    answer: Document = {"status": "ready" if trouble is None else "unavailable"}
    if sees_details(front.settings, request.headers):
        answer |= {} if trouble is None else {"reason": _in_full(front, trouble)}
        answer["models"] = {name: front.state(name) for name in front.facts}
    return JSONResponse(answer, 200 if trouble is None else 503)


def _in_full(front: ModelFront, trouble: str) -> str:
    return f"{trouble}: {front.failure}" if front.failure is not None else trouble


async def _metrics(front: ModelFront, request: Request) -> Response:
    slots = list(front.pool.slots.values())
    loaded = [(slot.model.name, slot.upstream) for slot in slots if slot.upstream is not None]
    asked = (fetch(front.pool, upstream, "/metrics", SCRAPE) for _, upstream in loaded)
    scraped = [
        (name, page.decode())
        for (name, _), page in zip(loaded, await asyncio.gather(*asked), strict=True)
        if page is not None
    ]
    lines = [*merged(scraped), *of_pool(slots), *front.metrics.http()]
    return Response("\n".join(lines) + "\n", headers={"Content-Type": CONTENT_TYPE})


async def _manifest(front: ModelFront, request: Request) -> Response:
    """Which weights each model is; the first one's at the top, as of a server of one model."""
    statements: list[Document] = []
    for name, facts in front.facts.items():
        slot = front.pool.slots[name]
        upstream = slot.upstream
        said = await fetch(front.pool, upstream, "/manifest", SCRAPE) if upstream else None
        statement = _unloaded_statement(front, facts) | json.loads(said or "{}")
        statements.append(statement | {"state": slot.word})
    brief = [{key: each[key] for key in ("model", "manifest", "state")} for each in statements]
    return JSONResponse(statements[0] | {"models": brief})


def _unloaded_statement(front: ModelFront, facts: ModelFacts) -> Document:
    """``Service.statement`` of a model that no process has loaded."""
    served, manifest = facts.served, facts.served.manifest
    return {
        "model": served.name,
        "manifest": facts.manifest_digest or None,
        "license": {
            "id": served.license,
            "name": served.license_name,
            "notice": served.notice,
        },
        "receipt": manifest.receipt if manifest else None,
        "engine": None,
        "moderation": Service.moderation(cast(Service, front)),
        "version": __version__,
        "document": manifest.to_json() if manifest else None,
    }


def _like_service(facts: ModelFacts) -> Service:
    """For what only reads of a service which model it has."""
    return cast(Service, facts)


_OWN = {
    "/v1/models": _models,
    "/v1/models/{name:path}": _model,
    "/api/tags": _tags,
    "/health": _health,
    "/health/ready": _health,
    "/metrics": _metrics,
    "/manifest": _manifest,
}
