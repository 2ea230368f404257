"""Errors as clients see them: one type inside, three shapes outside.

OpenAI's shape is ``{"error": {"message", "type", "param", "code"}}``, that of
Hugging Face's text-generation servers ``{"error", "error_type"}``, that of Ollama ``{"error"}``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

from llama_hub.errors import DeviceMemoryError, NotEnoughError, UsageError
from llama_hub.inference.schema_limits import SchemaError

Shape = Literal["openai", "huggingface", "ollama"]
_log = logging.getLogger(__name__)

_HUGGING_FACE_STATUS = {400: 422}
_HUGGING_FACE_TYPE = {
    422: "validation",
    429: "overloaded",
    500: "generation",
    503: "unavailable",
    504: "incomplete_generation",
}


class Problem(Exception):
    """A request that is answered with an error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = dict(headers or {})


class ClientGoneError(Exception):
    """The client closed the connection before its answer was complete."""


def invalid(message: str, param: str | None = None, code: str | None = None) -> Problem:
    """400: the request itself is wrong."""
    return Problem(400, message, param=param, code=code)


def overloaded(message: str, retry_after: int) -> Problem:
    """429 with the number of seconds after which another try is worth it."""
    return Problem(
        429,
        message,
        kind="rate_limit_error",
        code="queue_full",
        headers={"Retry-After": str(retry_after)},
    )


def unavailable(message: str, retry_after: int = 5) -> Problem:
    """503: not yet, or no longer."""
    return Problem(
        503,
        message,
        kind="service_unavailable",
        code="unavailable",
        headers={"Retry-After": str(retry_after)},
    )


def as_problem(error: Exception) -> Problem:
    """The problem that stands for ``error``; what is unknown is logged and becomes a bare 500."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, SchemaError):
        param = "tools" if error.where.startswith("$defs.tool") else "response_format"
        return invalid(error.message, param, "invalid_json_schema")
    if isinstance(error, UsageError):
        return invalid(error.message)
    if isinstance(error, DeviceMemoryError):
        return unavailable(error.message)
    if isinstance(error, NotEnoughError):
        return overloaded(error.message, 2)
    # The traceback's last line may quote a prompt; frames and the type do not.
    _log.error("a request failed: %s", type(error).__name__, exc_info=_without_text(error))
    return Problem(500, "the request failed; see the server's log", kind="server_error")


def _without_text(error: Exception) -> Exception:
    bare = RuntimeError(f"{type(error).__name__} (text withheld)")
    return bare.with_traceback(error.__traceback__)


def body_of(problem: Problem, shape: Shape) -> dict[str, Any]:
    """The JSON document of an error response."""
    if shape == "ollama":
        return {"error": problem.message}
    if shape == "huggingface":
        kind = _HUGGING_FACE_TYPE.get(status_of(problem, shape), "invalid_request")
        return {"error": problem.message, "error_type": kind}
    return {
        "error": {
            "message": problem.message,
            "type": problem.kind,
            "param": problem.param,
            "code": problem.code,
        }
    }


def status_of(problem: Problem, shape: Shape) -> int:
    """The HTTP status; Hugging Face's servers say 422 where OpenAI says 400."""
    if shape == "huggingface":
        return _HUGGING_FACE_STATUS.get(problem.status, problem.status)
    return problem.status
