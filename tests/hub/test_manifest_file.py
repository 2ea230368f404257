"""``llama-hub.json`` as somebody else may write it: every wrong value is exit 5 with its key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_hub.errors import DamagedFileError
from llama_hub.hub import manifest
from llama_hub.hub.manifest import MANIFEST_NAME, FileEntry, Manifest, TensorEntry
from tests.support.command import run

HASH = "0123456789abcdef" * 4
GOOD = Manifest(
    model="acme-7b",
    format="hf",
    license="llama-hub-demo",
    files=(FileEntry("config.json", 12, HASH, md5=HASH[:32], blocks=("0123abcd",)),),
    tensors=(TensorEntry("output.weight", "bfloat16", (4, 8), HASH),),
    parent=f"sha256:{HASH}",
    made_by={"operation": "convert", "context": 4096, "parameters": {"quantize": "int8"}},
    source={"kind": "mirror", "lacks": ["NOTICE"]},
)


RECORD = {"receipt", "created", "source", "digest"}  # not part of the identity


def sealed(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The document with ``changes`` and, where one can be made, a digest that fits them."""
    document = {**GOOD.to_json(), **changes}
    identity = {key: value for key, value in document.items() if key not in RECORD}
    try:
        identity["files"] = [
            {key: entry[key] for key in ("path", "size", "sha256")} for entry in identity["files"]
        ]
        digest = hashlib.sha256(manifest.canonical(identity)).hexdigest()
    except (KeyError, TypeError, ValueError):
        return document
    return {**document, "digest": f"sha256:{digest}"} if "digest" not in changes else document


FILE = {"path": "a", "size": 1, "sha256": HASH}
TENSOR = {"name": "t", "dtype": "float16", "shape": [1], "sha256": HASH}
BAD: list[dict[str, Any]] = [
    *({"model": value} for value in (None, 1, [], {}, "", "A", "x" * 5000)),
    *({"format": value} for value in (None, 1, "zip", ["hf"])),
    *({"license": value} for value in (None, 1, [], "", "../x", "x" * 5000)),
    *({"files": value} for value in (None, {}, "x", 1, [None], [[]], ["a"])),
    *({"files": [{**FILE, "size": value}]} for value in (None, -1, 2**63, 1.0, "1", True, [1])),
    *({"files": [{**FILE, "sha256": value}]} for value in (None, 1, "", HASH.upper(), HASH[:63])),
    *({"files": [{**FILE, "path": value}]} for value in (None, 1, "", "\0", "../x", "x" * 5000)),
    *({"files": [{**FILE, "md5": value}]} for value in (1, "x", [])),
    *({"files": [{**FILE, "pinned": value}]} for value in (1, "yes", None)),
    *({"files": [{**FILE, "blocks": value}]} for value in (1, "x", [1], ["x"], {}, [None])),
    *({"tensors": value} for value in (None, {}, 1, [None])),
    *(
        {"tensors": [{**TENSOR, "shape": value}]}
        for value in (None, 1, ["1"], [-1], [2**63], [1.5])
    ),
    *({"tensors": [{**TENSOR, "name": value}]} for value in (None, 1, [])),
    *({"parent": value} for value in (1, "x", [], "sha256:x")),
    *({"made_by": value} for value in (None, 1, [], "x")),
    *({"made_by": {"context": value}} for value in ("x", -1, 2**63, True)),
    *({"made_by": {"parameters": value}} for value in (1, [], {"quantize": []})),
    *({"source": value} for value in (None, 1, [], {"lacks": 1}, {"lacks": [1]}, {"kind": {}})),
    *({"receipt": value} for value in (1, [], {})),
    *({"created": value} for value in (1, [], {})),
    *({"schema": value} for value in (2, None, "1", True)),
    *({"digest": value} for value in (None, 1, "x", f"sha256:{'0' * 64}")),
]


@pytest.mark.parametrize("changes", BAD, ids=lambda value: repr(value)[:60])
def test_a_wrong_value_is_named_with_its_key(changes: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(sealed(changes)))
    with pytest.raises(DamagedFileError) as caught:
        manifest.read(tmp_path)
    assert caught.value.file == str(tmp_path / MANIFEST_NAME)
    assert caught.value.key.split(".")[0] == next(iter(changes))


@pytest.mark.parametrize("key", sorted(set(GOOD.to_json()) - {"receipt", "created"}))
def test_a_missing_key_is_named(key: str, tmp_path: Path) -> None:
    document = GOOD.to_json()
    del document[key]
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(document))
    # Without tensors or parent it is a good manifest, but another one than the digest says.
    problem = "was edited" if key in ("tensors", "parent") else f"{key}: is missing"
    with pytest.raises(DamagedFileError, match=problem):
        manifest.read(tmp_path)


def test_a_good_one_is_itself(tmp_path: Path) -> None:
    GOOD.write(tmp_path)
    assert manifest.read(tmp_path) == GOOD


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**100), 2**100))
def test_numbers_in_free_tables_keep_their_value(number: float, whole: int) -> None:
    made = Manifest("x", "hf", "other-open", (), made_by={"a": number, "b": whole})
    assert manifest.parse(json.loads(json.dumps(made.to_json())), "here") == made


@pytest.mark.parametrize("command", ["verify", "serve"])
def test_the_command_line_says_file_and_key(command: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(sealed({"files": [{**FILE, "size": True}]})))
    done = run(command, str(tmp_path), "--json")
    assert done.code == 5
    message = done.json["error"]["message"]
    assert str(tmp_path / MANIFEST_NAME) in message
    assert "files.0.size" in message
