"""Ollama's API, for clients that know no other: one model, under the name that it is served by.

Bodies are read as Ollama's, then asked as OpenAI's, so that both have the same rules. Unset options
keep Llama 2's own defaults, not Ollama's.
"""

from __future__ import annotations

import dataclasses
import json
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llama_hub import __version__
from llama_hub.inference.service.base_schemas import read
from llama_hub.inference.service.generation import Answer, Ask, answers, pieces
from llama_hub.inference.service.ollama_schemas import (
    OllamaChatBody,
    OllamaGenerateBody,
    OllamaMessage,
    OllamaOptions,
    OllamaShowBody,
)
from llama_hub.inference.service.openai import chat_ask
from llama_hub.inference.service.problems import Problem
from llama_hub.inference.service.request_params import (
    encode,
    room,
    sampling_params,
    stops_of,
)
from llama_hub.inference.service.schemas import ChatBody, CompletionBody
from llama_hub.inference.service.state import Service
from llama_hub.inference.service.streaming import Document, StreamReply, started
from llama_hub.inference.service.tool_calls import Call, read_calls
from llama_hub.inference.service.tools import Toolbox, text_of, toolbox

NDJSON = "application/x-ndjson"
Said = Callable[[str, list[Call]], Document]  # the part of an answer that holds its text


async def chat(service: Service, request: Request, document: Document) -> Response:
    """``POST /api/chat``."""
    body = read(OllamaChatBody, document)
    check_name(service, body.model)
    if not body.messages:
        return JSONResponse(_loaded(service, _message("", [])))
    given = _openai_fields(body.options, body.format)
    messages = [_openai_message(message) for message in body.messages]
    tools = None if body.tools is None else [tool.model_dump() for tool in body.tools]
    asked = read(ChatBody, given | {"messages": messages, "tools": tools})
    box = toolbox(asked.tools, None, None)
    call_id = _call_id()
    ask = await chat_ask(service, asked, box, call_id)
    return await _reply(service, ask, call_id, stream=body.stream, said=_message, box=box)


async def generate(service: Service, request: Request, document: Document) -> Response:
    """``POST /api/generate``."""
    body = read(OllamaGenerateBody, document)
    check_name(service, body.model)
    if not body.prompt:
        return JSONResponse(_loaded(service, _response("", [])))
    given = _openai_fields(body.options, body.format)
    call_id = _call_id()
    if body.raw or not service.served.chat:
        ask = await _completion_ask(service, given, body, call_id)
    else:
        system = [{"role": "system", "content": body.system}] if body.system else []
        messages = [*system, {"role": "user", "content": body.prompt}]
        asked = read(ChatBody, given | {"messages": messages})
        ask = await chat_ask(service, asked, None, call_id)
    return await _reply(service, ask, call_id, stream=body.stream, said=_response, box=None)


async def _completion_ask(
    service: Service, given: Document, body: OllamaGenerateBody, call_id: str
) -> Ask:
    asked = read(CompletionBody, given | {"prompt": body.prompt})
    await service.judge_input(body.prompt, call_id)
    (prompt,) = await encode(service, [body.prompt], bos=True)
    sampling = await sampling_params(service, asked, logprobs=None)
    most = room(service, prompt, asked.max_tokens, None, strict=service.settings.strict)
    return Ask(prompt, dataclasses.replace(sampling, max_tokens=most), stops_of(asked.stop))


def check_name(service: Service, name: str) -> None:
    """``Problem`` 404 for another name, where the server minds; ``:latest`` is no part of it."""
    wanted = name.removesuffix(":latest")
    if service.settings.check_model and wanted != service.served.name:
        raise Problem(404, f"model {name[:100]!r} not found", param="model", code="model_not_found")


def _call_id() -> str:
    return f"ollama-{uuid.uuid4().hex}"


def _openai_message(message: OllamaMessage) -> Document:
    """``message`` with its parts as one text: sixteen thousand are not read twice."""
    fields = message.model_dump(exclude_unset=True, exclude={"content"})
    return fields if message.content is None else fields | {"content": text_of(message)}


def _openai_fields(options: OllamaOptions | None, form: Any) -> Document:
    """The fields of OpenAI's bodies that mean the same."""
    given = options.model_dump(exclude_none=True) if options else {}
    known = ("temperature", "top_p", "top_k", "min_p", "seed", "stop")
    fields = {key: given[key] for key in (*known, "presence_penalty", "frequency_penalty")
              if key in given}  # fmt: skip
    if "repeat_penalty" in given:
        fields["repetition_penalty"] = given["repeat_penalty"]
    if given.get("num_predict"):  # 0 asks for nothing: as if it were left out
        fields["max_tokens"] = max(-1, given["num_predict"])
    if form == "json":
        fields["response_format"] = {"type": "json_object"}
    elif form:
        fields["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": form},
        }
    return fields


def _message(text: str, calls: list[Call]) -> Document:
    message: Document = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = [_call(call) for call in calls]
    return {"message": message}


def _response(text: str, calls: list[Call]) -> Document:
    return {"response": text}


def _call(call: Call) -> Document:
    """Ollama has the arguments as an object; those of a call that was cut off are none, and so are
    those that cannot be sent as one (1e999, a thousand levels)."""
    try:
        arguments = json.loads(call.arguments)
        json.dumps(arguments, allow_nan=False)
    except (ValueError, RecursionError):
        arguments = {}
    return {"function": {"name": call.name, "arguments": arguments}}


async def _reply(
    service: Service,
    ask: Ask,
    call_id: str,
    *,
    stream: bool | None,
    said: Said,
    box: Toolbox | None,
) -> Response:
    names = box.names if box else frozenset[str]()
    if stream is False:
        begun = time.monotonic()
        (answer,) = await answers(service, [ask], call_id)
        text, calls = read_calls(answer.text, names) if box else (answer.text, [])
        return JSONResponse(_head(service) | said(text, calls) | _end(ask, answer, begun))
    source = await started(_lines(service, ask, call_id, said, names))
    return StreamReply(source, shape="ollama", lines=True, media_type=NDJSON)


async def _lines(
    service: Service, ask: Ask, call_id: str, said: Said, names: frozenset[str]
) -> AsyncGenerator[Document, None]:
    """A line for each piece of text; with tools the whole answer in one, when it is known."""
    begun = time.monotonic()
    answer = Answer()
    async with aclosing(pieces(service, [ask], call_id)) as stream:
        async for piece in stream:
            answer.add(piece)
            if piece.text and not names:
                yield _head(service) | said(piece.text, []) | {"done": False}
    if names:
        text, calls = read_calls(answer.text, names)
        yield _head(service) | said(text, calls) | {"done": False}
    yield _head(service) | said("", []) | _end(ask, answer, begun)


def _head(service: Service) -> Document:
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return {"model": service.served.name, "created_at": now}


def _end(ask: Ask, answer: Answer, begun: float) -> Document:
    """Counts, and times in nanoseconds; the time to read the prompt is not told apart."""
    total = int((time.monotonic() - begun) * 1e9)
    return {
        "done": True,
        "done_reason": "length" if answer.finish == "length" else "stop",
        "total_duration": total,
        "load_duration": 0,
        "prompt_eval_count": len(ask.prompt),
        "prompt_eval_duration": 0,
        "eval_count": answer.generated,
        "eval_duration": total,
    }


def _loaded(service: Service, said: Document) -> Document:
    """What a body without a prompt asks for: the model is there."""
    return _head(service) | said | {"done": True, "done_reason": "load"}


async def tags(service: Service, request: Request, document: Document) -> Response:
    """``GET /api/tags``."""
    return JSONResponse({"models": [tag(service)]})


def tag(service: Service) -> Document:
    """The model as ``/api/tags`` lists it."""
    served = service.served
    return {
        "name": served.name,
        "model": served.name,
        "modified_at": datetime.fromtimestamp(served.created, UTC).isoformat(),
        "size": sum(entry.size for entry in served.manifest.files) if served.manifest else 0,
        "digest": service.manifest_digest.removeprefix("sha256:"),
        "details": _details(service),
    }


async def show(service: Service, request: Request, document: Document) -> Response:
    """``POST /api/show``."""
    body = read(OllamaShowBody, document)
    check_name(service, body.model)
    served, info = service.served, service.engine.info
    return JSONResponse(
        {
            "license": served.license_name,
            "modelfile": "",
            "parameters": "",
            "template": "",
            "details": _details(service),
            "model_info": {
                "general.architecture": "llama",
                "llama.context_length": info.context,
                "llama.vocab_size": info.vocab_size,
            },
            "capabilities": ["completion", "tools"] if served.chat else ["completion"],
        }
    )


def _details(service: Service) -> Document:
    info = service.engine.info
    return {
        "parent_model": "",
        "format": "safetensors",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "",
        "quantization_level": info.quantization or info.dtype,
    }


async def version(service: Service, request: Request, document: Document) -> Response:
    """``GET /api/version``: this server's, not one of Ollama's."""
    return JSONResponse({"version": __version__})
