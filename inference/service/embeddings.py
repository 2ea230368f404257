"""Embeddings: one vector for each text, OpenAI's route for them.

A vector is the mean of the model's last hidden states (after its last norm) over all tokens of the
text, BOS included, brought to length 1. Llama 2 was not trained to embed: the vectors tell what a
text is about, less sharply than those of a model made for it. The texts of a call are read a few
at a time, so that one of two thousand has no more of the engine than others.
"""

from __future__ import annotations

import asyncio
import base64
import sys
import time
import uuid
from array import array
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from llama_hub.inference.engine import GenerationRequest, SamplingParams
from llama_hub.inference.service.base_schemas import Body, Ignored, ModelName, read
from llama_hub.inference.service.client import CLIENT
from llama_hub.inference.service.generation import before
from llama_hub.inference.service.problems import Problem, invalid, unavailable
from llama_hub.inference.service.request_params import (
    check_model,
    checked_tokens,
    encode,
    listed_prompts,
)
from llama_hub.inference.service.state import Service
from llama_hub.inference.service.streaming import Document, document_response

MAX_INPUTS = 2048  # texts of one call, as OpenAI has it
MAX_NUMBERS = 1 << 22  # of all vectors of one call
AT_ONCE = 4  # texts of one call that are on the engine


class EmbeddingBody(Body):
    """``POST /v1/embeddings``."""

    input: Annotated[
        Any,
        WithJsonSchema(
            {
                "description": "A text, texts, token ids, or lists of token ids.",
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"type": "string"}, "minItems": 1},
                    {"type": "array", "items": {"type": "integer"}, "minItems": 1},
                    {
                        "type": "array",
                        "items": {"type": "array", "items": {"type": "integer"}},
                        "minItems": 1,
                    },
                ],
            }
        ),
    ]
    model: ModelName | None = None
    encoding_format: Literal["float", "base64"] | None = None  # default: float
    dimensions: Annotated[int, Field(ge=1)] | None = None  # only the model's own number
    user: Ignored = None


@dataclass(frozen=True)
class Embedded:
    """The vectors of a call, float32 as bytes, and how many tokens were read for them."""

    vectors: list[bytes]
    tokens: int


async def embeddings(service: Service, request: Request, document: Document) -> Response:
    """``POST /v1/embeddings``; ``Problem`` 400 for what cannot be, 501 without such an engine."""
    body = read(EmbeddingBody, document)
    check_model(service, body.model)
    check_dimensions(service, body.dimensions)
    done = await embedded(service, await inputs_of(service, body.input))
    form = numbers_of if body.encoding_format != "base64" else _base64

    def whole() -> Document:
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": form(vector)}
                for index, vector in enumerate(done.vectors)
            ],
            "model": service.served.name,
            "usage": {"prompt_tokens": done.tokens, "total_tokens": done.tokens},
        }

    return await document_response(whole)


def check_dimensions(service: Service, wanted: int | None) -> None:
    """``Problem`` 501 if this engine makes no vectors, 400 if it makes none of that size."""
    info = service.engine.info
    if not info.embedding_size:
        raise Problem(
            501,
            f"the {info.engine} engine makes no embeddings; serve the model with --engine torch",
            kind="not_implemented_error",
            code="no_embeddings",
        )
    if wanted not in (None, info.embedding_size):
        raise invalid(
            f"this model's vectors have {info.embedding_size} numbers and were not trained to be "
            "shortened: leave 'dimensions' out",
            "dimensions",
            "unsupported_parameter",
        )


async def inputs_of(
    service: Service, given: Any, *, truncate: bool = False
) -> list[tuple[int, ...]]:
    """Token ids of each text of a body's ``input``; 400 for what is empty, too much or too long.

    ``truncate``: what is too long loses its end instead.
    """
    listed = listed_prompts(given, "input")
    most = min(MAX_INPUTS, MAX_NUMBERS // service.engine.info.embedding_size)
    if len(listed) > most:
        raise invalid(f"{len(listed)} inputs in one request; at most {most}", "input")
    if any(not each for each in listed):
        raise invalid("an input is empty; leave it out", "input", "invalid_value")
    if isinstance(listed[0], str):
        # So many characters are more tokens than fit, whatever they are.
        texts = [text[: service.text_limit] for text in listed] if truncate else listed
        prompts = await encode(service, texts, bos=True, fits=False, param="input")
    else:
        prompts = [checked_tokens(service, each, "input") for each in listed]
    context = service.engine.info.context
    longest = min(service.settings.max_prompt_tokens or context, context)
    if truncate:
        prompts = [prompt[:longest] for prompt in prompts]
    for index, prompt in enumerate(prompts):
        if len(prompt) > longest:
            raise invalid(
                f"input {index} has {len(prompt)} tokens; this server takes at most {longest} "
                f"(context {context}): split it",
                "input",
                "context_length_exceeded",
            )
    await _judge(service, listed, prompts)
    return prompts


async def _judge(
    service: Service, listed: Sequence[Any], prompts: Sequence[tuple[int, ...]]
) -> None:
    """Show the texts to the moderation hooks, where there are any, or to the log."""
    if not (service.settings.moderators or service.settings.log_prompts):
        return
    texts = list(listed)
    if not isinstance(listed[0], str):
        decode = service.tokenizer.decode
        texts = [await service.tokenizing(decode, list(prompt)) for prompt in prompts]
    call_id = f"embd-{uuid.uuid4().hex}"
    await service.judge_input("\n".join(texts), call_id, answered=False)


async def embedded(service: Service, prompts: Sequence[tuple[int, ...]]) -> Embedded:
    """The vectors of ``prompts``, in order.

    Raises ``Problem``: 429 and 503 where there is no room, 504 when the request's time is up.
    """
    call_id = f"embd-{uuid.uuid4().hex}"
    vectors = [b""] * len(prompts)
    left = iter(enumerate(prompts))

    async def one_after_another() -> None:
        for index, prompt in left:
            vectors[index] = await _vector(service, prompt, f"{call_id}-{index}", call_id)

    width = min(AT_ONCE, len(prompts), service.engine.info.max_batch)
    deadline = asyncio.get_running_loop().time() + service.settings.request_timeout
    with service.admission.admit(width):
        tasks = [asyncio.create_task(one_after_another()) for _ in range(width)]
        try:
            await before(deadline, asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return Embedded(vectors, sum(map(len, prompts)))


async def _vector(
    service: Service, prompt: tuple[int, ...], request_id: str, call_id: str
) -> bytes:
    request = GenerationRequest(
        request_id,
        prompt,
        SamplingParams(max_tokens=0),
        client=CLIENT.get(),
        call=call_id,
        embedding=True,
    )
    begun = time.monotonic()
    service.active.add(request_id)
    try:
        async with aclosing(service.engine.generate(request)) as deltas:
            async for delta in deltas:
                if delta.embedding is not None:
                    service.metrics.embedded(time.monotonic() - begun)
                    return delta.embedding
    finally:
        service.active.discard(request_id)
    raise unavailable("the answer was cut off: the server is shutting down")


def numbers_of(vector: bytes) -> list[float]:
    """The numbers of a vector of the engine."""
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


def _base64(vector: bytes) -> str:
    """Little-endian float32 in base64, as OpenAI sends it."""
    return base64.b64encode(vector).decode()
