"""The parts that all bodies are made of, and the one way to read a body.

Strict in types: a string is no number. What is unknown, neutral or not to be had is judged by
one rule (``tolerance``): fields that cannot change the answer (``user``, ``metadata`` …) are taken
and ignored, fields that would are refused in words.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from llama_hub.inference.service.problems import Problem, invalid
from llama_hub.inference.service.tolerance import asks_for_nothing, unmet_wish

MAX_N = 128  # answers to one prompt
MAX_LOGPROBS = 20  # alternatives per token
MAX_STOPS = 16  # stop strings
MAX_MESSAGES = 4096  # of one conversation
MAX_PARTS = 1024  # of one message
MAX_BIASES = 1024  # tokens with a bias of their own, which is applied at every step
MAX_TOKENS = 1 << 17  # to be made text
MAX_SHOWN = 100  # characters of a field's name in an error
INT64 = 2**63
TEXT_PARTS = ["text", "input_text", "output_text"]  # the latter two as /v1/responses has them
WHOLE, PARTS = "«text»", "«parts»"  # forms of a content, left out of an error's path

Token = Annotated[int, Field(ge=0, lt=2**31)]
Probability = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Seed = Annotated[int, Field(ge=-INT64, lt=INT64)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]
ModelName = Annotated[str, Field(max_length=256)]


def _nothing(value: Any, info: ValidationInfo) -> Any:
    """Let through what asks for nothing."""
    if asks_for_nothing(info.field_name or "", value):
        return value
    raise PydanticCustomError("refused", "refused")


def _not_zero(value: int) -> int:
    if value == 0:
        raise PydanticCustomError("zero", "Input should be at least 1, or -1 for all that fit")
    return value


MaxTokens = Annotated[
    int,
    Field(ge=-1),
    AfterValidator(_not_zero),
    WithJsonSchema(
        {"type": "integer", "minimum": -1, "not": {"const": 0}, "description": "-1: all that fit."}
    ),
]
Ignored = Annotated[Any, Field(description="Accepted and ignored.")]
_OLD_TOOLS = ("functions", "function_call")
Refused = Annotated[
    Any,
    AfterValidator(_nothing),
    WithJsonSchema(
        {"description": "Not available here; a value that asks for nothing is accepted."}
    ),
]


class Body(BaseModel):
    """What all bodies have in common."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, frozen=True)


B = TypeVar("B", bound=Body)


def read(kind: type[B], document: dict[str, Any]) -> B:
    """``document`` as a ``kind``; a 400 problem that names the first wrong field otherwise."""
    try:
        body = kind.model_validate(document)
    except ValidationError as error:
        raise _problem(error) from None
    wish = unmet_wish(body)
    if wish is not None:
        raise _refusal(wish)
    return body


def _refusal(where: str) -> Problem:
    name = where.rsplit(".", 1)[-1]
    reason = "use tools and tool_choice" if name in _OLD_TOOLS else f"{name} is not available here"
    return invalid(f"{reason}; leave {where!r} out", where, "unsupported_parameter")


def _problem(error: ValidationError) -> Problem:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    path = [str(part)[:MAX_SHOWN] for part in first["loc"]]
    where = ".".join(part for part in path if not part.startswith("«"))
    if first["type"] == "refused":
        return _refusal(where)
    if first["type"] == "unsupported_part":
        return invalid(f"{where}: {first['msg']}", where, "unsupported_content")
    if first["type"] == "missing":
        return invalid(f"the field {where!r} is missing", where, "missing_required_parameter")
    return invalid(f"{where}: {first['msg']}", where, "invalid_value")
