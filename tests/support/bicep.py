"""Reads the literals of Bicep resources: enough to compare a template with what it was made from.

No compiler is at hand; this knows objects, arrays, strings, numbers, booleans and bare symbols.
Items and properties are separated by a line's end or a comma, as Bicep demands: ``[a b]`` is none.
"""

from __future__ import annotations

import re
from typing import Any

_RESOURCE = re.compile(r"^resource (\w+) '([^']+)' = \{$", re.MULTILINE)
_TOKEN = re.compile(r"[ \t]*('(?:[^'\\]|\\.)*'|[{}\[\]:,\n]|[\w.-]+)")
_ESCAPE = re.compile(r"\\(n|r|t|\\|'|\$\{)")
_PLAIN = {"n": "\n", "r": "\r", "t": "\t"}


def read_resources(text: str) -> dict[str, Any]:
    """Symbol → body, with the resource's type under ``type``."""
    found = {}
    for match in _RESOURCE.finditer(text):
        tokens = _TOKEN.findall(text[match.end() - 1 :])
        body, _ = _value(tokens, 0)
        found[match[1]] = body | {"type": match[2]}
    return found


def _value(tokens: list[str], at: int) -> tuple[Any, int]:
    token = tokens[at]
    if token == "{":
        return _object(tokens, at + 1)
    if token == "[":
        return _array(tokens, at + 1)
    if token.startswith("'"):
        return _text(token), at + 1
    if token in ("true", "false"):
        return token == "true", at + 1
    return (int(token) if token.lstrip("-").isdigit() else token), at + 1


def _object(tokens: list[str], at: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    at = _lines(tokens, at)
    while tokens[at] != "}":
        key = _text(tokens[at]) if tokens[at].startswith("'") else tokens[at]
        assert tokens[at + 1] == ":", tokens[at : at + 3]
        assert key not in found, key
        found[key], at = _value(tokens, at + 2)
        at = _separated(tokens, at, "}")
    return found, at + 1


def _array(tokens: list[str], at: int) -> tuple[list[Any], int]:
    found = []
    at = _lines(tokens, at)
    while tokens[at] != "]":
        value, at = _value(tokens, at)
        found.append(value)
        at = _separated(tokens, at, "]")
    return found, at + 1


def _separated(tokens: list[str], at: int, end: str) -> int:
    """Where the next one begins."""
    assert tokens[at] in (",", "\n", end), f"no separator before {tokens[at : at + 3]}"
    return _lines(tokens, at + 1 if tokens[at] == "," else at)


def _lines(tokens: list[str], at: int) -> int:
    while tokens[at] == "\n":
        at += 1
    return at


def _text(token: str) -> str:
    return _ESCAPE.sub(lambda match: _PLAIN.get(match[1], match[1]), token[1:-1])
