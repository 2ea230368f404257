"""The other side of a chat: an engine in this process, or a server behind a URL."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from llama_hub import sse
from llama_hub.errors import (
    AccessError,
    LlamaHubError,
    NotFoundError,
    UnreachableError,
    UsageError,
)
from llama_hub.hub.transfer import bounded_httpx

if TYPE_CHECKING:
    from llama_hub.deploy.backend import Invoker
    from llama_hub.inference.engine import Engine
    from llama_hub.inference.service.served_model import Servable

CONNECT_TIMEOUT = 10.0  # seconds
LOADING_TIMEOUT = 600.0  # seconds that a server may take until it is ready
MAX_MODELS = 1000  # of a server's list
READ_TIMEOUT = 600.0  # seconds between two pieces of an answer


@dataclass(frozen=True)
class Turn:
    """One message of the conversation."""

    role: str  # system, user or assistant
    content: str


@dataclass(frozen=True)
class Style:
    """How answers are made; ``None`` leaves it to the server."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Reply:
    """A whole answer."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str

    @property
    def usage(self) -> dict[str, int]:
        """Token counts as OpenAI names them."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


class Speaker(Protocol):
    """Answers a conversation."""

    name: str
    notice: str
    context: int | None  # tokens of a conversation, where that is known

    def models(self) -> list[str]:
        """Names that ``name`` may be set to."""

    def say(self, turns: Sequence[Turn], style: Style, show: Callable[[str], None]) -> Reply:
        """The answer to ``turns``; ``show`` gets its text as it comes. Ctrl-C ends it."""

    def close(self) -> None:
        """Free what it holds."""


class LocalSpeaker:
    """The engine in this process."""

    def __init__(self, what: Servable, engine: Engine) -> None:
        from llama_hub.inference.service.settings import ServiceSettings
        from llama_hub.inference.service.state import Service
        from llama_hub.inference.tokenizer import tokenizer_of

        self.name = what.served.name
        self.notice = what.served.notice
        self._runner = asyncio.Runner()
        tokenizer = tokenizer_of(what.folder)
        self._service = Service(engine, tokenizer, what.served, ServiceSettings())
        self._runner.run(self._service.start())
        if self._service.failure is not None:
            raise self._service.failure
        self.context: int | None = engine.info.context

    def models(self) -> list[str]:
        return [self.name]

    def say(self, turns: Sequence[Turn], style: Style, show: Callable[[str], None]) -> Reply:
        return self._runner.run(self._say(turns, style, show))

    async def _say(self, turns: Sequence[Turn], style: Style, show: Callable[[str], None]) -> Reply:
        from llama_hub.inference.service.base_schemas import read
        from llama_hub.inference.service.generation import Answer, pieces
        from llama_hub.inference.service.openai import chat_ask
        from llama_hub.inference.service.schemas import ChatBody

        given = {key: value for key, value in asdict(style).items() if value is not None}
        body = read(ChatBody, given | {"messages": [asdict(turn) for turn in turns]})
        ask = await chat_ask(self._service, body, None, "chat")
        answer = Answer()
        async with aclosing(pieces(self._service, [ask], "chat")) as stream:
            async for piece in stream:
                answer.add(piece)
                show(piece.text)
        return Reply(answer.text, len(ask.prompt), answer.generated, str(answer.finish))

    def close(self) -> None:
        self._runner.run(self._service.close())
        self._runner.close()


class RemoteSpeaker:
    """A server with OpenAI's chat API; ``headers`` hold its credentials."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        import httpx

        self._base = url.rstrip("/").removesuffix("/v1")
        timeout = httpx.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT)
        self._client = bounded_httpx.client(headers=dict(headers), timeout=timeout)
        try:
            self.name, self.context = self._first()
            self.notice = self._notice()
        except BaseException:
            self._client.close()
            raise

    def models(self) -> list[str]:
        return list(self._models())

    def _first(self) -> tuple[str, int | None]:
        return next(iter(self._models().items()))

    def _models(self) -> dict[str, int | None]:
        """The server's models, and their contexts as far as it says."""
        try:
            listed = {str(each["id"]): each.get("max_model_len") for each in self._listed()}
            if not listed:
                raise IndexError
            return {n: c if isinstance(c, int) else None for n, c in listed.items()}
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            raise NotFoundError(
                f"{self._base} does not answer as an OpenAI server does",
                hint="give the address that stands before /v1",
            ) from error

    def _listed(self) -> list[dict[str, Any]]:
        return list(self._get("/v1/models")["data"])[:MAX_MODELS]

    def _get(self, path: str) -> Any:
        response = self._client.get(self._base + path)
        end = time.monotonic() + LOADING_TIMEOUT
        while response.status_code == 503 and time.monotonic() < end:  # it loads its model
            time.sleep(1)
            response = self._client.get(self._base + path)
        if response.status_code != 200:
            raise _refusal(response.status_code, response.text, self._base)
        return response.json()

    def _notice(self) -> str:
        try:
            return str(self._get("/manifest")["license"]["notice"])
        except (LlamaHubError, ValueError, KeyError, TypeError, RecursionError):
            return ""  # a server of another make

    def say(self, turns: Sequence[Turn], style: Style, show: Callable[[str], None]) -> Reply:
        body = _body(turns, style) | {"model": self.name}
        url = f"{self._base}/v1/chat/completions"
        with self._client.stream("POST", url, json=body) as response:
            if response.status_code != 200:
                response.read()
                raise _refusal(response.status_code, response.text, self._base)
            return _heard(response.iter_bytes(), show)

    def close(self) -> None:
        self._client.close()


class InvokedSpeaker:
    """A deployment on a platform without free paths, called through the platform's own API."""

    def __init__(self, deployment: str, invoker: Invoker, model: str) -> None:
        self.name = model
        self.notice = ""
        self.context: int | None = None
        self._deployment = deployment
        self._invoker = invoker

    def models(self) -> list[str]:
        return [self.name]

    def say(self, turns: Sequence[Turn], style: Style, show: Callable[[str], None]) -> Reply:
        pieces = self._invoker.invoke(self._deployment, _body(turns, style), stream=True)
        return _heard(pieces, show)

    def close(self) -> None:
        pass


def _body(turns: Sequence[Turn], style: Style) -> dict[str, Any]:
    given = {key: value for key, value in asdict(style).items() if value is not None}
    return given | {
        "messages": [asdict(turn) for turn in turns],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _heard(pieces: Iterable[bytes], show: Callable[[str], None]) -> Reply:
    """The reply that server-sent events spell out, shown as it comes."""
    reply = Reply("", 0, 0, "")
    for event in sse.documents(pieces):
        reply = _heard_event(reply, event, show)
    if not reply.finish_reason:
        raise UnreachableError("the answer broke off", hint="ask again; see the server's log")
    return reply


def _heard_event(reply: Reply, event: dict[str, Any], show: Callable[[str], None]) -> Reply:
    try:
        return _add(reply, event, show)
    except (KeyError, TypeError, AttributeError) as error:
        raise UnreachableError(
            "the server does not answer as an OpenAI server does",
            hint="give the address that stands before /v1",
        ) from error


def _add(reply: Reply, event: dict[str, Any], show: Callable[[str], None]) -> Reply:
    if "error" in event:
        raise UnreachableError(f"the server stopped answering: {event['error']['message']}")
    usage = event.get("usage") or {}
    reply = replace(
        reply,
        prompt_tokens=usage.get("prompt_tokens", reply.prompt_tokens),
        completion_tokens=usage.get("completion_tokens", reply.completion_tokens),
    )
    for choice in event.get("choices", ()):
        text = choice["delta"].get("content") or ""
        show(text)
        finish = choice.get("finish_reason") or reply.finish_reason
        reply = replace(reply, text=reply.text + text, finish_reason=finish)
    return reply


def _refusal(status: int, text: str, base: str) -> LlamaHubError:
    try:
        message = str(json.loads(text)["error"]["message"])[:1000]
    except (ValueError, KeyError, TypeError, RecursionError):
        message = f"HTTP {status}"
    if status in (401, 403):
        return AccessError(
            f"{base} refused: {message}", hint="give the key with --api-key or LLAMA_HUB_API_KEY"
        )
    if status == 404:
        return NotFoundError(f"{base}: {message}", hint="give the address that stands before /v1")
    if 400 <= status < 500:
        return UsageError(f"{base}: {message}")
    return UnreachableError(f"{base}: {message}", hint=f"is the server ready? curl {base}/health")
