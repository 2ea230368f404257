"""The bodies that clients send, as pydantic models; also the source of the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from llama_hub.inference.service.base_schemas import (
    MAX_BIASES,
    MAX_LOGPROBS,
    MAX_MESSAGES,
    MAX_N,
    MAX_PARTS,
    MAX_SHOWN,
    MAX_STOPS,
    MAX_TOKENS,
    PARTS,
    TEXT_PARTS,
    WHOLE,
    Body,
    Ignored,
    MaxTokens,
    ModelName,
    Penalty,
    Probability,
    Refused,
    Seed,
    StopString,
    Token,
)
from llama_hub.inference.service.tool_schemas import MAX_ID, Choice, ToolCalls, Tools

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
    return PARTS if isinstance(value, list) else WHOLE


# Each form has its own errors: those of a part name the part, not the other form.
Content = Annotated[
    Annotated[str, Tag(WHOLE)]
    | Annotated[Annotated[list[TextPart], Field(max_length=MAX_PARTS, fail_fast=True)], Tag(PARTS)],
    Discriminator(_content_form),
]


class ChatMessage(Body):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None  # may be left out beside tool_calls
    tool_calls: ToolCalls | None = None
    tool_call_id: Annotated[str, Field(max_length=MAX_ID)] | None = None
    name: Ignored = None
    refusal: Ignored = None
    annotations: Ignored = None
    audio: Refused = None
    function_call: Refused = None

    @model_validator(mode="after")
    def _says_something(self) -> ChatMessage:
        if self.content is None and not self.tool_calls:
            raise PydanticCustomError("no_content", "the field 'content' is missing")
        if self.tool_calls and self.role != "assistant":
            raise PydanticCustomError("calls", "only a message from 'assistant' has tool_calls")
        return self


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
    parallel_tool_calls: bool | None = None
    audio: Refused = None
    function_call: Refused = None
    functions: Refused = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    prediction: Refused = None
    reasoning_effort: Refused = None
    tool_choice: Choice = None
    tools: Tools | None = None
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
        return WHOLE
    return PARTS if not value or isinstance(value[0], str) else "«messages»"


class InputData(Body):
    """``input_data`` of a body to ``/score``."""

    input_string: Annotated[
        Annotated[Messages, Tag("«messages»")]
        | Annotated[Annotated[list[str], Field(min_length=1, fail_fast=True)], Tag(PARTS)]
        | Annotated[str, Tag(WHOLE)],
        Discriminator(_input_form),
        Field(description="A conversation, texts or a text."),
    ]
    parameters: GenerateParameters | None = None


class ScoreBody(Body):
    """``POST /score`` in the form of Azure's own Llama 2 deployments."""

    input_data: InputData
