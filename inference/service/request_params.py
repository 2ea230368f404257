"""Parameters of a request, read from its body: prompts, sampling, room in the context."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llama_hub.inference import schema_limits
from llama_hub.inference.chat_format import Message
from llama_hub.inference.engine import OR_TEXT, SamplingParams
from llama_hub.inference.service.base_schemas import MAX_STOPS
from llama_hub.inference.service.problems import Problem, invalid
from llama_hub.inference.service.schemas import (
    ChatBody,
    ResponseFormat,
    Sampling,
)
from llama_hub.inference.service.state import Service

INLINE = 4096  # characters up to which text is tokenised on the event loop
INLINE_TURNS = 64  # the same for a conversation
LIKELIEST = 1e-9  # a share that the likeliest token alone has
ANY_OBJECT = {"type": "object"}


def check_model(service: Service, name: str | None) -> None:
    """``Problem`` 404 if ``name`` is another model's and the server was told to mind."""
    if service.settings.check_model and name is not None and name != service.served.name:
        raise Problem(
            404,
            f"the model {name!r} does not exist here; this server has {service.served.name!r}",
            param="model",
            code="model_not_found",
        )


async def encode(
    service: Service,
    texts: Sequence[str],
    *,
    bos: bool,
    fits: bool = True,
    parse_special: bool | None = None,
    param: str = "prompt",
) -> list[tuple[int, ...]]:
    """Token ids of each of ``texts``, as the model's own tokenizer cuts raw text.

    ``bos``: with BOS and EOS as its settings say; ``parse_special``: whether names of special
    tokens are those tokens (``None``: as the server was told). 400 for the first text that has too
    many characters to fit the context and, where it has to (``fits``), for the first that has too
    many tokens.
    """
    for text in texts:
        _check_length(service, len(text), param)
    special = service.settings.parse_special if parse_special is None else parse_special
    if sum(map(len, texts)) <= INLINE:
        return _encode_each(service, texts, bos, fits, special)
    return await service.tokenizing(_encode_each, service, texts, bos, fits, special)


def _check_length(service: Service, length: int, param: str) -> None:
    """400 for more characters than could fit the context, before they are tokenised."""
    if length > service.text_limit:
        raise invalid(
            f"the {param} has {length} characters; at most {service.text_limit} could fit the "
            f"context of {service.engine.info.context} tokens",
            param,
            "context_length_exceeded",
        )


def _encode_each(
    service: Service, texts: Sequence[str], bos: bool, fits: bool, special: bool
) -> list[tuple[int, ...]]:
    prompts = []
    for text in texts:
        raw = service.tokenizer.encode_raw(text, add_special=bos, parse_special=special)
        prompts.append(tuple(raw))
        if fits:
            check_prompt(service, prompts[-1])  # the rest is not worth the work
    return prompts


async def prompts_of(
    service: Service, given: Any, *, bos: bool, width: int, parse_special: bool | None = None
) -> list[tuple[int, ...]]:
    """Token ids of a completion's ``prompt``: a text, texts, token ids or lists of them.

    ``width``: sequences for each prompt; they are counted before anything is tokenised.
    """
    listed = listed_prompts(given, "prompt")
    service.admission.check(len(listed) * width)
    if isinstance(listed[0], str):
        return await encode(service, listed, bos=bos, parse_special=parse_special)
    return [checked_tokens(service, item) for item in listed]


def listed_prompts(given: Any, param: str) -> list[str] | list[list[int]]:
    """Texts, or lists of token ids, of a field that may be one or several of either; else 400."""
    listed = [given] if isinstance(given, str) or _is_tokens(given) else given
    if isinstance(listed, list) and listed:
        texts = all(isinstance(item, str) for item in listed)
        if texts or all(_is_tokens(item) for item in listed):
            return listed
    raise invalid(f"{param} must be a text, token ids, or a list of either", param)


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and set(map(type, value)) == {int}


def checked_tokens(
    service: Service, tokens: Sequence[int], param: str = "prompt"
) -> tuple[int, ...]:
    """``tokens`` as they are; 400 that names ``param`` if one is outside the vocabulary."""
    size = service.engine.info.vocab_size
    for token in (min(tokens, default=0), max(tokens, default=0)):
        if not 0 <= token < size:
            raise invalid(f"token id {token} is outside the vocabulary of {size}", param)
    return tuple(tokens)


async def encode_conversation(
    service: Service, turns: Sequence[Message], *, continued: bool = False
) -> tuple[int, ...]:
    """Token ids of a conversation in the model's own chat format; 400 for a base model.

    ``continued``: the last message, the assistant's, is the beginning of the answer.
    """
    if not service.served.chat:
        raise invalid(
            f"{service.served.name} is a base model, which continues texts and was not trained to "
            "chat: use /v1/completions; or start the server with --chat",
            "messages",
            "base_model",
        )
    length = sum(len(turn.content) for turn in turns)
    _check_length(service, length, "messages")
    strict = service.settings.strict
    if service.chat.is_quick and length <= INLINE and len(turns) <= INLINE_TURNS:
        return tuple(service.chat.encode(turns, strict=strict, continued=continued))
    return tuple(
        await service.tokenizing(
            lambda: service.chat.encode(turns, strict=strict, continued=continued)
        )
    )


def is_continued(body: ChatBody) -> bool:
    """Whether the last message is to be continued: where it is the assistant's, unless the body
    says otherwise; 400 for wishes that contradict each other or the messages."""
    assistant = body.messages[-1].role == "assistant"
    wanted = body.continue_final_message
    if wanted and not assistant:
        raise invalid(
            "continue_final_message needs a last message from 'assistant'", "continue_final_message"
        )
    if wanted and body.add_generation_prompt:
        raise invalid(
            "continue_final_message and add_generation_prompt exclude each other",
            "add_generation_prompt",
        )
    if body.add_generation_prompt is False and not assistant:
        raise invalid(
            "without add_generation_prompt the last message must be from 'assistant', whose "
            "beginning is continued",
            "add_generation_prompt",
        )
    return assistant and wanted is not False and not body.add_generation_prompt


def check_prompt(service: Service, prompt: Sequence[int]) -> None:
    """400 with the counts if ``prompt`` leaves no room for an answer."""
    context = service.engine.info.context
    longest = min(service.settings.max_prompt_tokens or context - 1, context - 1)
    if len(prompt) > longest:
        raise invalid(
            f"the prompt has {len(prompt)} tokens; this server takes at most "
            f"{longest} (context {context})",
            "prompt",
            "context_length_exceeded",
        )


def room(
    service: Service,
    prompt: Sequence[int],
    wanted: int | None,
    default: int | None,
    *,
    strict: bool = True,
) -> int:
    """How many tokens may be made after ``prompt``.

    ``wanted`` -1 and a ``default`` of None mean all that fit; a default gives way to a long prompt.
    So does ``wanted`` unless ``strict``: then it is a 400 with the counts.
    """
    check_prompt(service, prompt)
    context = service.engine.info.context
    left = context - len(prompt)
    if wanted == -1:
        return left
    if wanted is None:
        return left if default is None else min(default, left)
    if wanted > left and strict:
        raise invalid(
            f"the prompt has {len(prompt)} tokens and {wanted} more are asked for; together "
            f"{len(prompt) + wanted}, and the context holds {context}",
            "max_tokens",
            "context_length_exceeded",
        )
    return min(wanted, left)


async def sampling_params(
    service: Service, body: Sampling, *, logprobs: int | None
) -> SamplingParams:
    """The engine's parameters without ``max_tokens``; unset fields keep the engine's defaults."""
    given = {
        name: getattr(body, name)
        for name in (
            "frequency_penalty",
            "ignore_eos",
            "min_p",
            "min_tokens",
            "presence_penalty",
            "repetition_penalty",
            "temperature",
        )
        if getattr(body, name) is not None
    }
    if body.top_p is not None:
        given["top_p"] = body.top_p or LIKELIEST
    return SamplingParams(
        **given,
        top_k=max(0, body.top_k or 0),
        seed=None if body.seed is None else body.seed & (2**63 - 1),
        stop_token_ids=frozenset(
            checked_tokens(service, body.stop_token_ids or (), "stop_token_ids")
        ),
        logit_bias=_logit_bias(service, body.logit_bias or {}),
        logprobs=logprobs,
        grammar=await _grammar_of(service, body.response_format),
    )


def _logit_bias(service: Service, given: dict[str, float]) -> dict[int, float]:
    size = service.engine.info.vocab_size
    for token in given:
        if not (token.isascii() and token.isdigit() and len(token) < 10 and int(token) < size):
            raise invalid(
                f"logit_bias: {token[:20]!r} is not a token id below {size}", "logit_bias"
            )
    return {int(token): bias for token, bias in given.items()}


async def _grammar_of(service: Service, wanted: ResponseFormat | None) -> str | None:
    """The JSON schema that the answer must satisfy, as JSON text."""
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return json.dumps(ANY_OBJECT)
    if wanted.json_schema is None:
        raise invalid(
            "response_format of type json_schema needs its json_schema", "response_format"
        )
    return await schema_text(service, wanted.json_schema.schema_)


async def schema_text(service: Service, schema: dict[str, Any]) -> str:
    """``schema`` as JSON text; a ``SchemaError`` that names the part which asks for too much."""

    def judged() -> str:
        text = json.dumps({key: value for key, value in schema.items() if key != OR_TEXT})
        schema_limits.parse(text)
        return text

    return await service.tokenizing(judged)


def stops_of(given: Any) -> tuple[str, ...]:
    """The stop strings of a body's ``stop``."""
    listed = [] if given is None else [given] if isinstance(given, str) else given
    whole = isinstance(listed, list) and all(isinstance(item, str) and item for item in listed)
    if not whole or len(listed) > MAX_STOPS or any(len(item) > 256 for item in listed):
        raise invalid(
            f"stop must be a text or at most {MAX_STOPS} texts, each of 1 to 256 characters", "stop"
        )
    return tuple(listed)
