"""Strict reading of the small files that people and other programs write.

Every such file is read here: opened only if it is a regular file (no FIFO, device or folder, so
nothing can block), with a bound on its bytes, its depth and its number of values, as UTF-8 without
NUL, without duplicate keys, NaN, Infinity or YAML aliases. ``llama_hub.schema`` then gives the
document the types it must have. Whatever is wrong is one error that names the file and the key:
exit code 2 for a file that a person writes, 5 for one that a program wrote.

yaml is imported by the functions that need it: ``--help`` does not.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
import reprlib
import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, time
from pathlib import Path
from typing import Any, NoReturn, cast

from llama_hub import files
from llama_hub.errors import (
    DamagedFileError,
    FileFormatError,
    IntegrityError,
    InvalidFileError,
    NotFoundError,
)

_Node = tuple[Any, Any]  # (place of the parent or None, key or index)

# Whole numbers beyond this are nobody's; Hugging Face writes 10^30 for "no limit".
MAX_MAGNITUDE = 1 << 128
MAX_INT = (1 << 63) - 1  # of a count or a size
_MAX_DOTS = 32
_DOTTED_KEY = re.compile(
    r"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){%d}""" % _MAX_DOTS  # noqa: UP031
)
_COMMAS = 4  # and brackets for each value that a document may hold
_SHOWN = 60  # characters of a wrong value


@dataclass(frozen=True)
class FileKind:
    """What a reader knows of a kind of file before it opens one."""

    name: str  # as messages call it: "the catalogue"
    error: type[FileFormatError] = DamagedFileError
    max_bytes: int = 1 << 20
    max_depth: int = 32
    max_values: int = 100_000
    hint: str = ""
    named: bool = False  # by the user, so that its absence is wrong usage and not "not found"

    def invalid(self, where: object, problem: str, key: str = "") -> FileFormatError:
        """The error for the file ``where``, at the dotted path ``key`` in it."""
        at = f"{key}: " if key else ""
        return self.error(
            f"{self.name} {where}: {at}{problem}", file=str(where), key=key, hint=self.hint
        )


def text_kind(name: str, **settings: Any) -> FileKind:
    """A kind of file that a person writes: mistakes in it are usage errors."""
    return FileKind(name, InvalidFileError, **{"named": True, **settings})


def read_bytes(path: Path, kind: FileKind) -> bytes:
    """The content of a regular file.

    ``NotFoundError`` if it is missing, unless the user named it.
    """
    try:
        descriptor = open_regular(path, kind)
        try:
            return _read_bounded(descriptor, path, kind)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError) as error:
        if kind.named:
            raise kind.invalid(path, "cannot be read: it does not exist") from error
        raise NotFoundError(f"{kind.name} {path} does not exist", hint=kind.hint) from error
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise kind.invalid(path, f"cannot be read: {reason}") from error


def open_regular(path: Path, kind: FileKind) -> int:
    """A descriptor for reading, with ``OSError`` as it comes; the caller bounds what is read."""
    try:
        return files.open_regular(path)
    except IntegrityError as error:
        special = "not a regular file (a pipe, a socket or a device)"
        problem = "a folder, not a file" if path.is_dir() else special
        raise kind.invalid(path, f"is {problem}") from error


def _read_bounded(descriptor: int, path: Path, kind: FileKind) -> bytes:
    pieces: list[bytes] = []
    left = kind.max_bytes + 1
    while left and (piece := os.read(descriptor, min(left, 1 << 20))):
        pieces.append(piece)
        left -= len(piece)
    if not left:
        raise kind.invalid(path, f"is larger than {kind.max_bytes} bytes, the most it may have")
    return b"".join(pieces)


def decode(data: bytes, where: object, kind: FileKind) -> str:
    """UTF-8 text without NUL and without a byte-order mark."""
    if len(data) > kind.max_bytes:
        raise kind.invalid(where, f"is larger than {kind.max_bytes} bytes, the most it may have")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise kind.invalid(where, f"is not UTF-8 text: {error}") from error
    if text.startswith("\ufeff"):
        raise kind.invalid(where, "starts with a byte-order mark: save it as UTF-8 without one")
    if "\0" in text:
        raise kind.invalid(where, f"contains a NUL character at {text.index(chr(0))}")
    return text


def read_text(path: Path, kind: FileKind) -> str:
    """The text of a regular file."""
    return decode(read_bytes(path, kind), path, kind)


def read_json(path: Path, kind: FileKind) -> Any:
    """The document in a JSON file."""
    return parse_json(read_bytes(path, kind), path, kind)


def parse_json(data: bytes | str, where: object, kind: FileKind) -> Any:
    """The document in JSON text, as ``read_json`` gives it."""
    text = decode(data, where, kind) if isinstance(data, bytes) else data
    # Before objects are made of it: 16 MiB of "[]," would take 400 MB. Commas in texts count too.
    if sum(map(text.count, ",[{")) > _COMMAS * kind.max_values:
        raise kind.invalid(where, f"holds more than {kind.max_values} values")
    try:
        document = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise kind.invalid(where, f"is not valid JSON: {_reason(error)}") from error
    return checked(document, where, kind)


def read_toml(path: Path, kind: FileKind) -> dict[str, Any]:
    """The document in a TOML file."""
    text = read_text(path, kind)
    if match := _DOTTED_KEY.search(text):  # tomllib needs time by the square of such a key's length
        line = text.count("\n", 0, match.start()) + 1
        raise kind.invalid(path, f"line {line}: a dotted key of more than {_MAX_DOTS} parts")
    try:
        document = _dates_as_text(tomllib.loads(text))
    except (ValueError, RecursionError) as error:  # ValueError: also a number of too many digits
        raise kind.invalid(path, f"is not valid TOML: {_reason(error)}") from error
    checked(document, path, kind)
    return cast(dict[str, Any], document)


def _dates_as_text(value: Any) -> Any:
    """TOML's own dates and times in ISO 8601, which JSON and the types of documents know."""
    if isinstance(value, dict):
        return {key: _dates_as_text(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_dates_as_text(inner) for inner in value]
    return value.isoformat() if isinstance(value, date | time) else value


def read_yaml(path: Path, kind: FileKind) -> Any:
    """The document in a YAML file."""
    return parse_yaml(read_text(path, kind), path, kind)


def parse_yaml(text: str, where: object, kind: FileKind) -> Any:
    """The one document in YAML text: no aliases, no tags beyond plain data, no duplicate keys."""
    import yaml

    try:
        _check_events(yaml, text, kind)
        document = yaml.load(text, _yaml_loader())  # noqa: S506 - derives from the safe loader
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:
        # Besides its own errors PyYAML lets those of int(), date() and others through.
        raise kind.invalid(where, f"is not valid YAML: {_reason(error)}") from error
    return checked(document, where, kind)


def _check_events(yaml: Any, text: str, kind: FileKind) -> None:
    """Refuse what would make the composer recurse or expand, before it does."""
    depth = count = 0
    for event in yaml.parse(text, Loader=_yaml_base()):
        count += 1
        if isinstance(event, yaml.AliasEvent):
            line = event.start_mark.line + 1
            raise ValueError(f"line {line}: aliases (*{event.anchor}) are not supported")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > kind.max_depth or count > kind.max_values:
            raise ValueError("it is nested too deep or holds too many values")


def _yaml_base() -> Any:
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@functools.cache
def _yaml_loader() -> Any:
    import yaml

    class Loader(_yaml_base()):  # type: ignore[misc]
        """The safe loader, which otherwise lets the last of two equal keys win."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            if isinstance(node, yaml.MappingNode):
                _unique([(self.construct_object(key, deep=True), None) for key, _ in node.value])
            return super().construct_mapping(node, deep)

    return Loader


def checked(document: Any, where: object, kind: FileKind) -> Any:
    """``document`` if it is plain data within the bounds of ``kind``.

    Plain data are objects with text keys, lists, text that UTF-8 can write without NUL, finite
    numbers below ``MAX_MAGNITUDE``, true, false and null.
    """
    count = 0
    waiting: list[tuple[Any, int, _Node | None]] = [(document, 0, None)]
    while waiting:
        value, depth, place = waiting.pop()
        count += 1
        problem = _scalar_problem(value)
        if count > kind.max_values:
            problem = f"holds more than {kind.max_values} values"
        elif depth > kind.max_depth:
            problem = f"is nested deeper than {kind.max_depth}"
        if problem:
            raise kind.invalid(where, problem, _dotted(place))
        for key, inner in _children(value):
            if isinstance(value, dict) and (wrong := _key_problem(key)):
                raise kind.invalid(where, wrong, _dotted(place))
            waiting.append((inner, depth + 1, (place, key)))
    return document


def _children(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, list) else ()


def _key_problem(key: Any) -> str:
    if not isinstance(key, str):
        return f"the key {shown(key)} is not text: put it in quotes"
    return _scalar_problem(key)


def _scalar_problem(value: Any) -> str:
    if isinstance(value, str):
        if "\0" in value:
            return "contains a NUL character"
        return "" if _is_unicode(value) else "contains half of a surrogate pair"
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"{value} is not a finite number"
    if isinstance(value, int):
        return "" if -MAX_MAGNITUDE < value < MAX_MAGNITUDE else "is a number beyond all bounds"
    if value is None or isinstance(value, dict | list):
        return ""
    return f"{shown(value)} is a {type(value).__name__}: put it in quotes"


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _dotted(place: _Node | None) -> str:
    parts: list[str] = []
    while place is not None:
        place, key = place
        parts.append(key[:_SHOWN] if isinstance(key, str) else str(key))
    return ".".join(reversed(parts))


def shown(value: Any) -> str:
    text = reprlib.repr(value)  # bounded, however large the value
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    return " ".join(str(error).split())[:300] or type(error).__name__


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        repeated, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {shown(repeated)} stands there twice")
    return document


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is too large a number")
    return value
