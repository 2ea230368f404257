"""The types that a document read by ``llama_hub.strict`` must have, checked by pydantic.

pydantic is imported by the functions that need it, so that ``--help`` does not; the constraints
stand in the dataclasses themselves: ``Annotated[int, Ge(0)]``, ``Annotated[str, Pattern(…)]``.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from dataclasses import fields as dataclass_fields
from typing import TYPE_CHECKING, Any, TypeVar, cast

from llama_hub.strict import FileKind, shown

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")
_PROBLEMS = 8  # shown at once
_KEY = 64  # characters of an unknown key that are compared with the known ones


def conform(type_: type[T], document: Any, where: object, kind: FileKind) -> T:
    """``document`` as a ``type_`` (a dataclass or any type that pydantic knows), strictly.

    No text is taken for a number, no number for true or false, no 1.0 for 1; lists may become
    tuples and objects dataclasses. Every problem is named, with its key.
    """
    from pydantic import ValidationError

    adapter = _adapter(cast(Hashable, type_))
    try:
        return cast(T, adapter.validate_json(json.dumps(document), strict=True))
    except ValidationError as error:
        problems = list(_problems(error, type_))
        key, _ = problems[0]
        rest = [f"{at}: {what}" if at else what for at, what in problems]
        text = "; ".join(rest[:_PROBLEMS]).removeprefix(f"{key}: " if key else "")
        more = f"; and {len(rest) - _PROBLEMS} more" if len(rest) > _PROBLEMS else ""
        raise kind.invalid(where, text + more, key) from error


@functools.cache
def _adapter(type_: Hashable) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(cast(Any, type_))


def _problems(error: ValidationError, type_: Any) -> Iterator[tuple[str, str]]:
    known = _keys(type_)
    for each in error.errors(include_url=False, include_context=False):
        loc = each["loc"]
        key = ".".join(str(part)[:_KEY] for part in loc)
        match each["type"]:
            case "missing":
                yield key, "is missing"
            case "extra_forbidden" | "unexpected_keyword_argument":
                yield key, "unknown key" + (did_you_mean(key, known) if len(loc) == 1 else "")
            case "value_error":  # its author says what was given
                yield key, each["msg"].removeprefix("Value error, ")
            case _:
                yield key, f"{_lower(each['msg'])} (given: {shown(each['input'])})"


def _keys(type_: Any) -> list[str]:
    """The keys of a dataclass or of a pydantic model; empty for other types."""
    if is_dataclass(type_):
        return [field.name for field in dataclass_fields(type_)]
    return list(getattr(type_, "model_fields", ()))


def did_you_mean(key: str, known: Iterable[str]) -> str:
    """``; did you mean 'context'?``, or nothing if no known key is near."""
    near = difflib.get_close_matches(key[:_KEY], list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


@dataclass(frozen=True)
class Pattern:
    """In ``Annotated[str, Pattern(...)]``: text that matches ``regex`` whole."""

    regex: str
    meaning: str  # "64 hexadecimal digits"

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Called by pydantic alone, so that whoever declares a type need not import it."""
        from pydantic_core import PydanticCustomError, core_schema

        compiled = re.compile(self.regex)

        def match(value: str) -> str:
            if not compiled.fullmatch(value):
                raise PydanticCustomError("pattern", "must be " + _escaped(self.meaning))
            return value

        return core_schema.no_info_after_validator_function(match, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Mapping[str, Any]:
        """The pattern, in schemas for editors."""
        return handler(schema) | {"pattern": f"^(?:{self.regex})$"}  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Checked:
    """In ``Annotated[str, Checked(function)]``: text that ``function`` takes (``ValueError``)."""

    function: Callable[[str], object]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Called by pydantic alone."""
        from pydantic_core import core_schema

        def check(value: str) -> str:
            self.function(value)
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
