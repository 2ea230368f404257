"""The bodies that clients send, as pydantic models; also the source of the OpenAPI document.

Strict: a string is no number, an unknown field is an error rather than a wish
silently dropped. Fields that cannot change the answer (``user``, ``metadata`` …)
are taken and ignored; fields that would (``tools`` …) are refused in words.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from llama_hub.inference.service.problems import Problem, invalid

MAX_N = 128  # answers to one prompt
MAX_LOGPROBS = 20  # alternatives per token
MAX_STOPS = 16  # stop strings
MAX_MESSAGES = 4096  # of one conversation
MAX_PARTS = 1024  # of one message
MAX_BIASES = 1024  # tokens with a bias of their own, which is applied at every step
MAX_TOKENS = 1 << 17  # to be made text
MAX_SHOWN = 100  # characters of a field's name in an error
INT64 = 2**63

Token = Annotated[int, Field(ge=0, lt=2**31)]
Probability = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Seed = Annotated[int, Field(ge=-INT64, lt=INT64)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]
ModelName = Annotated[str, Field(max_length=256)]
Ignored = Annotated[Any, Field(description="Accepted and ignored.")]
_NO_TOOLS = ("tools", "tool_choice", "tool_calls", "functions", "function_call")


def _nothing(value: Any) -> Any:
    """Let through what asks for nothing."""
    if value is None or value is False or value in ([], "none"):
        return value
    raise PydanticCustomError("refused", "refused")


Refused = Annotated[
    Any,
    AfterValidator(_nothing),
    WithJsonSchema({"enum": [None, False, [], "none"], "description": "Not available here."}),
]

_STOP_SCHEMA = {
    "anyOf": [
        {"type": "string", "minLength": 1, "maxLength": 256},
        {
            "type": "array",
            "items": {"type": "string", "minLength": 1, "maxLength": 256},
            "maxItems": MAX_STOPS,
        },
        {"type": "null"},
    ]
}
_TOKENS_SCHEMA = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
    "minItems": 1,
}
_PROMPT_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        _TOKENS_SCHEMA,
        {"type": "array", "items": _TOKENS_SCHEMA, "minItems": 1},
    ],
    "description": "A text, texts, token ids, or lists of token ids.",
}
Stop = Annotated[Any, WithJsonSchema(_STOP_SCHEMA)]
Prompt = Annotated[Any, WithJsonSchema(_PROMPT_SCHEMA)]


class Body(BaseModel):
    """What all bodies have in common."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class StreamOptions(Body):
    """``stream_options``."""

    include_usage: bool | None = None
    include_obfuscation: Ignored = None


class JsonSchema(Body):
    """``response_format.json_schema``."""

    name: str = "answer"
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """``response_format``."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Sampling(Body):
    """Fields that chat and completions share; unset ones take Llama 2's own defaults."""

    model: ModelName | None = None
    frequency_penalty: Penalty | None = None
    ignore_eos: bool | None = None
    logit_bias: (
        Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=MAX_BIASES)]
        | None
    ) = None
    min_p: Probability | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    response_format: ResponseFormat | None = None
    seed: Seed | None = None
    stop: Stop = None
    stop_token_ids: Annotated[list[Token], Field(max_length=64, fail_fast=True)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    metadata: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_retention: Ignored = None
    safety_identifier: Ignored = None
    service_tier: Ignored = None
    store: Ignored = None
    user: Ignored = None


class CompletionBody(Sampling):
    """``POST /v1/completions``."""

    prompt: Prompt
    add_special_tokens: bool | None = None  # whether text begins with BOS; default yes
    best_of: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    parse_special: bool | None = None  # names of special tokens in a text are tokens; default yes
    suffix: Refused = None


class TextPart(Body):
    """One part of a message's content."""

    type: Literal["text"]
    text: str


class ChatMessage(Body):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(max_length=MAX_PARTS, fail_fast=True)]
    name: Ignored = None
    refusal: Ignored = None
    annotations: Ignored = None
    audio: Refused = None
    function_call: Refused = None
    tool_calls: Refused = None


# One wrong message is enough: a hundred thousand are not all reported.
Messages = Annotated[
    list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
]


class ChatBody(Sampling):
    """``POST /v1/chat/completions``."""

    messages: Messages
    logprobs: bool | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    parallel_tool_calls: Ignored = None
    audio: Refused = None
    function_call: Refused = None
    functions: Refused = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    prediction: Refused = None
    reasoning_effort: Refused = None
    tool_choice: Refused = None
    tools: Refused = None
    verbosity: Refused = None
    web_search_options: Refused = None


class TokenizeBody(Body):
    """``POST /tokenize``: a text or a conversation."""

    model: ModelName | None = None
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool = True  # BOS before a text
    parse_special: bool | None = None  # names of special tokens in it are tokens; default yes


class DetokenizeBody(Body):
    """``POST /detokenize``."""

    model: ModelName | None = None
    tokens: Annotated[list[Token], Field(max_length=MAX_TOKENS, fail_fast=True)]


class GrammarBody(Body):
    """``parameters.grammar`` of a Hugging Face body."""

    type: Literal["json"]
    value: dict[str, Any]


class GenerateParameters(Body):
    """``parameters`` of a Hugging Face body."""

    best_of: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    decoder_input_details: bool | None = None
    details: bool | None = None
    do_sample: bool | None = None
    frequency_penalty: Penalty | None = None
    grammar: GrammarBody | None = None
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    min_new_tokens: Annotated[int, Field(ge=0)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    return_full_text: bool | None = None
    seed: Seed | None = None
    stop: Annotated[list[StopString], Field(max_length=MAX_STOPS)] | None = None
    stop_sequences: Annotated[list[StopString], Field(max_length=MAX_STOPS)] | None = None
    temperature: Annotated[float, Field(gt=0, le=2)] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    top_n_tokens: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    truncate: Refused = None
    typical_p: Refused = None
    watermark: Refused = None
    adapter_id: Refused = None


class GenerateBody(Body):
    """``POST /`` and ``/generate``: Hugging Face's text-generation body."""

    inputs: Annotated[
        Any,
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"type": "string"}, "minItems": 1},
                ]
            }
        ),
    ]
    parameters: GenerateParameters | None = None
    stream: bool | None = None
    model: ModelName | None = None
    options: Ignored = None


class InputData(Body):
    """``input_data`` of a body to ``/score``."""

    input_string: Annotated[
        Messages | Annotated[list[str], Field(min_length=1, fail_fast=True)] | str,
        Field(description="A conversation, texts or a text."),
    ]
    parameters: GenerateParameters | None = None


class ScoreBody(Body):
    """``POST /score`` in the form of Azure's own Llama 2 deployments."""

    input_data: InputData


B = TypeVar("B", bound=Body)


def read(kind: type[B], document: dict[str, Any]) -> B:
    """``document`` as a ``kind``; a 400 problem that names the first wrong field otherwise."""
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise _problem(error) from None


def _refusal(where: str) -> Problem:
    name = where.rsplit(".", 1)[-1]
    reason = "Llama 2 has no tool calling" if name in _NO_TOOLS else f"{name} is not available here"
    return invalid(f"{reason}; leave {where!r} out", where, "unsupported_parameter")


def _problem(error: ValidationError) -> Problem:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part)[:MAX_SHOWN] for part in first["loc"])
    if first["type"] == "refused":
        return _refusal(where)
    if first["type"] == "extra_forbidden":
        return invalid(f"unrecognized field {where!r}", where, "unknown_parameter")
    if first["type"] == "missing":
        return invalid(f"the field {where!r} is missing", where, "missing_required_parameter")
    return invalid(f"{where}: {first['msg']}", where, "invalid_value")
