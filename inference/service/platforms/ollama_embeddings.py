"""Ollama's routes for embeddings; the vectors are those of ``/v1/embeddings``, of length 1."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import Response

from llama_hub.inference.service.base_schemas import read
from llama_hub.inference.service.embeddings import (
    Embedded,
    check_dimensions,
    embedded,
    inputs_of,
    numbers_of,
)
from llama_hub.inference.service.ollama_schemas import OllamaEmbedBody, OllamaEmbeddingsBody
from llama_hub.inference.service.platforms.ollama import check_name
from llama_hub.inference.service.state import Service
from llama_hub.inference.service.streaming import Document, document_response

NONE = Embedded([], 0)


async def embed(service: Service, request: Request, document: Document) -> Response:
    """``POST /api/embed``; ``Problem`` 400 for what cannot be, 501 without such an engine."""
    body = read(OllamaEmbedBody, document)
    check_name(service, body.model)
    check_dimensions(service, body.dimensions)
    begun = time.monotonic()
    done = NONE
    if body.input:  # without any, the question is whether the model is there
        truncate = body.truncate is not False
        done = await embedded(service, await inputs_of(service, body.input, truncate=truncate))
    total = int((time.monotonic() - begun) * 1e9)
    return await document_response(
        lambda: {
            "model": service.served.name,
            "embeddings": [numbers_of(vector) for vector in done.vectors],
            "total_duration": total,
            "load_duration": 0,
            "prompt_eval_count": done.tokens,
        }
    )


async def embeddings(service: Service, request: Request, document: Document) -> Response:
    """``POST /api/embeddings``, the older form: one text; raises as ``embed``."""
    body = read(OllamaEmbeddingsBody, document)
    check_name(service, body.model)
    check_dimensions(service, None)
    vector: list[float] = []
    if body.prompt:
        done = await embedded(service, await inputs_of(service, body.prompt, truncate=True))
        vector = numbers_of(done.vectors[0])
    return await document_response(lambda: {"embedding": vector})
