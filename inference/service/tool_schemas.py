"""The parts of a body that concern tools: what may be called, what must be, what was."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from llama_hub.inference.service.base_schemas import Body, Ignored

MAX_TOOLS = 128
MAX_CALLS = 128  # of one message
MAX_ID = 256  # characters

ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.\-]{1,64}$")]


class Function(Body):
    """``tools[].function``."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None  # JSON schema of the arguments
    strict: Ignored = None  # arguments always follow the schema


class Tool(Body):
    """One of ``tools``."""

    type: Literal["function"]
    function: Function


class CalledFunction(Body):
    """``tool_calls[].function``."""

    name: ToolName
    arguments: str | dict[str, Any]  # JSON text, as OpenAI has it, or the object, as Ollama has it


class ToolCall(Body):
    """One of a message's ``tool_calls``."""

    id: Annotated[str, Field(max_length=MAX_ID)] = ""
    type: Literal["function"] = "function"
    function: CalledFunction


def _choice(value: Any) -> Any:
    """``none``, ``auto``, ``required``, or the tool with a name."""
    if value in (None, "none", "auto", "required"):
        return value
    if isinstance(value, dict) and value.get("type") == "function":
        function = value.get("function", value)
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            return function["name"], "named"
    raise PydanticCustomError(
        "tool_choice",
        "Input should be 'none', 'auto', 'required' or "
        '{{"type": "function", "function": {{"name": …}}}}',
    )


_CHOICE_SCHEMA = {
    "anyOf": [
        {"enum": ["none", "auto", "required", None]},
        {
            "type": "object",
            "properties": {
                "type": {"const": "function"},
                "function": {
                    "type": "object",
                    "properties": {"name": {"type": "string"}},
                    "required": ["name"],
                },
            },
            "required": ["type", "function"],
        },
    ]
}
Choice = Annotated[Any, AfterValidator(_choice), WithJsonSchema(_CHOICE_SCHEMA)]
Tools = Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)]
ToolCalls = Annotated[list[ToolCall], Field(max_length=MAX_CALLS, fail_fast=True)]
