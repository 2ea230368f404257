"""A route of the service: all that routing, authentication and OpenAPI have to know of it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from llama_hub.inference.service.problems import Shape
from llama_hub.inference.service.state import Service
from llama_hub.inference.service.streaming import Document

Handler = Callable[[Service, Request, Document], Coroutine[Any, Any, Response]]
JSON = "application/json"


@dataclass(frozen=True)
class Route:
    """One method of one path."""

    method: Literal["GET", "POST"]
    path: str
    handler: Handler  # gets the body's document; an empty one where there is no body
    summary: str = ""  # without one, OpenAPI says nothing of the route
    bodies: tuple[type[BaseModel], ...] = ()  # what may be sent; empty: no body is read
    answers: str = JSON  # media type; empty: no content. What has a body may be streamed, too
    shape: Shape = "openai"  # of its errors
    open: bool = False  # also without the key
    needs_model: bool = False  # 503 until requests will be answered
    reports_readiness: bool = False  # says 503 itself until then
    field: str = ""  # in a body for any route: the field that means this one
