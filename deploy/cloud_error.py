"""A cloud's refusals as our errors: one answer as plain data, tables that say what it means.

The SDKs' exception classes stay in each backend's ``client``, which makes an ``ErrorResponse`` of
them; its ``errors`` is a table of ``Rule`` s, the first of which that matches decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from llama_hub import retry_after
from llama_hub.errors import LlamaHubError, TransientError

Hint = str | Callable[["ErrorResponse"], str]
SERVER_ERRORS = range(500, 600)


@dataclass(frozen=True)
class ErrorResponse:
    """One answer that is no success, stripped of its SDK."""

    status: int | None  # HTTP; None for a long-running operation that failed
    code: str = ""  # the cloud's own word for it
    message: str = ""  # free of secrets
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def retry_after(self) -> float | None:
        """Seconds after which the cloud wants to be asked again."""
        return retry_after.seconds(self.headers)

    @property
    def said(self) -> str:
        """What the cloud said, in one line; else its code or status."""
        return first_line(self.message) or self.code or f"HTTP {self.status}"


@dataclass(frozen=True)
class Rule:
    """When an answer means ``error``. Each condition that is given must hold; codes in any case."""

    error: type[LlamaHubError]
    says: str  # the message, of {what}, {said}, {code} and {status}
    hint: Hint = ""
    codes: Collection[str] = ()
    statuses: Collection[int] = ()
    words: str = ""  # regular expression, searched in the message in any case

    def matches(self, response: ErrorResponse) -> bool:
        """Whether this rule decides about ``response``."""
        codes = {code.lower() for code in self.codes}
        return (
            (not codes or response.code.lower() in codes)
            and (not self.statuses or response.status in self.statuses)
            and (not self.words or bool(re.search(self.words, response.message, re.IGNORECASE)))
        )

    def raised(self, response: ErrorResponse, what: str) -> LlamaHubError:
        """The error for ``response`` while doing ``what``."""
        hint = self.hint if isinstance(self.hint, str) else self.hint(response)
        fields = {"what": what, "said": response.said}
        message = self.says.format(**fields, code=response.code, status=response.status)
        if issubclass(self.error, TransientError):
            return self.error(message, hint=hint, retry_after=response.retry_after)
        return self.error(message, hint=hint)


def explain(response: ErrorResponse, what: str, rules: Sequence[Rule]) -> LlamaHubError | None:
    """The error of the first rule that matches; ``None`` if none does."""
    for rule in rules:
        if rule.matches(response):
            return rule.raised(response, what)
    return None


def first_line(text: str) -> str:
    """The first line that says something, without an SDK's prefix ``(Code) ``."""
    for line in text.splitlines():
        if line.strip():
            return re.sub(r"^\(\w+\)\s*", "", line.strip())
    return ""


class Explained:
    """A context in which an SDK's exceptions become ours; ``translation`` is the backend's."""

    def __init__(self, translation: Callable[[Exception, str], BaseException], what: str) -> None:
        self._translation, self._what = translation, what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, LlamaHubError | OSError):
            raise self._translation(error, self._what) from error
