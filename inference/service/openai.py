"""OpenAI's API: models, completions, chat completions.

Both generating routes are also reached through the platforms' single route
(``/invocations``, ``/score``), with the same bodies and the same answers.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llama_hub.inference.engine import SamplingParams
from llama_hub.inference.service import responses
from llama_hub.inference.service.base_schemas import read
from llama_hub.inference.service.generation import Ask, answers, pieces
from llama_hub.inference.service.problems import Problem, invalid
from llama_hub.inference.service.request_params import (
    check_model,
    checked_tokens,
    encode,
    encode_conversation,
    is_continued,
    prompts_of,
    room,
    sampling_params,
    stops_of,
)
from llama_hub.inference.service.schemas import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    Sampling,
    StreamOptions,
    TokenizeBody,
)
from llama_hub.inference.service.state import Service
from llama_hub.inference.service.streaming import (
    Document,
    StreamReply,
    document_response,
    started,
    wants_lines,
)
from llama_hub.inference.service.tools import (
    Toolbox,
    conversation,
    grammar,
    instructed,
    toolbox,
)

DONE = b"data: [DONE]\n\n"
DEFAULT_MAX_TOKENS = 16  # of completions, as OpenAI has it
MAX_STREAMED = 1 << 14  # log-probabilities of a prompt in one event


async def chat(service: Service, request: Request, document: Document) -> Response:
    """``POST /v1/chat/completions``."""
    body = read(ChatBody, document)
    _check_common(service, body)
    service.admission.check(body.n or 1)
    call_id = f"chatcmpl-{uuid.uuid4().hex}"
    box = toolbox(body.tools, body.tool_choice, body.parallel_tool_calls)
    ask = await chat_ask(service, body, box, call_id)
    shape = responses.Chat(service, call_id, logprobs=bool(body.logprobs), box=box)
    shape.clamp(body.max_completion_tokens or body.max_tokens, [ask])
    return await _reply(service, request, body, [ask], shape)


async def chat_ask(service: Service, body: ChatBody, box: Toolbox | None, call_id: str) -> Ask:
    """What a chat body asks of the engine; ``box``: its tools. 400 for what cannot be."""
    turns = instructed(conversation(body.messages), box)
    await service.judge_input("\n".join(turn.content for turn in turns), call_id)
    if body.top_logprobs is not None and not body.logprobs:
        raise invalid("top_logprobs needs logprobs to be true", "top_logprobs")
    continued = is_continued(body)
    prompt = await encode_conversation(service, turns, continued=continued)
    wanted = body.max_completion_tokens or body.max_tokens
    most = room(service, prompt, wanted, None, strict=service.settings.strict)
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    sampling = await sampling_params(service, body, logprobs=logprobs)
    if box is not None:
        bound = await service.tokenizing(grammar, box, sampling.grammar)
        sampling = dataclasses.replace(sampling, grammar=bound)
    n = body.n or 1
    return Ask(
        prompt,
        dataclasses.replace(sampling, max_tokens=most),
        stops_of(body.stop),
        n=n,
        best_of=n,
        fresh=not continued,
    )


async def completions(service: Service, request: Request, document: Document) -> Response:
    """``POST /v1/completions``."""
    body = read(CompletionBody, document)
    _check_common(service, body)
    n, best_of = body.n or 1, body.best_of or body.n or 1
    _check_completion(body, n, best_of)
    call_id = f"cmpl-{uuid.uuid4().hex}"
    bos = body.add_special_tokens is not False
    prompts = await prompts_of(
        service, body.prompt, bos=bos, width=best_of, parse_special=body.parse_special
    )
    _check_streamed_prompt(body, prompts)
    texts = await service.tokenizing(_texts, service, body.prompt, prompts)
    await service.judge_input("\n".join(texts), call_id)
    sampling = await sampling_params(service, body, logprobs=body.logprobs)
    asks = [_completion_ask(service, body, prompt, sampling) for prompt in prompts]
    shape = responses.Completion(
        service,
        call_id,
        prompts=prompts,
        echo=texts if body.echo else None,
        n=n,
        logprobs=body.logprobs is not None,
        prompt_only=body.max_tokens == 0,
    )
    shape.clamp(body.max_tokens, asks)
    return await _reply(service, request, body, asks, shape)


def _check_common(service: Service, body: Sampling) -> None:
    check_model(service, body.model)
    if body.stream_options is not None and not body.stream:
        raise invalid("stream_options is only allowed with stream", "stream_options")


def _check_completion(body: CompletionBody, n: int, best_of: int) -> None:
    if best_of < n:
        raise invalid(f"best_of ({best_of}) must not be less than n ({n})", "best_of")
    if body.stream and best_of > n:
        raise invalid("best_of greater than n cannot be streamed", "best_of")
    if body.max_tokens == 0 and not body.echo:
        raise invalid("max_tokens 0 makes sense with echo only", "max_tokens")


def _check_streamed_prompt(body: CompletionBody, prompts: Sequence[tuple[int, ...]]) -> None:
    """400 if the first event of a stream would hold a whole document of log-probabilities."""
    if not (body.stream and body.echo and body.logprobs is not None):
        return
    count = max(map(len, prompts)) * (body.logprobs + 1)
    if count > MAX_STREAMED:
        raise invalid(
            f"the prompt's {count} log-probabilities are too many for a stream; at most "
            f"{MAX_STREAMED}: ask without stream",
            "logprobs",
        )


def _texts(service: Service, given: Any, prompts: Sequence[tuple[int, ...]]) -> list[str]:
    """The prompts as text: as given, or decoded where token ids were given."""
    if isinstance(given, str):
        return [given]
    if isinstance(given[0], str):
        return list(given)
    return [service.tokenizer.decode(list(prompt)) for prompt in prompts]


def _completion_ask(
    service: Service, body: CompletionBody, prompt: tuple[int, ...], sampling: SamplingParams
) -> Ask:
    wanted = body.max_tokens
    # With max_tokens 0 only the prompt's own log-probabilities are wanted; the engine makes one
    # token all the same, which is not shown.
    most = room(
        service,
        prompt,
        1 if wanted == 0 else wanted,
        DEFAULT_MAX_TOKENS,
        strict=service.settings.strict,
    )
    sampling = dataclasses.replace(sampling, max_tokens=most)
    if body.echo and body.logprobs is not None:
        # Scorers (lm_eval) ask for one token and drop the last entry: it must always be there,
        # so the end of sequence counts as a token.
        scoring = wanted is not None and 0 <= wanted <= 1
        sampling = dataclasses.replace(
            sampling,
            prompt_logprobs=body.logprobs,
            ignore_eos=scoring or sampling.ignore_eos,
        )
    n = body.n or 1
    return Ask(prompt, sampling, stops_of(body.stop), n=n, best_of=body.best_of or n)


async def _reply(
    service: Service,
    request: Request,
    body: Sampling,
    asks: Sequence[Ask],
    shape: responses.Chat | responses.Completion,
) -> Response:
    """Run ``asks`` and answer in ``shape``, whole or as a stream."""
    prompt_tokens = sum(len(ask.prompt) for ask in asks)
    if not body.stream:
        finished = await answers(service, asks, shape.id)
        return await document_response(lambda: shape.whole(finished, prompt_tokens))
    source = await started(_chunks(service, asks, shape, body.stream_options, prompt_tokens))
    return StreamReply(source, lines=wants_lines(request), done=DONE)


async def _chunks(
    service: Service,
    asks: Sequence[Ask],
    shape: responses.Chat | responses.Completion,
    options: StreamOptions | None,
    prompt_tokens: int,
) -> AsyncGenerator[Document, None]:
    usage = bool(options and options.include_usage)
    continuous = bool(options and options.continuous_usage_stats)
    generated = [0] * sum(ask.n for ask in asks)
    cached = 0
    async with aclosing(pieces(service, asks, shape.id)) as stream:
        async for piece in stream:
            generated[piece.index] = piece.generated
            cached += piece.cached
            for chunk in shape.chunks(piece):
                counts = shape.usage(prompt_tokens, sum(generated), cached) if continuous else None
                yield chunk | {"usage": counts} if usage else chunk
    if usage:
        yield shape.usage_chunk(prompt_tokens, sum(generated), cached)


async def list_models(service: Service, request: Request, document: Document) -> Response:
    """``GET /v1/models``."""
    return JSONResponse({"object": "list", "data": [model_document(service)]})


async def get_model(service: Service, request: Request, document: Document) -> Response:
    """``GET /v1/models/NAME``; ``Problem`` 404 for any other name."""
    name = request.path_params["name"]
    if name != service.served.name:
        raise Problem(
            404,
            f"the model {name[:100]!r} does not exist here",
            param="model",
            code="model_not_found",
        )
    return JSONResponse(model_document(service))


def model_document(service: Service) -> Document:
    """The model as ``/v1/models`` lists it."""
    return {
        "id": service.served.name,
        "object": "model",
        "created": service.served.created,
        "owned_by": "llama-hub",
        "root": service.served.name,
        "max_model_len": service.engine.info.context,
        "license": service.served.license,
        "manifest": service.manifest_digest or None,
    }


async def tokenize(service: Service, _: Request, document: Document) -> Response:
    """``POST /tokenize``."""
    body = read(TokenizeBody, document)
    check_model(service, body.model)
    if (body.prompt is None) == (body.messages is None):
        raise invalid("give either prompt or messages", "prompt")
    if body.messages is not None:
        tokens = await encode_conversation(service, conversation(body.messages))
    else:
        text, bos = body.prompt or "", body.add_special_tokens
        special = body.parse_special
        (tokens,) = await encode(service, [text], bos=bos, fits=False, parse_special=special)
    return JSONResponse(
        {
            "count": len(tokens),
            "max_model_len": service.engine.info.context,
            "tokens": list(tokens),
        }
    )


async def detokenize(service: Service, _: Request, document: Document) -> Response:
    """``POST /detokenize``."""
    body = read(DetokenizeBody, document)
    check_model(service, body.model)
    tokens = checked_tokens(service, body.tokens, "tokens")
    return JSONResponse({"prompt": await service.tokenizing(service.tokenizer.decode, tokens)})
