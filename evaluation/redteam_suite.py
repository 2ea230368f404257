"""Red-team suites: prompts that should be refused, and some that should not, one in each line.

A line is JSON: ``prompt`` (or ``messages``), and optionally ``id``, ``category``, ``expect``
(``refuse``, the default, or ``answer``). Keys of other suites are passed over; ``field`` names the
prompt's key where it is another (``goal``, ``question``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import MaxLen, MinLen

from llama_hub.errors import FileFormatError
from llama_hub.schema import conform
from llama_hub.strict import decode, parse_json, read_bytes, text_kind

BUILTIN = "small"
KIND = text_kind(
    "the red-team suite", max_bytes=64 << 20, max_values=2000, max_depth=6,
    hint='one JSON object a line: {"prompt": "…"}',
)  # fmt: skip
MAX_PROMPTS = 10_000
MAX_LINE = 256 << 10  # characters
Text = Annotated[str, MinLen(1), MaxLen(100_000)]
Word = Annotated[str, MinLen(1), MaxLen(200)]
Expect = Literal["refuse", "answer"]


@dataclass(frozen=True)
class Turn:
    """One message."""

    role: Literal["system", "user", "assistant"]
    content: Text


@dataclass(frozen=True, kw_only=True)
class _Line:
    """What is read of a line."""

    prompt: Text | None = None
    messages: Annotated[tuple[Turn, ...], MaxLen(100)] = ()
    id: Word | None = None
    category: Word = "all"
    expect: Expect = "refuse"


@dataclass(frozen=True)
class Prompt:
    """A conversation that ends with the user, and what should happen."""

    id: str
    messages: tuple[Turn, ...]
    category: str
    expect: Expect

    @property
    def text(self) -> str:
        """The last message."""
        return self.messages[-1].content


@dataclass(frozen=True)
class RedTeamSuite:
    """Prompts under one name and digest."""

    name: str
    sha256: str
    prompts: tuple[Prompt, ...]


def load(name: str, field: str = "prompt") -> RedTeamSuite:
    """The suite in a file, or our own (``small``); ``InvalidFileError`` names the line."""
    if name == BUILTIN:
        data = (files("llama_hub.evaluation") / "redteam_suite.jsonl").read_bytes()
        return _parse(BUILTIN, data, BUILTIN, "prompt")
    path = Path(name).expanduser()
    return _parse(path.stem[:200], read_bytes(path, KIND), path, field)


def _parse(name: str, data: bytes, where: object, field: str) -> RedTeamSuite:
    prompts = tuple(_prompts(decode(data, where, KIND), where, field))
    if not prompts:
        raise KIND.invalid(where, "holds no prompt")
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise KIND.invalid(where, f"two prompts have the id {prompt.id!r}")
        seen.add(prompt.id)
    return RedTeamSuite(name, hashlib.sha256(data).hexdigest(), prompts)


def _prompts(text: str, where: object, field: str) -> Iterator[Prompt]:
    number = 0
    for line_number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        number += 1
        place = f"{where}, line {line_number}"
        if number > MAX_PROMPTS:
            raise KIND.invalid(where, f"holds more than {MAX_PROMPTS} prompts")
        if len(line) > MAX_LINE:
            raise KIND.invalid(place, f"has more than {MAX_LINE} characters")
        yield _prompt(parse_json(line, place, KIND), place, field)


def _prompt(document: Any, where: str, field: str) -> Prompt:
    if not isinstance(document, Mapping):
        raise KIND.invalid(where, "is not an object")
    known = ("messages", "id", "category", "expect")
    kept = {key: document[key] for key in known if document.get(key) is not None}
    if isinstance(kept.get("id"), int):
        kept["id"] = str(kept["id"])
    if field in document:
        kept["prompt"] = document[field]
    read = conform(_Line, kept, where, KIND)
    messages = read.messages or ((Turn("user", read.prompt),) if read.prompt else ())
    if not messages or messages[-1].role != "user":
        raise _without(where, field, document)
    own = hashlib.sha256(repr(messages).encode()).hexdigest()[:12]
    return Prompt(read.id or own, messages, read.category, read.expect)


def _without(where: str, field: str, document: Mapping[str, Any]) -> FileFormatError:
    keys = ", ".join(str(key)[:40] for key in list(document)[:8])
    return KIND.invalid(
        where,
        f"has no {field!r} and no messages that end with the user (it has {keys}): --field KEY",
    )
