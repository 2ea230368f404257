"""One route for every body: what SageMaker's ``/invocations`` and Azure's ``/score`` need.

The body tells what is meant: ``messages`` a chat, ``prompt`` a completion,
``inputs`` Hugging Face's form; ``{"manifest": true}`` asks for what
``GET /manifest`` answers, where no ``GET`` gets through.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llama_hub.inference.service.problems import Problem, invalid
from llama_hub.inference.service.route import Handler, Route
from llama_hub.inference.service.state import Service
from llama_hub.inference.service.streaming import Document

MANIFEST = "manifest"


async def manifest(service: Service, request: Request, document: Document) -> Response:
    """``{"manifest": true}``: which weights are served."""
    moderation = service.moderation()
    more = {} if moderation is None else {"moderation": moderation}
    return JSONResponse({"manifest": service.manifest_digest or None, **more})


def by_field(routes: Sequence[Route], document: Document) -> Handler:
    """The handler that ``document``'s fields name; 400 if none or several do."""
    handlers = {route.field: route.handler for route in routes if route.field}
    named = [name for name in (MANIFEST, *handlers) if name in document]
    if len(named) != 1:
        raise invalid(
            "the body must have exactly one of messages (chat), prompt (completion), inputs "
            "(Hugging Face's form) and manifest (which weights are served)"
        )
    return manifest if named[0] == MANIFEST else handlers[named[0]]


def by_path(routes: Sequence[Route], path: str) -> Handler:
    """The handler of one of our own routes that take one kind of body; else ``Problem`` 404."""
    handlers = {route.path: route.handler for route in routes if len(route.bodies) == 1}
    if path not in handlers:
        raise Problem(
            404, f"there is no route {path[:100]!r}; the routes are {', '.join(handlers)}"
        )
    return handlers[path]
