"""The hook for responsible-use filters: callables found by entry point.

A package offers one under the group ``llama_hub.moderation``. It is called with
a ``Passage`` and answers ``None`` (let it pass) or the reason for refusing; it
may be a coroutine function. Answers are shown to it before the client sees
them: a streamed answer is held back to the end of each sentence, and whole up
to there. A hook that raises refuses: a broken filter must not be an open one.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Literal

from llama_hub.errors import UsageError

GROUP = "llama_hub.moderation"
_SENTENCE_END = re.compile(r"[.!?…]['\")\]]*(?=\s)|\n")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Passage:
    """A text to be judged."""

    stage: Literal["input", "output"]
    text: str  # the whole prompt, or the whole answer so far
    request_id: str


Verdict = str | None
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


async def judge(moderators: tuple[Moderator, ...], passage: Passage) -> Verdict:
    """The first refusal, or ``None``."""
    for moderator in moderators:
        try:
            verdict = moderator(passage)
            if inspect.isawaitable(verdict):
                verdict = await verdict
        except Exception:
            _log.exception("a moderation hook failed; request %s is refused", passage.request_id)
            return "the content filter failed"
        if verdict is not None:
            return verdict
    return None


def last_sentence_end(text: str) -> int:
    """Length of the part of ``text`` that ends with a whole sentence or line; 0 if none does."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return ends[-1] if ends else 0
