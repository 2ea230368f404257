"""Azure ML's container contract: liveness, readiness, ``POST /score``.

``/score`` takes every body that the other routes take, and the form of Azure's
own Llama 2 deployments: ``{"input_data": {"input_string", "parameters"}}``.
"""

from __future__ import annotations

import dataclasses
import uuid

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llama_hub.inference.service.auth import sees_details
from llama_hub.inference.service.base_schemas import read
from llama_hub.inference.service.generation import Ask, answers
from llama_hub.inference.service.platforms.huggingface import (
    DEFAULT_MAX_TOKENS,
    DEFAULTS,
    asks_of,
    sampling_of,
)
from llama_hub.inference.service.request_params import encode_conversation, room
from llama_hub.inference.service.schemas import ChatMessage, GenerateParameters, ScoreBody
from llama_hub.inference.service.state import Service
from llama_hub.inference.service.streaming import Document
from llama_hub.inference.service.tools import conversation


async def live(service: Service, request: Request, document: Document) -> Response:
    """200 as long as the process answers at all."""
    return JSONResponse({"status": "live"})


async def ready(service: Service, request: Request, document: Document) -> Response:
    """200 when requests will be answered, else 503; the reason is for who has the key."""
    if service.trouble() is None:
        return JSONResponse({"status": "ready"})
    answer = {"status": "unavailable"}
    if sees_details(service.settings, request.headers):
        answer["reason"] = service.trouble_in_full()
    return JSONResponse(answer, 503)


async def score(service: Service, request: Request, document: Document) -> Response:
    """``POST /score`` with ``input_data``."""
    body = read(ScoreBody, document).input_data
    parameters = body.parameters or DEFAULTS
    given = body.input_string
    if isinstance(given, list) and given and isinstance(given[0], ChatMessage):
        turns = [turn for turn in given if isinstance(turn, ChatMessage)]
        return JSONResponse({"output": await _chat(service, turns, parameters)})
    texts = [given] if isinstance(given, str) else [str(item) for item in given]
    return JSONResponse({"output": await _texts(service, texts, parameters)})


async def _chat(
    service: Service, messages: list[ChatMessage], parameters: GenerateParameters
) -> str:
    call_id = f"score-{uuid.uuid4().hex}"
    turns = conversation(messages)
    await service.judge_input("\n".join(turn.content for turn in turns), call_id)
    prompt = await encode_conversation(service, turns)
    most = room(service, prompt, parameters.max_new_tokens, DEFAULT_MAX_TOKENS)
    stops = tuple(parameters.stop or ())
    sampling = dataclasses.replace(await sampling_of(service, parameters), max_tokens=most)
    ask = Ask(prompt, sampling, stops, fresh=True)
    return (await answers(service, [ask], call_id))[0].text


async def _texts(service: Service, texts: list[str], parameters: GenerateParameters) -> list[str]:
    call_id = f"score-{uuid.uuid4().hex}"
    asks = await asks_of(service, texts, parameters, call_id)
    return [answer.text for answer in await answers(service, asks, call_id)]
