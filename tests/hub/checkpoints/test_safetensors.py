"""Safetensors: the library that defined them agrees with what is written; bad ones are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from llama_hub.errors import IntegrityError
from llama_hub.hub.checkpoints.safetensors import header, read_header
from tests.support.tiers import examples


def test_reads_what_the_library_wrote(tmp_path: Path) -> None:
    saved = {
        "a": torch.randn(3, 5).bfloat16(),
        "b": torch.randn(7).half(),
        "c": torch.randn(2, 2, 2),
        "d": torch.arange(4),
    }
    path = tmp_path / "x.safetensors"
    save_file(saved, path, metadata={"format": "pt"})
    tensors, metadata = read_header(path)
    assert metadata == {"format": "pt"}
    data = path.read_bytes()
    for name, tensor in saved.items():
        entry = tensors[name]
        assert entry.shape == tuple(tensor.shape)
        raw = data[entry.offset : entry.offset + entry.size]
        assert raw == tensor.view(torch.uint8).numpy().tobytes()
    assert [tensors[name].dtype for name in "abcd"] == ["bfloat16", "float16", "float32", "int64"]


shapes = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1, max_size=6)


@settings(max_examples=examples(10, 100), deadline=None)
@given(shapes, st.data())
def test_the_library_reads_what_is_written(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[list[int]], data: st.DataObject
) -> None:
    dtypes = data.draw(
        st.lists(
            st.sampled_from(["bfloat16", "float16", "float32"]),
            min_size=len(wanted),
            max_size=len(wanted),
        )
    )
    listed = [(f"t{number}", dtypes[number], shape) for number, shape in enumerate(wanted)]
    sizes = [int(np.prod(shape)) * (4 if kind == "float32" else 2) for _, kind, shape in listed]
    head = header(listed, {"format": "pt"})
    assert len(head) % 64 == 0
    body = bytes(range(1, 251)) * (sum(sizes) // 250 + 1)
    path = tmp_path_factory.mktemp("st") / "x.safetensors"
    path.write_bytes(head + body[: sum(sizes)])
    at = 0
    with safe_open(path, "pt") as opened:
        for (name, kind, shape), size in zip(listed, sizes, strict=True):
            tensor = opened.get_tensor(name)
            assert str(tensor.dtype) == f"torch.{kind}"
            assert list(tensor.shape) == shape
            assert tensor.view(torch.uint8).numpy().tobytes() == body[at : at + size]
            at += size
    assert {name: entry.dtype for name, entry in read_header(path)[0].items()} == {
        name: kind for name, kind, _ in listed
    }


def raw(path: Path, document: Any, body: int = 16, text: bytes | None = None) -> Path:
    encoded = text if text is not None else json.dumps(document).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + bytes(body))
    return path


def entry(
    begin: int, end: int, shape: list[Any] | None = None, dtype: str = "F16"
) -> dict[str, Any]:
    shape = [(end - begin) // 2] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"a": entry(0, 8), "b": entry(4, 16)}, "overlap"),
        ({"a": entry(0, 6), "b": entry(8, 16)}, "hole"),
        ({"a": entry(0, 8)}, "should have"),
        ({"a": entry(0, 32)}, "should have"),
        ({"a": entry(8, 16)}, "hole"),
        ({"a": entry(16, 0, [0])}, "wrong"),
        ({"a": entry(0, 16, [7])}, "wrong"),
        ({"a": entry(0, 16, [-8])}, "wrong"),
        ({"a": entry(0, 16, [8.0])}, "wrong"),
        ({"a": entry(0, 16, [True, 8])}, "wrong"),
        ({"a": entry(0, 16, [1 << 70])}, "wrong"),
        ({"a": entry(0, 16, dtype="F17")}, "wrong"),
        ({"a": entry(0, 16) | {"more": 1}}, "wrong"),
        ({"a": [1, 2]}, "wrong"),
        ({"a": entry(0, 16), "__metadata__": {"n": 1}}, "metadata"),
        ({"a": entry(0, 16), "__metadata__": []}, "metadata"),
    ],
)
def test_unsound_headers_are_refused(tmp_path: Path, document: Any, why: str) -> None:
    with pytest.raises(IntegrityError, match=why):
        read_header(raw(tmp_path / "x.safetensors", document))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b'{"a":{},"a":{}}', "twice"),
        (b"[1,2]", "begin with"),
        (b'{"a":', "not JSON"),
        (b'{"\xff":1}', "not JSON"),
        (b"{" + b'"a":[' * 100000, "not JSON"),
    ],
)
def test_headers_that_are_no_json_are_refused(tmp_path: Path, text: bytes, why: str) -> None:
    with pytest.raises(IntegrityError, match=why):
        read_header(raw(tmp_path / "x.safetensors", None, text=text))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "length"),
        (b"\x10\0\0\0\0\0\0\0{}", "length"),
        ((1 << 60).to_bytes(8, "little") + b"{}", "length"),
        ((100_000_001).to_bytes(8, "little") + b"{}", "length"),
        (b"<html>no</html>" + bytes(20), "web page"),
    ],
)
def test_what_is_no_safetensors_file_is_named(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=why):
        read_header(path)
