"""Hugging Face's text-generation bodies: ``{"inputs", "parameters"}``.

Answered as their own servers do: ``POST /`` in a list, ``/generate`` bare,
``/generate_stream`` (or ``"stream": true``) as events with one token each.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from llama_hub.inference.engine import SamplingParams, TokenLogprob
from llama_hub.inference.service.base_schemas import read
from llama_hub.inference.service.generation import Answer, Ask, answers, pieces
from llama_hub.inference.service.problems import invalid
from llama_hub.inference.service.request_params import check_model, encode, room, schema_text
from llama_hub.inference.service.responses import finite
from llama_hub.inference.service.schemas import GenerateBody, GenerateParameters
from llama_hub.inference.service.state import Service
from llama_hub.inference.service.streaming import (
    Document,
    StreamReply,
    document_response,
    started,
    wants_lines,
)

DEFAULT_MAX_TOKENS = 100  # as text-generation-inference has it
DEFAULTS = GenerateParameters()


async def root(service: Service, request: Request, document: Document) -> Response:
    """``POST /``: the answer in a list."""
    return await _generate(service, request, document, listed=True)


async def generate(service: Service, request: Request, document: Document) -> Response:
    """``POST /generate``: the answer bare."""
    return await _generate(service, request, document, listed=False)


async def generate_stream(service: Service, request: Request, document: Document) -> Response:
    """``POST /generate_stream``."""
    return await _generate(service, request, document, listed=False, stream=True)


async def _generate(
    service: Service,
    request: Request,
    document: Document,
    *,
    listed: bool,
    stream: bool = False,
) -> Response:
    body = read(GenerateBody, document)
    stream = stream or bool(body.stream)
    check_model(service, body.model)
    parameters = body.parameters or DEFAULTS
    if parameters.best_of and parameters.best_of > 1 and stream:
        raise invalid("best_of cannot be streamed", "parameters.best_of")
    texts = _inputs(body.inputs)
    if stream and len(texts) > 1:
        raise invalid("several inputs cannot be streamed", "inputs")
    call_id = f"gen-{uuid.uuid4().hex}"
    asks = await asks_of(service, texts, parameters, call_id)
    if stream:
        source = await started(_events(service, asks[0], texts[0], parameters, call_id))
        return StreamReply(source, shape="huggingface", lines=wants_lines(request))
    finished = await answers(service, asks, call_id)
    bare = not listed and isinstance(body.inputs, str)

    def documents() -> Any:
        made = [
            _document(service, answer, text, ask, parameters)
            for answer, text, ask in zip(finished, texts, asks, strict=True)
        ]
        return made[0] if bare else made

    return await document_response(documents)


def _inputs(given: Any) -> list[str]:
    if isinstance(given, str):
        return [given]
    if isinstance(given, list) and given and all(isinstance(item, str) for item in given):
        return given
    raise invalid("inputs must be a text or a list of texts", "inputs")


async def asks_of(
    service: Service, texts: Sequence[str], parameters: GenerateParameters, call_id: str
) -> list[Ask]:
    """What ``texts`` and ``parameters`` ask of the engine, counted before it is worked on."""
    service.admission.check(len(texts) * (parameters.best_of or 1))
    await service.judge_input("\n".join(texts), call_id)
    prompts = await encode(service, texts, bos=True)
    sampling = await sampling_of(service, parameters)
    stops = tuple(parameters.stop or parameters.stop_sequences or ())
    return [
        Ask(
            prompt,
            dataclasses.replace(
                sampling,
                max_tokens=room(service, prompt, parameters.max_new_tokens, DEFAULT_MAX_TOKENS),
            ),
            stops,
            best_of=parameters.best_of or 1,
        )
        for prompt in prompts
    ]


async def sampling_of(service: Service, parameters: GenerateParameters) -> SamplingParams:
    """The engine's parameters without ``max_tokens``: greedy unless sampling is asked for, by name
    or by a number."""
    numbers = (parameters.temperature, parameters.top_k, parameters.top_p)
    sampled = parameters.do_sample or (
        parameters.do_sample is None and any(number is not None for number in numbers)
    )
    if not sampled:
        choice: dict[str, Any] = {"temperature": 0.0}
    else:
        choice = {
            "temperature": parameters.temperature or 1.0,
            "top_p": parameters.top_p or 1.0,
            "top_k": parameters.top_k or 0,
        }
    grammar = parameters.grammar
    detailed = parameters.details or parameters.top_n_tokens
    return SamplingParams(
        **choice,
        min_tokens=parameters.min_new_tokens or 0,
        repetition_penalty=parameters.repetition_penalty or 1.0,
        frequency_penalty=parameters.frequency_penalty or 0.0,
        seed=None if parameters.seed is None else parameters.seed & (2**63 - 1),
        logprobs=(parameters.top_n_tokens or 0) if detailed else None,
        prompt_logprobs=0 if parameters.decoder_input_details else None,
        grammar=await schema_text(service, grammar.value) if grammar else None,
    )


def finish_reason(finish: str | None, stopped_by: str | None) -> str:
    """Hugging Face's word for how an answer ended."""
    if finish == "stop":
        return "eos_token" if stopped_by is None else "stop_sequence"
    return str(finish)


def _document(
    service: Service, answer: Answer, text: str, ask: Ask, parameters: GenerateParameters
) -> Document:
    lead = text if parameters.return_full_text else ""
    document: Document = {"generated_text": lead + answer.text}
    if parameters.details:
        document["details"] = {
            "finish_reason": finish_reason(answer.finish, answer.stopped_by),
            "generated_tokens": answer.generated,
            "seed": parameters.seed,
            "prefill": _prefill(service, ask.prompt, answer.prompt_logprobs),
            "tokens": [_token(service, token) for token in answer.tokens],
        }
        if parameters.top_n_tokens:
            document["details"]["top_tokens"] = [_top(service, t) for t in answer.tokens]
    return document


def _prefill(
    service: Service, prompt: Sequence[int], logprobs: Sequence[TokenLogprob | None] | None
) -> list[Document]:
    if logprobs is None:
        return []
    return [
        _likelihood(service, token, None if entry is None else entry.logprob)
        for token, entry in zip(prompt, logprobs, strict=True)
    ]


def _likelihood(service: Service, token: int, logprob: float | None) -> Document:
    return {
        "id": token,
        "text": service.token_bytes(token).decode(errors="replace"),
        "logprob": None if logprob is None else finite(logprob),
    }


def _token(service: Service, token: TokenLogprob) -> Document:
    special = service.tokenizer.is_control(token.token)
    return _likelihood(service, token.token, token.logprob) | {"special": special}


def _top(service: Service, token: TokenLogprob) -> list[Document]:
    return [
        _likelihood(service, other, logprob) | {"special": service.tokenizer.is_control(other)}
        for other, logprob in token.top
    ]


async def _events(
    service: Service, ask: Ask, text: str, parameters: GenerateParameters, call_id: str
) -> AsyncGenerator[Document, None]:
    """One event for each piece of text: its text, and its last token's id and likelihood."""
    if ask.sampling.logprobs is None:
        ask = dataclasses.replace(ask, sampling=dataclasses.replace(ask.sampling, logprobs=0))
    answer = Answer()
    async with aclosing(pieces(service, [ask], call_id)) as stream:
        async for piece in stream:
            answer.add(piece)
            if not (piece.text or piece.tokens or piece.finish):
                continue
            yield _event(service, answer, piece.text, piece.tokens, ask, text, parameters)


def _event(
    service: Service,
    answer: Answer,
    shown: str,
    tokens: Sequence[TokenLogprob],
    ask: Ask,
    text: str,
    parameters: GenerateParameters,
) -> Document:
    last = tokens[-1] if tokens else TokenLogprob(service.tokenizer.eos_id, 0.0)
    event: Document = {
        "index": answer.generated,
        "token": _token(service, last) | {"text": shown, "special": not shown},
        "generated_text": None,
        "details": None,
    }
    if parameters.top_n_tokens:
        event["top_tokens"] = _top(service, last)
    if answer.finish:
        lead = text if parameters.return_full_text else ""
        event["generated_text"] = lead + answer.text
        event["details"] = {
            "finish_reason": finish_reason(answer.finish, answer.stopped_by),
            "generated_tokens": answer.generated,
            "seed": parameters.seed,
            "input_length": len(ask.prompt),
        }
    return event
