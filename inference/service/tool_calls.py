"""Tool calls as they are written: text in, names and arguments out, piece by piece."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Call:
    """One call; ``arguments`` is JSON text, cut off where the answer was."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class CallDelta:
    """What a piece of text added to call ``index``; the first of each call carries ``name``."""

    index: int
    name: str | None = None
    arguments: str = ""


def new_id() -> str:
    """Of a call."""
    return f"call_{uuid.uuid4().hex[:24]}"


def read_calls(text: str, names: Collection[str]) -> tuple[str, list[Call]]:
    """A whole answer: its text, or the calls that it is; a list of anything else is text."""
    stream = CallStream(names)
    said, deltas = stream.push(text, last=True)
    calls: list[Call] = []
    for delta in deltas:
        if delta.name is not None:
            calls.append(Call(new_id(), delta.name, delta.arguments))
        else:
            known = calls[-1]
            calls[-1] = Call(known.id, known.name, known.arguments + delta.arguments)
    return said, calls


class CallStream:
    """An answer as it grows: text and calls of ``names``; what turns out to be no call is text."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._reader = CallReader()
        self._held = ""  # may still turn out to be no call
        self._is_text = False
        self.called = False

    def push(self, text: str, *, last: bool) -> tuple[str, list[CallDelta]]:
        """What ``text``, or the end of the answer, adds."""
        if self._is_text:
            return text, []
        said, deltas = self._reader.push(text)
        if self.called:
            return said, deltas
        self._held += "" if said else text
        first = next((delta.name for delta in deltas if delta.name is not None), None)
        if first is not None and first in self._names:
            self.called, self._held = True, ""
            return said, deltas
        if first is not None or last:
            said, self._held, self._is_text = self._held + said, "", True
        return said, []


class CallReader:
    """Reads an answer that may be a list of calls; whether it is shows its first character.

    Everything else is text, which is handed back unchanged.
    """

    def __init__(self) -> None:
        self.is_calls: bool | None = None  # not known yet
        self.count = -1  # index of the call that is being read
        self._depth = 0
        self._string: list[str] | None = None  # characters of the text that is being read
        self._escaped = False
        self._key: str | None = None  # of the call; None before its colon
        self._last = ""  # the text that was read last
        self._named = False
        self._early: list[str] = []  # arguments that came before the name

    def push(self, text: str) -> tuple[str, list[CallDelta]]:
        """The part of ``text`` that is no call, and what the rest adds to calls."""
        if self.is_calls is None:
            if not text.strip():
                return ("", []) if not text else (text, [])
            self.is_calls = text.lstrip().startswith("[")
        if not self.is_calls:
            return text, []
        deltas: list[CallDelta] = []
        for character in text:
            self._take(character, deltas)
        return "", _joined(deltas)

    def _take(self, character: str, deltas: list[CallDelta]) -> None:
        inside = self._key == "arguments" and self._depth >= 2
        if self._string is not None:
            self._in_string(character)
            ended = self._string is None
        else:
            ended = False
            inside = self._outside(character) and inside
        if inside:
            self._argument(character, deltas)
        if ended and self._depth == 2 and self._key == "name" and not self._named:
            self._named = True
            deltas.append(CallDelta(self.count, self._last, "".join(self._early)))

    def _argument(self, character: str, deltas: list[CallDelta]) -> None:
        if self._named:
            deltas.append(CallDelta(self.count, None, character))
        else:
            self._early.append(character)

    def _in_string(self, character: str) -> None:
        assert self._string is not None
        self._string.append(character)
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._last = _decoded("".join(self._string))
            self._string = None

    def _outside(self, character: str) -> bool:
        """Move on by a character outside of texts; whether it may belong to arguments."""
        if character == '"':
            self._string = ['"']
        elif character in "[{":
            self._depth += 1
            if self._depth == 2:
                self._begin()
        elif character in "]}":
            self._depth -= 1
            if self._depth < 2:
                self._key = None
                return False
        elif character == ":" and self._depth == 2 and self._key is None:
            self._key = self._last
            return False
        elif character == "," and self._depth == 2:
            self._key = None
            return False
        return not (character.isspace() and self._depth == 2)

    def _begin(self) -> None:
        self.count += 1
        self._key, self._named, self._early = None, False, []


def _decoded(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        return text[1:-1]


def _joined(deltas: list[CallDelta]) -> list[CallDelta]:
    """Neighbours that belong to one call as one."""
    joined: list[CallDelta] = []
    for delta in deltas:
        if joined and joined[-1].index == delta.index and delta.name is None:
            last = joined[-1]
            joined[-1] = CallDelta(last.index, last.name, last.arguments + delta.arguments)
        else:
            joined.append(delta)
    return joined
