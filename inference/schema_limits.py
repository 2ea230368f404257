"""Limits of a JSON schema, judged before anything is compiled.

llguidance bounds nearly everything itself; what it does not bound (the automaton of a
``multipleOf``, the recursion over nested schemas, forced texts that are tokenised at each step)
is bounded here, in one pass over the document. ``schema_compiler`` has a clock for the rest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, Literal

from llama_hub.errors import UsageError

MAX_TEXT = 1 << 16  # characters of the whole schema
MAX_DEPTH = 64  # levels of nesting
MAX_NODES = 20_000  # values of any kind
MAX_LITERAL = 4096  # characters that a constant or a name forces; tokenised again at each step
MAX_PATTERN = 4096  # characters of a regular expression
MAX_MULTIPLE = 10_000  # states of its automaton: its digits as an integer, 25 for 0.25
MAX_MULTIPLES = 40_000  # all of them together
MULTIPLES_OF_ONE = 64  # of one allOf that are multiplied; more are too many anyway
MAX_NUMBER = 10**400

Kind = Literal["schema", "map", "list", "value"]
Path = tuple[str | int, ...]
_MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_SCHEMAS = frozenset(
    {
        "items", "additionalItems", "additionalProperties", "unevaluatedItems",
        "unevaluatedProperties", "propertyNames", "contains", "not", "if", "then", "else",
    }
)  # fmt: skip


class SchemaError(UsageError):
    """The JSON schema cannot be followed; ``where``: the part at fault, as ``properties.a``."""

    def __init__(self, reason: str, path: Path = ()) -> None:
        self.path = path
        self.where = ".".join(str(step)[:80] for step in path)
        at = f" at {self.where}" if self.where else ""
        super().__init__(f"the JSON schema cannot be used{at}: {reason}")
        self.reason = reason


@dataclass(frozen=True)
class Node:
    """One value of a schema document and what it stands for."""

    path: Path
    value: Any
    kind: Kind


def walk(document: Any) -> Iterator[Node]:
    """Every value of ``document``, parents first; ``SchemaError`` below ``MAX_DEPTH`` levels."""
    stack = [Node((), document, "schema")]
    while stack:
        node = stack.pop()
        yield node
        if len(node.path) > MAX_DEPTH:
            raise SchemaError(f"it is nested more than {MAX_DEPTH} levels deep", node.path[:4])
        stack.extend(reversed(list(_children(node))))


def _children(node: Node) -> Iterator[Node]:
    if isinstance(node.value, dict):
        for key, value in node.value.items():
            yield Node((*node.path, key), value, _kind(node.kind, key, value))
    elif isinstance(node.value, list):
        kind: Kind = "schema" if node.kind == "list" else "value"
        for index, value in enumerate(node.value):
            yield Node((*node.path, index), value, kind)


def _kind(parent: Kind, key: str, value: Any) -> Kind:
    """What the value of ``key`` is: a property may be called as a keyword is."""
    if parent == "map":
        return "schema"
    if parent != "schema":
        return "value"
    if key in _MAPS:
        return "map"
    if key in _LISTS or (key in _SCHEMAS and isinstance(value, list)):
        return "list"
    return "schema" if key in _SCHEMAS else "value"


@lru_cache(maxsize=64)
def parse(text: str) -> Any:
    """The document in ``text``; ``SchemaError`` that names the part which asks for too much."""
    if len(text) > MAX_TEXT:
        raise SchemaError(f"it has {len(text)} characters; at most {MAX_TEXT} may be asked for")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"it is not JSON: {error or 'nested too deeply'}") from None
    if not isinstance(document, dict | bool):
        raise SchemaError("it must be an object")
    _check_total(list(walk(document)))
    return document


def subschemas(node: Node) -> Iterator[Node]:
    """The nearest schemas below ``node``."""
    for child in _children(node):
        if child.kind == "schema":
            yield child
        elif child.kind != "value":
            yield from subschemas(child)


def _check_total(nodes: list[Node]) -> None:
    if len(nodes) > MAX_NODES:
        raise SchemaError(f"it has {len(nodes)} values; at most {MAX_NODES} may be asked for")
    multiples = 0
    for node in nodes:
        _check_value(node)
        if node.kind == "schema" and isinstance(node.value, dict):
            _check_keywords(node)
            multiples += _multiple(node)
            _check_product(node)
            if multiples > MAX_MULTIPLES:
                raise SchemaError(
                    f"the schema's multipleOf together need {multiples} states; at most "
                    f"{MAX_MULTIPLES} may be asked for",
                    (*node.path, "multipleOf"),
                )


def _check_value(node: Node) -> None:
    """Lengths of what may be written out again and again."""
    value = node.value
    if isinstance(value, int) and not -MAX_NUMBER < value < MAX_NUMBER:
        raise SchemaError("a number has more than 400 digits", node.path)
    if isinstance(value, str) and len(value) > MAX_LITERAL:
        raise SchemaError(
            f"a text has {len(value)} characters; at most {MAX_LITERAL} may be asked for",
            node.path,
        )
    longest = max(map(len, value), default=0) if isinstance(value, dict) else 0
    if longest > MAX_LITERAL:
        raise SchemaError(
            f"a name has {longest} characters; at most {MAX_LITERAL} may be asked for", node.path
        )


def _check_keywords(node: Node) -> None:
    if "x-guidance" in node.value:
        raise SchemaError("x-guidance is not available here", (*node.path, "x-guidance"))
    pattern = node.value.get("pattern")
    if isinstance(pattern, str) and len(pattern) > MAX_PATTERN:
        raise SchemaError(
            f"the pattern has {len(pattern)} characters; at most {MAX_PATTERN}",
            (*node.path, "pattern"),
        )


def _check_product(node: Node) -> None:
    """All of ``allOf`` hold: one automaton, with the states of their least common multiple."""
    parts = node.value.get("allOf")
    schemas = [node.value, *(parts if isinstance(parts, list) else [])]
    numbers = [_states(each.get("multipleOf")) for each in schemas if isinstance(each, dict)]
    together = math.lcm(*filter(None, numbers[:MULTIPLES_OF_ONE]))
    if together > MAX_MULTIPLE:
        raise SchemaError(
            f"its multipleOf together need more than {MAX_MULTIPLE} states",
            (*node.path, "allOf"),
        )


def _multiple(node: Node) -> int:
    """States that the node's ``multipleOf`` needs; ``SchemaError`` if they are too many."""
    value = node.value.get("multipleOf")
    states = _states(value)
    if states > MAX_MULTIPLE:
        raise SchemaError(
            f"multipleOf {value} needs {states} states; at most {MAX_MULTIPLE} may be asked for",
            (*node.path, "multipleOf"),
        )
    return states


def _states(value: Any) -> int:
    """States of an automaton for multiples of ``value``: its digits as an integer."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return 0
    digits = "".join(map(str, Decimal(str(value)).as_tuple().digits)).rstrip("0")
    return int(digits or "0") if len(digits) < 16 else MAX_MULTIPLE + 1


def costliest(document: Any) -> Path:
    """The path of the keyword that probably takes longest to compile; empty if none stands out."""
    best: Path = ()
    most = 0
    for node in walk(document):
        if node.kind != "schema" or not isinstance(node.value, dict):
            continue
        for key, value in node.value.items():
            cost = _cost(key, value)
            if cost > most:
                best, most = (*node.path, key), cost
    return best


def _cost(key: str, value: Any) -> int:
    if key in ("pattern", "const") and isinstance(value, str):
        return len(value) * 4
    if key in ("enum", "allOf", "anyOf", "oneOf", "properties", "patternProperties"):
        return len(str(value)) if isinstance(value, dict | list) else 0
    if key == "multipleOf" and isinstance(value, int | float):
        return int(min(abs(value), MAX_MULTIPLE))
    return 0
