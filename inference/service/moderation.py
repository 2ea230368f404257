"""The hook for responsible-use filters: callables of a policy, or found by entry point.

``moderators`` holds those that come with llama-hub; a package offers one under
the group ``llama_hub.moderation``. It is called with a ``Passage`` and answers
``None`` (let it pass) or the reason for refusing; it may be a coroutine
function. Answers are shown to it before the client sees them: a streamed answer
is held back to the end of each sentence, and whole up to there. A hook that
raises refuses: a broken filter must not be an open one.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Literal

from llama_hub.errors import LlamaHubError, UsageError

GROUP = "llama_hub.moderation"
_SENTENCE_END = re.compile(r"[.!?…]['\")\]]*(?=\s)|\n")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Passage:
    """A text to be judged."""

    stage: Literal["input", "output"]
    text: str  # the whole prompt, or the whole answer so far
    request_id: str
    prompt: str = ""  # what an answer is to, where that is known
    judged: int = 0  # characters at the beginning that the same moderators let pass before


Verdict = str | None
Outcome = Literal["passed", "refused", "failed"]
Observer = Callable[[str, str, Outcome, float], None]  # moderator, stage, outcome, seconds
Moderator = Callable[[Passage], Verdict | Awaitable[Verdict]]


def installed() -> dict[str, Moderator]:
    """The hooks of all installed packages by name; ``UsageError`` if one cannot be imported."""
    moderators: dict[str, Moderator] = {}
    for point in entry_points(group=GROUP):
        try:
            moderators[point.name] = point.load()
        except Exception as error:
            raise UsageError(
                f"the moderation hook {point.name!r} ({point.value}) cannot be loaded: {error}",
                hint="fix or uninstall the package that offers it",
            ) from error
    return moderators


@dataclass(frozen=True)
class JudgedPrompt:
    """A request's prompt, and the verdict where it is still under way."""

    text: str
    verdict: asyncio.Task[Verdict] | None = None


PROMPT: ContextVar[JudgedPrompt | None] = ContextVar("prompt", default=None)  # of the request


def name_of(moderator: Moderator) -> str:
    """What metrics call a moderator."""
    named = getattr(moderator, "name", None) or getattr(moderator, "__name__", None)
    return str(named or type(moderator).__name__)[:64]


def close_all(moderators: tuple[Moderator, ...]) -> None:
    """Let go of what those of a policy hold open; an installed package's hook may do the same."""
    for moderator in moderators:
        close = getattr(moderator, "close", None)
        if callable(close):
            close()


async def judge(
    moderators: tuple[Moderator, ...], passage: Passage, observe: Observer | None = None
) -> Verdict:
    """The first refusal, or ``None``; ``observe`` is told of every verdict."""
    for moderator in moderators:
        judges = getattr(moderator, "judges", None)
        if judges is not None and not judges(passage.stage):
            continue
        begun = time.monotonic()
        verdict, outcome = await _asked(moderator, passage)
        if observe is not None:
            observe(name_of(moderator), passage.stage, outcome, time.monotonic() - begun)
        if verdict is not None:
            return verdict
    return None


async def _asked(moderator: Moderator, passage: Passage) -> tuple[Verdict, Outcome]:
    try:
        verdict = moderator(passage)
        if inspect.isawaitable(verdict):
            verdict = await verdict
    except Exception as error:
        name = name_of(moderator)
        about = f"{type(error).__name__}: {error}" if isinstance(error, LlamaHubError) else ""
        if about:  # the service that judges, not our code: its trace tells nothing
            _log.error("%s; request %s is refused by %s", about, passage.request_id, name)
        else:
            _log.exception("the moderator %s failed; %s is refused", name, passage.request_id)
        return "the content filter failed", "failed"
    return verdict, "passed" if verdict is None else "refused"


def last_sentence_end(text: str) -> int:
    """Length of the part of ``text`` that ends with a whole sentence or line; 0 if none does."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return ends[-1] if ends else 0
