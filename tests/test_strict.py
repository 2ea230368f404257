"""Every way in which a small file can be wrong is one error that names the file and the key."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from annotated_types import Ge, Le

from llama_hub import strict
from llama_hub.errors import DamagedFileError, InvalidFileError, NotFoundError
from llama_hub.schema import Pattern, conform

KIND = strict.FileKind("the sample", max_bytes=10_000, max_depth=8, max_values=500, hint="mend it")
Reader = Callable[[Path, strict.FileKind], Any]


def _folder(path: Path) -> None:
    path.mkdir()


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _endless(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


@pytest.mark.parametrize("make", [_folder, _fifo, _socket, _device, _loop, _endless])
def test_what_is_no_small_regular_file_is_refused_without_blocking(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    path = tmp_path / "file"
    make(path)
    with pytest.raises(DamagedFileError) as caught:
        strict.read_bytes(path, KIND)
    assert caught.value.file == str(path)
    assert str(path) in caught.value.message
    assert caught.value.hint == "mend it"


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"{}")
    (tmp_path / "link").symlink_to("blob")
    assert strict.read_json(tmp_path / "link", KIND) == {}


@pytest.mark.parametrize("missing", ["absent", "file/below", "dangling"])
def test_a_missing_file_is_not_found(missing: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(NotFoundError):
        strict.read_bytes(tmp_path / missing, KIND)


@pytest.mark.parametrize("name", ["a\0b", "a" * 5000])
def test_a_name_that_no_file_can_have_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DamagedFileError):
        strict.read_bytes(tmp_path / name, KIND)


def test_a_file_that_may_not_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.touch()

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)  # the tests may run as root, whom no mode keeps out
    with pytest.raises(DamagedFileError, match="Permission denied"):
        strict.read_bytes(path, KIND)


READERS: dict[str, Reader] = {
    "json": strict.read_json,
    "toml": strict.read_toml,
    "yaml": strict.read_yaml,
}
BAD: list[tuple[str, bytes]] = [
    ("json", b""),
    ("json", b"{"),
    ("json", b"\xff\xfe{\x00}\x00"),
    ("json", b"\xef\xbb\xbf{}"),
    ("json", b'{"a": "\x00"}'),
    ("json", b'{"a": "\\u0000"}'),
    ("json", b'{"a\\u0000": 1}'),
    ("json", b'{"a": "\\ud800"}'),
    ("json", b'{"a": 1, "a": 2}'),
    ("json", b'{"a": NaN}'),
    ("json", b'{"a": -Infinity}'),
    ("json", b'{"a": 1e999}'),
    ("json", b'{"a": ' + b"9" * 60 + b"}"),
    ("json", b'{"a": ' + b"9" * 5000 + b"}"),
    ("json", b"[" * 10 + b"]" * 10),
    ("json", b"[" * 4000 + b"]" * 4000),
    ("json", b"[" + b"0," * 600 + b"0]"),
    ("toml", b"a = "),
    ("toml", b"a = 1\na = 2"),
    ("toml", b"\xef\xbb\xbfa = 1"),
    ("toml", b"a = nan"),
    ("toml", b"a = " + b"9" * 5000),
    ("toml", b"a = " + b"[" * 4000),
    ("toml", b".".join([b"a"] * 4000) + b" = 1"),
    ("toml", b"[" + b" . ".join([b'"a"'] * 400) + b"]"),
    ("toml", b'a = "\\u0000"'),
    ("yaml", b"a: ["),
    ("yaml", b"a: 1\na: 2"),
    ("yaml", b"a: &x [1]\nb: *x"),
    ("yaml", b"a: &x\n  <<: *x"),
    ("yaml", b"a: .nan"),
    ("yaml", b"a: 2001-99-99"),
    ("yaml", b"a: 2001-01-01"),
    ("yaml", b"1: a"),
    ("yaml", b"? [a]\n: b"),
    ("yaml", b"? {a: b}\n: b"),
    ("yaml", b"a: !!python/object/apply:os.system [true]"),
    ("yaml", b"a: !!binary eA=="),
    ("yaml", b'a: !!int ""'),
    ("yaml", b"a: !!float x"),
    ("yaml", b"a: !!timestamp x"),
    ("yaml", b"a: !!set {b}"),
    ("yaml", b"--- a\n--- b"),
    ("yaml", b"[" * 4000),
    ("yaml", b"- " * 4000),
    ("yaml", b"{a: " * 2000),
    ("yaml", b"a: \x07"),
    ("yaml", b"a: " + b"9" * 5000),
]


@pytest.mark.parametrize(("format", "data"), BAD, ids=lambda value: repr(value)[:30])
def test_a_document_that_is_wrong_is_refused(format: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(DamagedFileError) as caught:
        READERS[format](path, KIND)
    assert caught.value.file == str(path)
    assert len(caught.value.message) < 1000


def test_too_many_values_are_refused_before_they_cost_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(strict.json, "loads", lambda *_, **__: pytest.fail("it was parsed"))
    for piece in ("[],", "{},", '"",', "1,"):
        with pytest.raises(DamagedFileError, match="more than 500 values"):
            strict.parse_json("[" + piece * 3000 + "0]", "f", KIND)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"a": {"b": [0, "\\u0000"]}}', "a.b.1"),
        ('{"a": [{"c": 1e300, "d": ' + "9" * 60 + "}]}", "a.0.d"),
    ],
)
def test_the_error_says_which_key(text: str, key: str) -> None:
    with pytest.raises(DamagedFileError) as caught:
        strict.parse_json(text, "somewhere", KIND)
    assert caught.value.key == key
    assert f"the sample somewhere: {key}: " in caught.value.message


def test_good_documents_pass(tmp_path: Path) -> None:
    (tmp_path / "j").write_text(json.dumps({"a": [1, 2.5, None, True, "ä"], "b": {"c": 10**30}}))
    (tmp_path / "t").write_text('a = [1, 2.5]\n[b]\nc = "x"\n')
    (tmp_path / "y").write_text("a: [1, 2.5, ~]\nb:\n  c: yes\n")
    assert strict.read_json(tmp_path / "j", KIND)["b"] == {"c": 10**30}
    assert strict.read_toml(tmp_path / "t", KIND) == {"a": [1, 2.5], "b": {"c": "x"}}
    assert strict.read_yaml(tmp_path / "y", KIND) == {"a": [1, 2.5, None], "b": {"c": True}}


@dataclass(frozen=True)
class Part:
    count: Annotated[int, Ge(0), Le(strict.MAX_INT)]
    ratio: float = 1.0


@dataclass(frozen=True)
class Whole:
    name: Annotated[str, Pattern("[a-z]+", "lower case letters")]
    parts: tuple[Part, ...]
    ready: bool = False

    __pydantic_config__ = {"extra": "forbid"}


def test_a_document_becomes_the_dataclass_it_describes() -> None:
    document = {"name": "x", "parts": [{"count": 1, "ratio": 2}]}
    assert conform(Whole, document, "f", KIND) == Whole("x", (Part(1, 2.0),))


@pytest.mark.parametrize(
    ("change", "key", "words"),
    [
        ({"name": None}, "name", "string"),
        ({"name": 1}, "name", "string"),
        ({"name": "A"}, "name", "must be lower case letters (given: 'A')"),
        ({"name": "x" * 100_000 + "\n"}, "name", "must be lower case letters"),
        ({"parts": {}}, "parts", "array"),
        ({"parts": None}, "parts", "array"),
        ({"parts": [{"count": True}]}, "parts.0.count", "integer"),
        ({"parts": [{"count": "1"}]}, "parts.0.count", "integer"),
        ({"parts": [{"count": 1.0}]}, "parts.0.count", "integer"),
        ({"parts": [{"count": -1}]}, "parts.0.count", "greater than or equal to 0"),
        ({"parts": [{"count": 2**63}]}, "parts.0.count", "less than or equal to"),
        ({"parts": [{}]}, "parts.0.count", "is missing"),
        ({"parts": [{"count": 1, "ratio": "2"}]}, "parts.0.ratio", "number"),
        ({"ready": 1}, "ready", "boolean"),
        ({"readdy": True}, "readdy", "unknown key; did you mean 'ready'?"),
    ],
)
def test_a_wrong_type_is_named_with_its_key(change: dict[str, Any], key: str, words: str) -> None:
    with pytest.raises(DamagedFileError) as caught:
        conform(Whole, {"name": "x", "parts": []} | change, "f", KIND)
    assert caught.value.key == key
    assert words in caught.value.message


@pytest.mark.parametrize("document", [None, [], "text", 1, True])
def test_a_document_of_another_shape_is_refused(document: Any) -> None:
    with pytest.raises(InvalidFileError):
        conform(Whole, document, "f", strict.text_kind("the sample"))


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(DamagedFileError, match=r"name: is missing; parts: is missing") as caught:
        conform(Whole, {}, "f", KIND)
    assert caught.value.exit_code == 5
