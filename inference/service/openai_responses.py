"""OpenAI's Responses API without its memory: each request brings its whole conversation.

Asked as a chat is, and answered in items: a message, or function calls. Nothing is kept, so
``previous_response_id`` and ``conversation`` are refused and ``store`` asks for nothing.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llama_hub.inference.service.base_schemas import read
from llama_hub.inference.service.generation import Answer, Ask, answers, pieces
from llama_hub.inference.service.openai import chat_ask
from llama_hub.inference.service.problems import as_problem
from llama_hub.inference.service.request_params import check_model
from llama_hub.inference.service.responses_schemas import InputItem, ResponsesBody
from llama_hub.inference.service.schemas import ChatBody
from llama_hub.inference.service.state import Service
from llama_hub.inference.service.streaming import (
    Document,
    StreamReply,
    named_sse,
    started,
)
from llama_hub.inference.service.tool_calls import CallDelta, CallStream, new_id, read_calls
from llama_hub.inference.service.tools import Toolbox, toolbox


async def respond(service: Service, request: Request, document: Document) -> Response:
    """``POST /v1/responses``."""
    body = read(ResponsesBody, document)
    check_model(service, body.model)
    service.admission.check(1)
    asked = read(ChatBody, _chat_fields(body))
    box = toolbox(asked.tools, body.tool_choice, body.parallel_tool_calls)
    reply = _Reply(service, body, document, box)
    ask = await chat_ask(service, asked, box, reply.id)
    if body.stream:
        source = await started(_events(service, ask, reply))
        return StreamReply(source, frame=named_sse)
    (answer,) = await answers(service, [ask], reply.id)
    return JSONResponse(reply.whole(ask, answer))


def _chat_fields(body: ResponsesBody) -> Document:
    """The body that asks the same of a chat."""
    fields: Document = {
        "messages": list(_messages(body)),
        "max_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
    }
    tools = [tool.model_dump(include={"name", "description", "parameters"}) for tool in
             body.tools or ()]  # fmt: skip
    if tools:
        fields["tools"] = [{"type": "function", "function": tool} for tool in tools]
    form = body.text.format if body.text else None
    if form is not None:
        fields["response_format"] = {"type": form.type}
    if form is not None and form.schema_ is not None:
        fields["response_format"]["json_schema"] = {"name": form.name, "schema": form.schema_}
    return fields


def _messages(body: ResponsesBody) -> Iterator[Document]:
    if body.instructions:
        yield {"role": "system", "content": body.instructions}
    if isinstance(body.input, str):
        yield {"role": "user", "content": body.input}
        return
    calls: list[Document] = []
    for item in body.input:
        if item.type == "function_call":
            function = {"name": item.name, "arguments": item.arguments}
            calls.append({"id": item.call_id, "type": "function", "function": function})
            continue
        if calls:
            yield {"role": "assistant", "tool_calls": calls}
            calls = []
        if item.type != "reasoning":
            yield _message(item)
    if calls:
        yield {"role": "assistant", "tool_calls": calls}


def _message(item: InputItem) -> Document:
    if item.type == "function_call_output":
        output = item.output
        content = output if isinstance(output, str) else "".join(p.text for p in output or ())
        return {"role": "tool", "tool_call_id": item.call_id, "content": content}
    return {"role": item.role, "content": item.content}


class _Reply:
    """The documents of one response."""

    def __init__(
        self, service: Service, body: ResponsesBody, document: Document, box: Toolbox | None
    ) -> None:
        self.id = f"resp_{uuid.uuid4().hex}"
        self.names = box.names if box else frozenset[str]()
        self._created = int(time.time())
        self._model = service.served.name
        self._body = body
        self._given = document

    def document(self, status: str, output: list[Document], **more: Any) -> Document:
        """The response as it is now."""
        body = self._body
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": self._model,
            "output": output,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": body.temperature,
            "text": {"format": {"type": "text"}} | (self._given.get("text") or {}),
            "tool_choice": self._given.get("tool_choice") or "auto",
            "tools": [tool.model_dump() for tool in body.tools or ()],
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": None,
            "metadata": self._given.get("metadata") or {},
        } | more

    def ended(self, ask: Ask, answer: Answer, output: list[Document]) -> Document:
        """The response at its end."""
        reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
        reason = reasons.get(answer.finish or "")
        more: Document = {"usage": _usage(len(ask.prompt), answer)}
        if reason is not None:
            more["incomplete_details"] = {"reason": reason}
        return self.document("incomplete" if reason else "completed", output, **more)

    def whole(self, ask: Ask, answer: Answer) -> Document:
        """The response to a request that is not streamed."""
        text, calls = read_calls(answer.text, self.names) if self.names else (answer.text, [])
        done = "incomplete" if answer.finish in ("length", "content_filter") else "completed"
        output = [_call_item(call.id, call.name, call.arguments, done) for call in calls]
        if text.strip() or not output:
            output.insert(0, _message_item(f"msg_{uuid.uuid4().hex}", text, done))
        return self.ended(ask, answer, output)


def _usage(prompt: int, answer: Answer) -> Document:
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": answer.cached, "cache_write_tokens": 0},
        "output_tokens": answer.generated,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + answer.generated,
    }


def _message_item(name: str, text: str, status: str) -> Document:
    content = [] if status == "in_progress" else [_part(text)]
    return {
        "id": name,
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": content,
    }


def _part(text: str) -> Document:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _call_item(call_id: str, name: str, arguments: str, status: str) -> Document:
    return {
        "id": call_id.replace("call_", "fc_"),
        "type": "function_call",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
        "status": status,
    }


class _Item:
    """The item that is being written: a message or a call."""

    def __init__(self, index: int, call: str | None = None) -> None:
        self.index = index
        self._call = call  # the function's name
        self._name = new_id() if call else f"msg_{uuid.uuid4().hex}"
        self._text = ""

    def document(self, status: str) -> Document:
        """The item as it is now."""
        if self._call:
            return _call_item(self._name, self._call, self._text, status)
        return _message_item(self._name, self._text, status)

    def opened(self) -> Iterator[Document]:
        """The events of its beginning."""
        item = self.document("in_progress")
        yield {"type": "response.output_item.added", "output_index": self.index, "item": item}
        if not self._call:
            yield self._event("response.content_part.added", part=_part(""))

    def grown(self, text: str) -> Iterator[Document]:
        """The event of more text, or of more arguments."""
        self._text += text
        if text and self._call:
            yield self._event("response.function_call_arguments.delta", delta=text)
        elif text:
            yield self._event("response.output_text.delta", delta=text, logprobs=[])

    def closed(self, status: str) -> Iterator[Document]:
        """The events of its end."""
        if self._call:
            kind = "response.function_call_arguments.done"
            yield self._event(kind, arguments=self._text, name=self._call)
        else:
            yield self._event("response.output_text.done", text=self._text, logprobs=[])
            yield self._event("response.content_part.done", part=_part(self._text))
        item = self.document(status)
        yield {"type": "response.output_item.done", "output_index": self.index, "item": item}

    def _event(self, kind: str, **more: Any) -> Document:
        event = {"type": kind, "item_id": self.document("in_progress")["id"]}
        event["output_index"] = self.index
        return event | ({} if self._call else {"content_index": 0}) | more


async def _events(service: Service, ask: Ask, reply: _Reply) -> AsyncGenerator[Document, None]:
    """All events of a streamed response, numbered; an error becomes the last of them."""
    number = 0
    source = _unnumbered(service, ask, reply)
    async with aclosing(source):
        try:
            async for event in source:
                yield event | {"sequence_number": number}
                number += 1
        except Exception as error:
            if number == 0:
                raise  # it still has a status of its own
            problem = as_problem(error)
            stated = {"code": "server_error", "message": problem.message}
            failed = reply.document("failed", [], error=stated)
            yield {"type": "response.failed", "response": failed, "sequence_number": number}


async def _unnumbered(service: Service, ask: Ask, reply: _Reply) -> AsyncGenerator[Document, None]:
    answer, writer = Answer(), _Writer(reply.names)
    begun = False
    async with aclosing(pieces(service, [ask], reply.id)) as stream:
        async for piece in stream:
            if not begun:  # what is refused at once is an error with a status
                begun = True
                now = reply.document("in_progress", [])
                yield {"type": "response.created", "response": now}
                yield {"type": "response.in_progress", "response": now}
            answer.add(piece)
            for event in writer.write(piece.text, piece.finish):
                yield event
    last = reply.ended(ask, answer, writer.output)
    yield {"type": f"response.{last['status']}", "response": last}


class _Writer:
    """Text in, the items' events out."""

    def __init__(self, names: frozenset[str]) -> None:
        self.output: list[Document] = []
        self._stream = CallStream(names) if names else None
        self._item: _Item | None = None

    def write(self, text: str, finish: str | None) -> Iterator[Document]:
        """The events of ``text``, and those of the end where it has a reason."""
        said = text
        deltas: list[CallDelta] = []
        if self._stream is not None:
            said, deltas = self._stream.push(text, last=finish is not None)
        if said:
            yield from self._open(None)
            yield from self._grown(said)
        for delta in deltas:
            if delta.name is not None:
                yield from self._open(delta.name)
            yield from self._grown(delta.arguments)
        if finish is not None:
            if self._item is None:
                yield from self._open(None)
            yield from self._close(
                "incomplete" if finish in ("length", "content_filter") else "completed"
            )

    def _grown(self, text: str) -> Iterator[Document]:
        if self._item is not None:
            yield from self._item.grown(text)

    def _open(self, call: str | None) -> Iterator[Document]:
        """A new item, unless text goes on."""
        if call is None and self._item is not None:
            return
        yield from self._close("completed")
        self._item = _Item(len(self.output), call)
        yield from self._item.opened()

    def _close(self, status: str) -> Iterator[Document]:
        if self._item is not None:
            yield from self._item.closed(status)
            self.output.append(self._item.document(status))
            self._item = None
