"""The body of OpenAI's Responses API, as far as a service without a memory has it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from llama_hub.inference.service.base_schemas import (
    MAX_MESSAGES,
    PARTS,
    WHOLE,
    Body,
    Ignored,
    MaxTokens,
    ModelName,
    Probability,
    Refused,
)
from llama_hub.inference.service.schemas import Content
from llama_hub.inference.service.tool_schemas import MAX_ID, MAX_TOOLS, Choice, ToolName

_NEEDED = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "reasoning": (),
}


class InputItem(Body):
    """One of ``input``: a message, a call, or a call's result; reasoning is passed over."""

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Any = None
    call_id: Annotated[str, Field(max_length=MAX_ID)] | None = None
    name: ToolName | None = None
    arguments: str | None = None
    output: Content | None = None
    id: Ignored = None
    status: Ignored = None

    @model_validator(mode="after")
    def _is_whole(self) -> InputItem:
        missing = [name for name in _NEEDED[self.type] if getattr(self, name) is None]
        if missing:
            raise PydanticCustomError(
                "incomplete", "a {kind} needs {name}", {"kind": self.type, "name": missing[0]}
            )
        return self


def _form(value: Any) -> str:
    return PARTS if isinstance(value, list) else WHOLE


Input = Annotated[
    Annotated[str, Tag(WHOLE)]
    | Annotated[
        Annotated[list[InputItem], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)],
        Tag(PARTS),
    ],
    Discriminator(_form),
]


class FunctionTool(Body):
    """One of ``tools``; those that OpenAI runs itself are not here."""

    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class TextFormat(Body):
    """``text.format``."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str = "answer"
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: Ignored = None
    description: Ignored = None


class TextConfig(Body):
    """``text``."""

    format: TextFormat | None = None
    verbosity: Refused = None


class ResponsesBody(Body):
    """``POST /v1/responses``."""

    input: Input
    model: ModelName | None = None
    instructions: str | None = None
    max_output_tokens: MaxTokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Probability | None = None
    stream: bool | None = None
    text: TextConfig | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: Choice = None
    parallel_tool_calls: bool | None = None
    background: Refused = None
    conversation: Refused = None
    previous_response_id: Refused = None
    prompt: Refused = None
    reasoning: Refused = None
    top_logprobs: Refused = None
    truncation: Refused = None
    include: Ignored = None
    max_tool_calls: Ignored = None
    metadata: Ignored = None
    prompt_cache_key: Ignored = None
    safety_identifier: Ignored = None
    service_tier: Ignored = None
    store: Ignored = None  # nothing is kept, whatever is asked
    stream_options: Ignored = None
    user: Ignored = None
