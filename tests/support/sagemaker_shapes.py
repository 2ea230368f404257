"""Requests and answers held against botocore's own description of the services.

boto3 checks required members and types; enumerations, patterns, lengths and ranges are left to
the service. Here they are checked as well, by the very tables that boto3 ships.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from functools import cache
from typing import Any

import botocore.session
import regex


@cache
def service(name: str) -> Any:
    """botocore's model of a service."""
    return botocore.session.get_session().get_service_model(name)


def problems(shape: Any, value: Any, path: str = "") -> Iterator[str]:
    """What is wrong with ``value`` as a ``shape``."""
    if shape is None:
        return
    kind = {"long": "integer", "double": "float"}.get(shape.type_name, shape.type_name)
    if not isinstance(value, _TYPES[kind]) or (kind != "boolean" and isinstance(value, bool)):
        yield f"{path}: {type(value).__name__} is not a {kind}"
        return
    yield from _limits(shape, value, kind, path)
    yield from _INNER.get(kind, _nothing)(shape, value, path)


_TYPES: dict[str, Any] = {
    "string": str,
    "integer": int,
    "float": (int, float),
    "boolean": bool,
    "structure": dict,
    "list": list,
    "map": dict,
    "timestamp": (int, float, str, datetime.datetime),
    "blob": (str, bytes),
}


def _limits(shape: Any, value: Any, kind: str, path: str) -> Iterator[str]:
    rules = shape.metadata
    size = value if kind in ("integer", "float") else len(value) if hasattr(value, "__len__") else 0
    if kind not in ("boolean", "structure", "timestamp"):
        if "min" in rules and size < rules["min"]:
            yield f"{path}: {value!r} is below the minimum of {rules['min']}"
        if "max" in rules and size > rules["max"]:
            yield f"{path}: {value!r} is above the maximum of {rules['max']}"
    if kind == "string":
        if rules.get("enum") and value not in rules["enum"]:
            yield f"{path}: {value!r} is none of the enumeration {shape.name}"
        if rules.get("pattern") and not _matches(rules["pattern"], value):
            yield f"{path}: {value!r} does not match {rules['pattern']}"


def _matches(pattern: str, value: str) -> bool:
    """Whether the whole value matches; Java's surrogate ranges, which nobody else reads, do."""
    if "\\uD8" in pattern:
        return True
    return _compiled(pattern).fullmatch(value) is not None


@cache
def _compiled(pattern: str) -> Any:
    return regex.compile(pattern)


def _structure(shape: Any, value: Any, path: str) -> Iterator[str]:
    for name in shape.required_members:
        if value.get(name) is None:
            yield f"{path}.{name} is missing"
    for name, inner in value.items():
        if name not in shape.members:
            yield f"{path}.{name} is unknown"
        else:
            yield from problems(shape.members[name], inner, f"{path}.{name}")


def _list(shape: Any, value: Any, path: str) -> Iterator[str]:
    for place, inner in enumerate(value):
        yield from problems(shape.member, inner, f"{path}[{place}]")


def _map(shape: Any, value: Any, path: str) -> Iterator[str]:
    for key, inner in value.items():
        yield from problems(shape.key, key, f"{path} key")
        yield from problems(shape.value, inner, f"{path}.{key}")


def _nothing(shape: Any, value: Any, path: str) -> Iterator[str]:
    yield from ()


_INNER = {"structure": _structure, "list": _list, "map": _map}


def check_request(service_name: str, operation: str, body: Any) -> list[str]:
    """Problems of a request; an unknown operation is one."""
    known = service(service_name)
    if operation not in known.operation_names:
        return [f"{service_name} has no operation {operation}"]
    return list(problems(known.operation_model(operation).input_shape, body, operation))


def check_answer(service_name: str, operation: str, body: Any) -> list[str]:
    """Problems of an answer of a fake: it must not make up members."""
    return list(problems(service(service_name).operation_model(operation).output_shape, body))
