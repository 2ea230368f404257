"""The OpenAPI document, made from the same models that read the bodies."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from llama_hub import __version__
from llama_hub.inference.service import schemas

REFERENCE = "#/components/schemas/{model}"
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_FLAT_ERROR = {
    "type": "object",
    "required": ["error", "error_type"],
    "properties": {"error": {"type": "string"}, "error_type": {"type": "string"}},
}

POSTS: tuple[tuple[str, str, type[BaseModel] | None], ...] = (
    ("/v1/chat/completions", "Answer a conversation (OpenAI).", schemas.ChatBody),
    ("/v1/completions", "Continue prompts (OpenAI).", schemas.CompletionBody),
    ("/tokenize", "Token ids of a text or a conversation.", schemas.TokenizeBody),
    ("/detokenize", "Text of token ids.", schemas.DetokenizeBody),
    ("/invocations", "Any of the generating bodies (SageMaker).", None),
    ("/score", "Any of the generating bodies (Azure ML).", None),
    ("/", "Continue texts; the answer in a list (Hugging Face).", schemas.GenerateBody),
    ("/generate", "Continue a text (Hugging Face).", schemas.GenerateBody),
    ("/generate_stream", "Continue a text, streamed (Hugging Face).", schemas.GenerateBody),
)
GETS: tuple[tuple[str, str, str], ...] = (
    ("/", "The chat page.", "text/html"),
    ("/v1/models", "The model that is served.", "application/json"),
    ("/manifest", "Which weights run, under which licence.", "application/json"),
    ("/metrics", "Prometheus metrics.", "text/plain"),
    ("/version", "This server's version.", "application/json"),
    ("/health", "200 when ready, 503 until then.", "application/json"),
    ("/health/live", "200 while the process answers (liveness).", "application/json"),
    ("/health/ready", "200 when ready, 503 until then (readiness).", "application/json"),
    ("/ping", "200 when ready, 503 until then (SageMaker).", ""),
)
_DISPATCHED = (schemas.ChatBody, schemas.CompletionBody, schemas.GenerateBody)


@cache
def document() -> dict[str, Any]:
    """OpenAPI 3.1, whole."""
    models: list[type[BaseModel]] = [body for _, _, body in POSTS if body is not None]
    models.append(schemas.ScoreBody)
    _, definitions = models_json_schema(
        [(model, "validation") for model in dict.fromkeys(models)], ref_template=REFERENCE
    )
    components = definitions["$defs"] | {"Error": _ERROR, "FlatError": _FLAT_ERROR}
    paths: dict[str, dict[str, Any]] = {}
    for path, summary, body in POSTS:
        paths.setdefault(path, {})["post"] = _post(path, summary, body)
    for path, summary, kind in GETS:
        paths.setdefault(path, {})["get"] = _get(path, summary, kind)
    paths["/ping"]["post"] = paths["/ping"]["get"] | {"operationId": "post_ping"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "llama-hub",
            "version": __version__,
            "description": "One model behind the APIs of OpenAI, SageMaker, Azure ML and "
            "Hugging Face.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _post(path: str, summary: str, body: type[BaseModel] | None) -> dict[str, Any]:
    if body is not None:
        schema: dict[str, Any] = _reference(body.__name__)
    else:
        kinds = (*_DISPATCHED, schemas.ScoreBody) if path == "/score" else _DISPATCHED
        schema = {"anyOf": [_reference(kind.__name__) for kind in kinds]}
    error = "FlatError" if body is schemas.GenerateBody else "Error"
    return {
        "summary": summary,
        "operationId": "post" + path.replace("/", "_"),
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        },
        "responses": {
            "200": {
                "description": "The answer; events if a stream was asked for.",
                "content": {
                    "application/json": {"schema": {"type": ["object", "array"]}},
                    "text/event-stream": {"schema": {}},
                    "application/jsonlines": {"schema": {}},
                },
            },
            "4XX": _failure("The request is wrong, or there is no room for it now.", error),
            "5XX": _failure("Not ready, too slow, or a fault.", error),
        },
    }


def _get(path: str, summary: str, kind: str) -> dict[str, Any]:
    content: dict[str, Any] = {"content": {kind: {"schema": {}}}} if kind else {}
    responses: dict[str, Any] = {"200": {"description": summary} | content}
    if path in ("/health", "/health/ready", "/ping", "/v1/models"):
        responses["503"] = {"description": "Not ready yet, or shutting down."}
    return {
        "summary": summary,
        "operationId": "get" + path.replace("/", "_"),
        "responses": responses,
    }


def _failure(description: str, error: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": _reference(error)}},
    }


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": REFERENCE.format(model=name)}
