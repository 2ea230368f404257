"""The model card: the YAML at the head of a repository's README.md, and what it says.

The card is written by whoever published the model. It is read for hints as to whose model this is
and under which licence; nothing in it opens a gate (see ``licensing``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from llama_hub.errors import FileFormatError
from llama_hub.strict import FileKind, parse_yaml

KIND = FileKind("the model card", max_bytes=256 << 10, max_depth=24, max_values=20_000)
_FRONT = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
_MAX_TEXT = 300  # characters of a value
_MAX_BASES = 8


@dataclass(frozen=True)
class Card:
    """What is used of it; empty where it does not say."""

    licenses: tuple[str, ...] = ()  # identifiers of the Hub: llama2, apache-2.0, other …
    license_name: str = ""
    license_link: str = ""
    base_models: tuple[str, ...] = ()
    problem: str = ""  # why it could not be read


def read(data: bytes | None) -> Card:
    """The card in the bytes of a README.md; an empty one if there is none."""
    front = _FRONT.match((data or b"")[: KIND.max_bytes].decode("utf-8", "replace"))
    if front is None:
        return Card()
    try:
        document = parse_yaml(front[1], "(README.md)", KIND)
    except FileFormatError as error:
        return Card(problem=error.message)
    if not isinstance(document, dict):
        return Card(problem="the head of README.md is no table of keys")
    return Card(
        licenses=tuple(text.lower() for text in _texts(document.get("license"))),
        license_name=_text(document.get("license_name")),
        license_link=_text(document.get("license_link")),
        base_models=_texts(document.get("base_model"))[:_MAX_BASES],
    )


def _texts(value: Any) -> tuple[str, ...]:
    many = value if isinstance(value, list) else [value]
    return tuple(text for one in many if (text := _text(one)))


def _text(value: Any) -> str:
    is_line = isinstance(value, str) and len(value) <= _MAX_TEXT and value.isprintable()
    return str(value).strip() if is_line else ""
