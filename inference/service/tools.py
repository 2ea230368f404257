"""Tool calling for a model that has no format of its own for it.

Llama 2 knows three roles and no tools, so the form is ours. The system message ends with
``INSTRUCTION`` and one line of JSON for each function. A call is written as a JSON list of
``{"name": …, "arguments": {…}}``, and a tool's result comes back as the user's turn. What the
model may write is bounded by a grammar made of the functions' own schemas: with ``required`` and a
named tool the list alone, with ``auto`` the list or a text that does not begin with ``[``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llama_hub.inference import schema_limits
from llama_hub.inference.chat_format import Message
from llama_hub.inference.engine import OR_TEXT
from llama_hub.inference.service.problems import invalid
from llama_hub.inference.service.schemas import ChatMessage
from llama_hub.inference.service.tool_schemas import Function, Tool, ToolCall

Mode = Literal["auto", "required", "named"]
INSTRUCTION = (
    "You can call functions. To call one or more, answer with nothing but a JSON list: "
    '[{"name": "FUNCTION", "arguments": {…}}]. The results come in the next message. '
    "The functions, each with the JSON schema of its arguments:"
)
MUST = "Answer with a call now."
NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True)
class Toolbox:
    """What may be called in one answer, and whether it has to be."""

    functions: tuple[Function, ...]
    mode: Mode
    parallel: bool = True

    @property
    def names(self) -> frozenset[str]:
        """Of the functions."""
        return frozenset(function.name for function in self.functions)


def toolbox(tools: Sequence[Tool] | None, choice: Any, parallel: bool | None) -> Toolbox | None:
    """What ``tools`` and ``tool_choice`` ask for; ``None`` if nothing may be called.

    400 for a name that is not there or is there twice.
    """
    functions = tuple(tool.function for tool in tools or ())
    names = [function.name for function in functions]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise invalid(f"two tools are called {twice!r}", "tools", "invalid_value")
    if isinstance(choice, tuple):
        named = tuple(function for function in functions if function.name == choice[0])
        if not named:
            raise invalid(f"no tool is called {choice[0][:100]!r}", "tool_choice", "invalid_value")
        return Toolbox(named, "named", parallel=False)
    if not functions and choice in ("auto", "required"):
        raise invalid(f"tool_choice {choice!r} needs tools", "tool_choice", "invalid_value")
    if not functions or choice == "none":
        return None
    mode: Mode = "required" if choice == "required" else "auto"
    return Toolbox(functions, mode, parallel is not False)


def instructed(turns: Sequence[Message], box: Toolbox | None) -> list[Message]:
    """``turns`` with the functions described at the end of the system message."""
    if box is None:
        return list(turns)
    lines = [INSTRUCTION, *map(_described, box.functions)]
    if box.mode != "auto":
        lines.append(MUST)
    text = "\n".join(lines)
    if turns and turns[0].role == "system":
        return [Message("system", f"{turns[0].content}\n\n{text}"), *turns[1:]]
    return [Message("system", text), *turns]


def _described(function: Function) -> str:
    known = {"name": function.name, "description": function.description}
    known["parameters"] = function.parameters or NO_ARGUMENTS  # type: ignore[assignment]
    return json.dumps({key: value for key, value in known.items() if value}, ensure_ascii=False)


def conversation(messages: Sequence[ChatMessage]) -> list[Message]:
    """The turns in the engine room's own terms: calls as text, results as the user's turns."""
    names: dict[str, str] = {}  # of the called functions, by the call's id
    turns: list[Message] = []
    results: list[str] = []
    for message in messages:
        if message.role == "tool":
            name = names.get(message.tool_call_id or "", "")
            results.append(f"Result of {name or 'the call'}: {text_of(message)}")
            continue
        if results:
            turns.append(Message("user", "\n".join(results)))
            results = []
        names |= {call.id: call.function.name for call in message.tool_calls or ()}
        turns.append(Message(_role(message.role), _said(message)))
    return [*turns, Message("user", "\n".join(results))] if results else turns


def _role(role: str) -> str:
    return "system" if role == "developer" else role  # the newer name of the same


def text_of(message: ChatMessage) -> str:
    """The message's content as one text."""
    content = message.content or ""
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _said(message: ChatMessage) -> str:
    calls = [_written(call) for call in message.tool_calls or ()]
    text = text_of(message)
    return "\n".join(part for part in (text, f"[{','.join(calls)}]" if calls else "") if part)


def _written(call: ToolCall) -> str:
    given = call.function.arguments
    arguments = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    return f'{{"name":{json.dumps(call.function.name)},"arguments":{arguments.strip() or "{}"}}}'


def grammar(box: Toolbox, answer: str | None = None) -> str:
    """The JSON schema, as text, of what may be answered; ``SchemaError`` if it asks for too much.

    ``answer``: the schema, as JSON text, of an answer that calls nothing; any text without one.
    """
    definitions: dict[str, Any] = {}
    calls = []
    for number, function in enumerate(box.functions):
        key = f"tool{number}"
        schema = _closed(function.parameters or NO_ARGUMENTS)
        definitions[key] = _moved(schema, f"#/$defs/{key}")
        arguments = {"$ref": f"#/$defs/{key}"}
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": function.name}, "arguments": arguments},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    schema = {"type": "array", "items": {"anyOf": calls}, "minItems": 1}
    if not box.parallel:
        schema["maxItems"] = 1
    if box.mode == "auto" and answer is not None:
        definitions["answer"] = _moved(json.loads(answer), "#/$defs/answer")
        schema = {"anyOf": [schema, {"$ref": "#/$defs/answer"}]}
    elif box.mode == "auto":
        schema[OR_TEXT] = True
    text = json.dumps(schema | {"$defs": definitions})
    schema_limits.parse(text)
    return text


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """``schema`` with no arguments but those it names, unless it speaks of others.

    A model that may go on with names of its own does: the call never ends.
    """
    others = ("additionalProperties", "unevaluatedProperties", "patternProperties", "allOf",
              "anyOf", "oneOf", "$ref", "if")  # fmt: skip
    if "properties" not in schema or any(key in schema for key in others):
        return schema
    return schema | {"additionalProperties": False}


def _moved(schema: Any, place: str) -> Any:
    """``schema`` with its own references led to ``place``, where it stands now."""
    if isinstance(schema, list):
        return [_moved(each, place) for each in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value, place) for key, value in schema.items()}
    reference = moved.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = place + reference[1:]
    return moved
