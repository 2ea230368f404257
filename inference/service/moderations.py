"""OpenAI's moderation route, answered by the hooks that this service was started with.

A hook says why it refuses, or nothing: there is one category, ``refused``, and the reason stands
beside it. Without a hook there is no such route (404): "not flagged" would be a lie.
"""

from __future__ import annotations

import uuid
from typing import Annotated

from pydantic import Discriminator, Field, Tag
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llama_hub.inference.service.base_schemas import PARTS, WHOLE, Body, ModelName, read
from llama_hub.inference.service.moderation import Passage
from llama_hub.inference.service.problems import Problem
from llama_hub.inference.service.state import Service
from llama_hub.inference.service.streaming import Document

MAX_TEXTS = 256
CATEGORY = "refused"


def _form(value: object) -> str:
    return PARTS if isinstance(value, list) else WHOLE


class ModerationBody(Body):
    """``POST /v1/moderations``."""

    input: Annotated[
        Annotated[str, Tag(WHOLE)]
        | Annotated[
            Annotated[list[str], Field(min_length=1, max_length=MAX_TEXTS, fail_fast=True)],
            Tag(PARTS),
        ],
        Discriminator(_form),
    ]
    model: ModelName | None = None


async def moderate(service: Service, request: Request, document: Document) -> Response:
    """``POST /v1/moderations``; a 404 ``Problem`` where no hook is installed."""
    body = read(ModerationBody, document)
    hooks = service.settings.moderators
    if not hooks:
        raise Problem(
            404,
            "no moderation hook is installed here; see docs/service.md",
            code="no_moderator",
        )
    call_id = f"modr-{uuid.uuid4().hex}"
    texts = [body.input] if isinstance(body.input, str) else body.input
    verdicts = [await service.judge(Passage("input", text, call_id)) for text in texts]
    return JSONResponse(
        {
            "id": call_id,
            "model": "llama_hub.moderation",
            "results": [_result(verdict) for verdict in verdicts],
        }
    )


def _result(verdict: str | None) -> Document:
    flagged = verdict is not None
    return {
        "flagged": flagged,
        "categories": {CATEGORY: flagged},
        "category_scores": {CATEGORY: float(flagged)},
        "category_applied_input_types": {CATEGORY: ["text"]},
        "reason": verdict,
    }
