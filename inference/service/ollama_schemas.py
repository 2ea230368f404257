"""The bodies of Ollama's API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from llama_hub.inference.service.base_schemas import (
    MAX_STOPS,
    Body,
    Ignored,
    ModelName,
    Penalty,
    Probability,
    Refused,
    Seed,
    StopString,
)
from llama_hub.inference.service.schemas import ChatMessage
from llama_hub.inference.service.tool_schemas import Tools


class OllamaOptions(Body):
    """``options``; what concerns the machine alone (``num_ctx``, ``num_gpu`` …) is the server's."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Probability | None = None
    seed: Seed | None = None
    num_predict: Annotated[int, Field(ge=-2)] | None = None  # -1 and -2: all that fit
    repeat_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS)] | None = None
    num_ctx: Ignored = None
    repeat_last_n: Ignored = None


class _OllamaBody(Body):
    model: ModelName
    stream: bool | None = None  # default true
    format: Literal["", "json"] | dict[str, Any] | None = None
    options: OllamaOptions | None = None
    keep_alive: Ignored = None
    think: Refused = None
    template: Refused = None


class OllamaMessage(ChatMessage):
    """One turn."""

    images: Refused = None
    thinking: Ignored = None
    tool_name: Ignored = None


class OllamaChatBody(_OllamaBody):
    """``POST /api/chat``."""

    messages: Annotated[list[OllamaMessage], Field(max_length=4096, fail_fast=True)] = []
    tools: Tools | None = None


class OllamaGenerateBody(_OllamaBody):
    """``POST /api/generate``."""

    prompt: str = ""
    system: str | None = None
    raw: bool | None = None  # the prompt as it is, without the chat template
    suffix: Refused = None
    images: Refused = None
    context: Refused = None


class OllamaEmbedBody(Body):
    """``POST /api/embed``."""

    model: ModelName
    input: Annotated[
        Any,
        WithJsonSchema({"anyOf": [{"type": "string"},
                                  {"type": "array", "items": {"type": "string"}}]}),
    ] = None  # fmt: skip
    truncate: bool | None = None  # default true: the end of what is too long is left out
    dimensions: Annotated[int, Field(ge=1)] | None = None  # only the model's own number
    options: OllamaOptions | None = None
    keep_alive: Ignored = None


class OllamaEmbeddingsBody(Body):
    """``POST /api/embeddings``."""

    model: ModelName
    prompt: str = ""
    options: OllamaOptions | None = None
    keep_alive: Ignored = None


class OllamaShowBody(Body):
    """``POST /api/show``."""

    model: ModelName
