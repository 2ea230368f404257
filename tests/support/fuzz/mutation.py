"""Changes to documents, texts, bytes and files, by a seeded generator."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Raw(str):
    """Text that a writer puts down as it is: NaN, 1e999, numbers of 5,000 digits."""


def _deep(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value] if depth % 2 else {"a": value}
    return value


VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 7, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63),
    10**30, 10**400, 0.0, -0.0, 0.5, 1.0, 1e308, 1e-308, -1e308, 1e18,
    "", "x", "0", "1", "true", "null", "nan", ".", "..", "../../x", "/etc/passwd", "/dev/zero", "~",
    "a" * 300, "a" * 70_000, "ä", "\u202e", "\ud800", "\0", "\n", "\x1b[2J", "%s%n", "{}", "$HOME",
    "2023-07-18", "1:30", "0x10", "sha256:" + "0" * 64, "0" * 64, "md5:" + "0" * 32, "https://[::1",
    [], {}, [None], [[]], [{}], {"": 0}, {"a": {}}, [0] * 1000, ["x"] * 1000, [1, "a", None],
    {str(number): number for number in range(1000)},
    Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("nan"), Raw("inf"), Raw("1e999"),
    Raw("9" * 5000), Raw("0" + "1" * 50), Raw("-0"), Raw("2020-01-01"), Raw("0x1F"), Raw("1_000"),
    _deep(31), _deep(40), _deep(300),
]  # fmt: skip


def document(rng: random.Random, good: Any) -> Any:
    """A copy of ``good`` with one to three changes somewhere in it."""
    changed = copy.deepcopy(good)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        changed = _change(rng, changed)
    return changed


def _change(rng: random.Random, value: Any) -> Any:
    """``value`` with one change, at a random depth."""
    inside = isinstance(value, dict | list) and len(value) > 0
    if not inside or rng.random() < 0.04:
        return copy.deepcopy(rng.choice(VALUES))
    at = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
    inner = value[at]
    if isinstance(inner, dict | list) and inner and rng.random() < 0.75:
        value[at] = _change(rng, inner)
        return value
    rng.choice((_replace, _replace, _replace, _replace, _remove, _add, _twice))(rng, value, at)
    return value


def _replace(rng: random.Random, value: Any, at: Any) -> None:
    old, kind = value[at], rng.random()
    if isinstance(old, int) and not isinstance(old, bool) and kind < 0.3:
        near = float(old) if abs(old) < 1 << 1000 else 0.0
        value[at] = rng.choice((old + 1, -old, old * 1000, near, str(old), bool(old)))
    elif isinstance(old, str) and kind < 0.3:
        value[at] = rng.choice((old.upper(), old[:-1], old + "x", old * 50, [old], " " + old))
    else:
        value[at] = copy.deepcopy(rng.choice(VALUES))


def _remove(rng: random.Random, value: Any, at: Any) -> None:
    del value[at]


def _add(rng: random.Random, value: Any, at: Any) -> None:
    new = copy.deepcopy(rng.choice(VALUES))
    if isinstance(value, dict):
        value[rng.choice(("x", "", f"{at}x", "__class__", "a" * 300, "\u202e"))] = new
    else:
        value.insert(rng.randrange(len(value) + 1), new)


def _twice(rng: random.Random, value: Any, at: Any) -> None:
    if isinstance(value, list):
        value.append(copy.deepcopy(value[at]))
    elif isinstance(at, str):
        value[at.swapcase()] = copy.deepcopy(value[at])


def content(rng: random.Random, good: bytes) -> bytes:
    """Bytes with one change."""
    return rng.choice(_CONTENT)(rng, good)


def _cut(rng: random.Random, good: bytes) -> bytes:
    return good[: rng.randrange(len(good) + 1)]


def _flip(rng: random.Random, good: bytes) -> bytes:
    changed = bytearray(good)
    for _ in range(rng.choice((1, 1, 4, 40))):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _insert(rng: random.Random, good: bytes) -> bytes:
    at = rng.randrange(len(good) + 1)
    piece = rng.choice(
        (b"\0", b"\xff", b"\xef\xbb\xbf", b"\r", b'"', b"{", b"[" * 5000, b"}", b",", b"\n" * 999,
         b"&a ", b"*a", b"!!python/name:os.system", b"'" * 99, b"#", b"=", b"\x1b]0;x\x07",
         b"9" * 400, b"- " * 400, b"\xed\xa0\x80", b"NaN", b"\\u0000", b"\\ud800", b"<html>"),
    )  # fmt: skip
    return good[:at] + piece + good[at:]


def _double(rng: random.Random, good: bytes) -> bytes:
    return good + good


def _run(rng: random.Random, good: bytes) -> bytes:
    start = rng.randrange(len(good) + 1)
    length = rng.choice((1, 8, 64, 4096))
    return good[:start] + rng.choice((b"\0", b"\xff", b"\x7f")) * length + good[start + length :]


def _other(rng: random.Random, good: bytes) -> bytes:
    return rng.choice(
        (b"", b"\xef\xbb\xbf" + good, good.decode("utf-8", "replace").encode("utf-16"), b"\0" * 99,
         b"<!doctype html><html></html>", b"version https://git-lfs.github.com/spec/v1\noid x\n",
         b"[" * 100_000, b'{"a":' * 50_000, b"a: " * 20_000, b"a." * 30_000 + b"a = 1",
         rng.randbytes(999))
    )  # fmt: skip


_CONTENT: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _cut, _flip, _flip, _flip, _insert, _insert, _double, _run, _run, _other,
)  # fmt: skip


def file(rng: random.Random, path: Path) -> None:
    """Put something in the place of ``path`` that is no plain file, or none that fits."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    match rng.choice(("folder", "pipe", "loop", "device", "nothing", "dangling", "large", "link")):
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "loop":
            path.symlink_to(path)
        case "device":
            path.symlink_to(rng.choice(("/dev/zero", "/dev/full", "/dev/tty", "/proc/kmsg")))
        case "dangling":
            path.symlink_to("nowhere/at/all")
        case "large":
            path.touch()
            os.truncate(path, 1 << rng.choice((26, 33, 42)))
        case "link":
            path.symlink_to("/proc/self/maps")


def to_json(value: Any) -> bytes:
    """JSON, with what JSON has not: surrogates as escapes, raw texts, numbers of any length."""
    return _json(value).encode("utf-8", "surrogatepass")


def _json(value: Any) -> str:
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key)}: {_json(inner)}" for key, inner in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_json, value)) + "]"
    return str(value) if isinstance(value, Raw) else json.dumps(value)


def to_toml(tables: Any) -> bytes:
    """TOML of a document: lists of tables as ``[[name]]``, all else in line."""
    if not isinstance(tables, dict):
        return to_json(tables)  # which is no TOML
    lines: list[str] = []
    for key, value in tables.items():
        tabled = isinstance(value, list) and value and all(isinstance(one, dict) for one in value)
        if tabled:
            for one in value:
                lines += [f"[[{json.dumps(key)}]]", *_pairs(one)]
        elif isinstance(value, dict):
            lines += [f"[{json.dumps(key)}]", *_pairs(value)]
        else:
            lines.insert(0, f"{json.dumps(key)} = {_toml(value)}")
    return "\n".join([*lines, ""]).encode("utf-8", "surrogatepass")


def _pairs(table: dict[str, Any]) -> list[str]:
    return [f"{json.dumps(key)} = {_toml(inner)}" for key, inner in table.items()]


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(_pairs(value)) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if value is None:
        return '""'
    return _json(value)
