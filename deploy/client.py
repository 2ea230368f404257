"""Talking to a deployment: by HTTP, or through the platform's own call."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from llama_hub import sse
from llama_hub.deploy.backend import Backend, Endpoint, Invoker
from llama_hub.errors import AccessError, LlamaHubError, ProvisioningError, UsageError
from llama_hub.hub.transfer import bounded_httpx

if TYPE_CHECKING:
    import httpx

CHAT = "/v1/chat/completions"
TIMEOUT = 600.0  # seconds between two pieces of an answer


def chat(backend: Backend, name: str, body: Mapping[str, Any], *, stream: bool) -> Iterator[bytes]:
    """The answer to an OpenAI chat body: one JSON document, or events as they come."""
    asked = {**body, "stream": stream}
    if isinstance(backend, Invoker):
        return backend.invoke(name, asked, stream=stream)
    return post(backend.endpoint(name), CHAT, asked)


def post(endpoint: Endpoint, path: str, body: Mapping[str, Any]) -> Iterator[bytes]:
    """Send JSON; yields the answer in the pieces in which it comes."""
    headers = {**endpoint.headers, "Content-Type": "application/json"}
    with (
        bounded_httpx.client(timeout=TIMEOUT, headers=headers) as client,
        client.stream("POST", endpoint.url.rstrip("/") + path, content=json.dumps(body)) as answer,
    ):
        if answer.is_error:
            answer.read()
            raise _refused(answer)
        yield from answer.iter_bytes()


def get(endpoint: Endpoint, path: str, *, timeout: float = 30.0) -> Any:
    """The JSON document at ``path``."""
    return _parsed(check(endpoint, path, timeout=timeout))


def check(endpoint: Endpoint, path: str, *, timeout: float = 30.0) -> bytes:
    """What is at ``path``; the error for an answer that is no success."""
    made = bounded_httpx.client(seconds=timeout, timeout=timeout, headers=dict(endpoint.headers))
    with made as client:
        answer = client.get(endpoint.url.rstrip("/") + path)
    if answer.is_error:
        raise _refused(answer)
    return bytes(answer.content)


def text_of(answer: bytes) -> str:
    """What the assistant said in a whole chat completion; ``ProvisioningError`` if it is none."""
    try:
        return str(json.loads(answer)["choices"][0]["message"]["content"])
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise ProvisioningError(f"the answer is no chat completion: {answer[:200]!r}") from error


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProvisioningError(f"the answer is not JSON: {data[:200]!r}") from error


def streamed_text(pieces: Iterator[bytes]) -> str:
    """What the assistant said in a streamed chat completion.

    ``ProvisioningError`` if the stream ends with an error.
    """
    said = ""
    for event in sse.documents(pieces):
        if "error" in event:
            raise ProvisioningError(f"the stream ended with an error: {event['error']}")
        said += "".join(deltas(event))
    return said


def deltas(event: Mapping[str, Any]) -> Iterator[str]:
    """The texts in one event of a streamed chat completion; ``ProvisioningError`` if it is none."""
    try:
        for choice in event.get("choices", ()):
            yield str(choice.get("delta", {}).get("content") or "")
    except (TypeError, AttributeError) as error:
        raise ProvisioningError("the stream holds an event that is none of a chat") from error


def _refused(answer: httpx.Response) -> LlamaHubError:
    """The error for an answer that is none; the service's own words where it has some."""
    try:
        error = answer.json()["error"]
        message = str(error["message"] if isinstance(error, dict) else error)[:1000]
    except (ValueError, KeyError, TypeError, RecursionError):
        message = answer.text[:300] or answer.reason_phrase
    told = f"the deployment answered {answer.status_code}: {message}"
    if answer.status_code in (401, 403):
        return AccessError(told, hint="check the API key or the platform's credentials")
    if answer.status_code in (400, 404, 422):
        return UsageError(told)
    return ProvisioningError(told, hint="llama-hub status NAME, llama-hub logs NAME")
