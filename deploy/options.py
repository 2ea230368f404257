"""The backend's own block of a spec, against the model that the backend has of it."""

from __future__ import annotations

from typing import Any

from llama_hub.deploy.backend import Backend
from llama_hub.deploy.spec import HINT, KIND, DeploymentSpec
from llama_hub.errors import UsageError
from llama_hub.schema import conform


def check_options(spec: DeploymentSpec, backend: Backend) -> None:
    """``UsageError`` unless ``spec.options`` are what the backend takes."""
    model = backend.options_model
    if model is None:
        if spec.options:
            raise UsageError(f"the backend {backend.name!r} has no options", hint=HINT)
        return
    conform(model, dict(spec.options), f"(options of {backend.name})", KIND)


def json_schema(backend: Backend | None = None) -> dict[str, Any]:
    """JSON Schema of the file, with the backend's options filled in where one is given."""
    from pydantic import TypeAdapter

    schema = TypeAdapter(DeploymentSpec).json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"]["ttl"]["anyOf"].insert(1, {"type": "string", "pattern": r"^\d+[smhd]?$"})
    if backend is not None:
        schema["properties"]["backend"] |= {"const": backend.name}
        if backend.options_model is not None:
            schema["properties"]["options"] = backend.options_model.model_json_schema()
    return schema
