"""The OpenAPI document, made from the routes and the models that read their bodies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic.json_schema import models_json_schema

from llama_hub import __version__
from llama_hub.inference.service.route import JSON, Route

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

_TEXT_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}
ERRORS = {"openai": "Error", "huggingface": "FlatError", "ollama": "TextError"}


def document(routes: Sequence[Route], root: str = "") -> dict[str, Any]:
    """OpenAPI 3.1 of those of ``routes`` that have a summary; ``root``: a prefix of their paths."""
    described = [route for route in routes if route.summary]
    models = dict.fromkeys(body for route in described for body in route.bodies)
    _, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=REFERENCE
    )
    paths: dict[str, dict[str, Any]] = {}
    for route in described:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "llama-hub",
            "version": __version__,
            "description": "One model behind the APIs of OpenAI, SageMaker, Azure ML, Hugging "
            "Face and Ollama.",
        },
        "servers": [{"url": root or "/"}],
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"]
            | {"Error": _ERROR, "FlatError": _FLAT_ERROR, "TextError": _TEXT_ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": route.method.lower() + route.path.replace("/", "_"),
    }
    if route.open:
        operation["security"] = []
    return operation | (_with_body(route) if route.bodies else _without_body(route))


def _with_body(route: Route) -> dict[str, Any]:
    references = [_reference(body.__name__) for body in route.bodies]
    schema = references[0] if len(references) == 1 else {"anyOf": references}
    error = ERRORS[route.shape]
    return {
        "requestBody": {"required": True, "content": {JSON: {"schema": schema}}},
        "responses": {
            "200": {
                "description": "The answer; events if a stream was asked for.",
                "content": {
                    route.answers: {"schema": {"type": ["object", "array"]}},
                    "text/event-stream": {"schema": {}},
                    "application/jsonlines": {"schema": {}},
                },
            },
            "4XX": _failure("The request is wrong, or there is no room for it now.", error),
            "5XX": _failure("Not ready, too slow, or a fault.", error),
        },
    }


def _without_body(route: Route) -> dict[str, Any]:
    content: dict[str, Any] = {"content": {route.answers: {"schema": {}}}} if route.answers else {}
    responses: dict[str, Any] = {"200": {"description": route.summary} | content}
    if route.needs_model or route.reports_readiness:
        responses["503"] = {"description": "Not ready yet, or shutting down."}
    return {"responses": responses}


def _failure(description: str, error: str) -> dict[str, Any]:
    return {"description": description, "content": {JSON: {"schema": _reference(error)}}}


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": REFERENCE.format(model=name)}
