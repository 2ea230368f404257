"""The bodies that clients send, as pydantic models; also the source of the OpenAPI document.

Strict in types: a string is no number. What is unknown, neutral or not to be had is judged by
one rule (``tolerance``): fields that cannot change the answer (``user``, ``metadata`` …) are taken
and ignored, fields that would are refused in words.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
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
_WHOLE, _PARTS = "«text»", "«parts»"  # forms of a content, left out of an error's path

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
_NO_TOOLS = ("tools", "tool_choice", "tool_calls", "functions", "function_call")


Refused = Annotated[
    Any,
    AfterValidator(_nothing),
    WithJsonSchema(
        {"description": "Not available here; a value that asks for nothing is accepted."}
    ),
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

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, frozen=True)


class StreamOptions(Body):
    """``stream_options``."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None  # with include_usage: the counts in each chunk
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
    top_p: Probability | None = None  # 0: the likeliest token only
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
    max_tokens: Annotated[int, Field(ge=-1)] | None = None  # -1: all that fit
    parse_special: bool | None = None  # names of special tokens in a text are tokens; default yes
    suffix: Refused = None


def _text_only(value: Any) -> Any:
    if value in TEXT_PARTS:
        return value
    raise PydanticCustomError(
        "unsupported_part",
        "Llama 2 reads text only; parts of type {shown} are not supported",
        {"shown": repr(str(value)[:MAX_SHOWN])},
    )


class TextPart(Body):
    """One part of a message's content."""

    type: Annotated[
        Any, BeforeValidator(_text_only), WithJsonSchema({"type": "string", "enum": TEXT_PARTS})
    ]
    text: str


def _content_form(value: Any) -> str:
    return _PARTS if isinstance(value, list) else _WHOLE


# Each form has its own errors: those of a part name the part, not the other form.
Content = Annotated[
    Annotated[str, Tag(_WHOLE)]
    | Annotated[
        Annotated[list[TextPart], Field(max_length=MAX_PARTS, fail_fast=True)], Tag(_PARTS)
    ],
    Discriminator(_content_form),
]


class ChatMessage(Body):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
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
    max_completion_tokens: MaxTokens | None = None
    max_tokens: MaxTokens | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None  # default: if the last message is an assistant's
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


def _input_form(value: Any) -> str:
    if not isinstance(value, list):
        return _WHOLE
    return _PARTS if not value or isinstance(value[0], str) else "«messages»"


class InputData(Body):
    """``input_data`` of a body to ``/score``."""

    input_string: Annotated[
        Annotated[Messages, Tag("«messages»")]
        | Annotated[Annotated[list[str], Field(min_length=1, fail_fast=True)], Tag(_PARTS)]
        | Annotated[str, Tag(_WHOLE)],
        Discriminator(_input_form),
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
        body = kind.model_validate(document)
    except ValidationError as error:
        raise _problem(error) from None
    wish = unmet_wish(body)
    if wish is not None:
        raise _refusal(wish)
    return body


def _refusal(where: str) -> Problem:
    name = where.rsplit(".", 1)[-1]
    reason = "Llama 2 has no tool calling" if name in _NO_TOOLS else f"{name} is not available here"
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
