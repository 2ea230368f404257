"""One route for every body: what SageMaker's ``/invocations`` and Azure's ``/score`` need.

The body tells what is meant: ``messages`` a chat, ``prompt`` a completion,
``inputs`` Hugging Face's form, ``input_data`` that of Azure's own Llama 2
deployments; ``{"manifest": true}`` asks for what ``GET /manifest`` answers.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llama_hub.inference.service import huggingface, openai
from llama_hub.inference.service.problems import Problem, invalid
from llama_hub.inference.service.replies import Document
from llama_hub.inference.service.service import Service

Handler = Callable[[Service, Request, Document], Coroutine[Any, Any, Response]]


async def manifest(service: Service, request: Request, document: Document) -> Response:
    """``{"manifest": true}``: which weights are served, where no ``GET`` gets through."""
    return JSONResponse({"manifest": service.manifest_digest or None})


BY_FIELD: dict[str, Handler] = {
    "manifest": manifest,
    "messages": openai.chat,
    "prompt": openai.completions,
    "inputs": huggingface.generate,
}
BY_ROUTE: dict[str, Handler] = {
    "/v1/chat/completions": openai.chat,
    "/v1/completions": openai.completions,
    "/generate": huggingface.generate,
    "/generate_stream": huggingface.generate_stream,
    "/tokenize": openai.tokenize,
    "/detokenize": openai.detokenize,
}


def by_body(document: Document) -> Handler:
    """The handler that ``document``'s fields name; 400 if none or several do."""
    found = [name for name in BY_FIELD if name in document]
    if len(found) != 1:
        raise invalid(
            "the body must have exactly one of messages (chat), prompt (completion), inputs "
            "(Hugging Face's form) and manifest (which weights are served)"
        )
    return BY_FIELD[found[0]]


def by_route(path: str) -> Handler:
    """The handler of one of our own routes; 404 for another."""
    if path not in BY_ROUTE:
        raise Problem(404, f"there is no route {path!r}; known are {', '.join(BY_ROUTE)}")
    return BY_ROUTE[path]
