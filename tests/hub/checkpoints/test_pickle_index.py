"""The index over a .pth: what torch wrote is found where it is, and nothing is ever run."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_hub.errors import IntegrityError, UnsafePickleError
from llama_hub.hub.checkpoints.pickle_index import StoredTensor, read_index
from llama_hub.hub.checkpoints.pickle_machine import read_pickle

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def read_back(found: StoredTensor) -> torch.Tensor:
    """The tensor by offset, shape and stride alone."""
    raw = np.fromfile(found.record.path, np.uint8)
    bits = np.dtype(np.uint32 if found.dtype == "float32" else np.uint16)
    strides = tuple(step * bits.itemsize for step in found.stride)
    view = np.ndarray(found.shape, bits, raw.tobytes(), found.offset, strides)
    return torch.from_numpy(view.copy().view(np.int32 if bits.itemsize == 4 else np.int16))


def same(tensor: torch.Tensor, found: StoredTensor) -> bool:
    as_bits = tensor.contiguous().view(torch.int32 if found.dtype == "float32" else torch.int16)
    return torch.equal(as_bits, read_back(found))


@pytest.mark.parametrize("dtype", DTYPES)
def test_finds_what_torch_saved(tmp_path: Path, dtype: str) -> None:
    saved = {"a": torch.randn(3, 5).to(DTYPES[dtype]), "b": torch.randn(7).to(DTYPES[dtype])}
    torch.save(saved, tmp_path / "x.pth")
    index = read_index(tmp_path / "x.pth")
    assert set(index) == {"a", "b"}
    for name, tensor in saved.items():
        assert (index[name].dtype, index[name].shape) == (dtype, tuple(tensor.shape))
        assert index[name].is_whole_record
        assert same(tensor, index[name])


def test_honours_offset_and_stride_of_views_into_one_storage(tmp_path: Path) -> None:
    flat = torch.randn(100).bfloat16()
    saved = {
        "head": flat[:12].view(3, 4),
        "tail": flat[40:70].view(5, 6),
        "slice": flat.view(10, 10)[2:6, 3:7],
        "transposed": flat[:20].view(4, 5).T,
    }
    torch.save(saved, tmp_path / "x.pth")
    index = read_index(tmp_path / "x.pth")
    assert {found.record.name for found in index.values()} == {"x/data/0"}
    for name, tensor in saved.items():
        assert same(tensor, index[name]), name
        assert not index[name].is_whole_record


def test_reads_ordered_dictionaries_parameters_and_metadata(tmp_path: Path) -> None:
    state = torch.nn.Linear(4, 3).half().state_dict()
    state["extra"] = torch.nn.Parameter(torch.ones(2, 2))
    torch.save(state, tmp_path / "x.pth")
    assert set(read_index(tmp_path / "x.pth")) == {"weight", "bias", "extra"}


def test_reads_every_pickle_protocol(tmp_path: Path) -> None:
    for protocol in (2, 3, 4, 5):
        torch.save({"a": torch.ones(2)}, tmp_path / "x.pth", pickle_protocol=protocol)
        assert read_index(tmp_path / "x.pth")["a"].shape == (2,)


class Command:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


class Builtin:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call[0], self.call[1:]


def test_a_pickle_that_calls_os_system_is_refused_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save({"a": torch.ones(2), "b": Command(marker)}, tmp_path / "x.pth")
    with pytest.raises(UnsafePickleError, match="system") as refused:
        read_index(tmp_path / "x.pth")
    assert "x.pth" in refused.value.message
    assert not marker.exists()


@pytest.mark.parametrize(
    "evil",
    [
        Builtin(eval, "1"),
        Builtin(getattr, OrderedDict, "fromkeys"),
        Builtin(bytearray, 10),
        Builtin(np.array, [1]),
        Builtin(OrderedDict, [("a", 1)]),
        slice(1, 2),
        complex(1, 2),
        {1, 2},
        object(),
    ],
    ids=lambda one: type(one).__name__,
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_anything_beyond_tensors_is_refused(evil: object, protocol: int) -> None:
    with pytest.raises(UnsafePickleError):
        read_pickle(pickle.dumps({"a": evil}, protocol=protocol), "here")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02",
        b"\x80\x02}",
        b"\x80\x02.",
        b"\x80\x02(t",
        b"\x80\x02K\x01h\x05.",
        b"\x80\x02}(K\x01K\x02u.",
        b"\x80\x02}X\x01\x00\x00\x00as.",
        b"\x80\x02(lp0\n.",
        b"\xff" * 40,
        b"\x80\x02Q.",
        b"\x80\x02ctorch\nFloatStorage\n)R.",
    ],
)
def test_torn_pickles_are_integrity_errors(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        read_pickle(data, "here")


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_crash_the_machine(data: bytes) -> None:
    try:
        read_pickle(b"\x80\x02" + data, "here")
    except IntegrityError:
        pass


def archive(path: Path, members: dict[str, bytes], **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def pickled(shape: tuple[int, ...], stride: tuple[int, ...], offset: int, count: int) -> bytes:
    """``data.pkl`` with one tensor ``a``, by torch itself, then with these sizes instead."""
    from llama_hub.hub.checkpoints import torch_zip

    sizes = torch_zip._sizes  # the writer's opcodes, here with impossible values
    storage = (
        b"(" + torch_zip._text("storage") + torch_zip._global("torch", "FloatStorage")
        + torch_zip._text("0") + torch_zip._text("cpu") + torch_zip._whole(count) + b"tQ"
    )  # fmt: skip
    tensor = torch_zip._global("torch._utils", "_rebuild_tensor_v2") + b"(" + storage
    tensor += torch_zip._whole(offset) + sizes(shape) + sizes(stride) + b"\x89NtR"
    return b"\x80\x02}" + torch_zip._text("a") + tensor + b"s."


@pytest.mark.parametrize(
    ("shape", "stride", "offset", "count"),
    [
        ((4, 4), (4, 1), 1, 16),  # one too far
        ((4, 5), (4, 1), 0, 16),
        ((4, 4), (400, 1), 0, 16),
        ((4, 4), (4,), 0, 16),
        ((4, 4), (4, 1), 0, 17),  # more than is stored
        ((-4, 4), (4, 1), 0, 16),
        ((4, 4), (-4, 1), 12, 16),
        ((1 << 40, 1 << 40), (1, 1), 0, 16),
    ],
)
def test_tensors_outside_their_storage_are_refused(
    tmp_path: Path, shape: tuple[int, ...], stride: tuple[int, ...], offset: int, count: int
) -> None:
    members = {"x/data.pkl": pickled(shape, stride, offset, count), "x/data/0": bytes(64)}
    with pytest.raises(IntegrityError):
        read_index(archive(tmp_path / "x.pth", members))


def test_the_crafted_archive_is_otherwise_sound(tmp_path: Path) -> None:
    members = {"x/data.pkl": pickled((4, 4), (4, 1), 0, 16), "x/data/0": bytes(64)}
    assert read_index(archive(tmp_path / "x.pth", members))["a"].shape == (4, 4)


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"x/data/0": b""}, "data.pkl"),
        ({"x/data.pkl": pickled((4, 4), (4, 1), 0, 16)}, "missing"),
        ({"x/data.pkl": pickle.dumps([1], protocol=2)}, "dictionary"),
        ({"x/data.pkl": pickle.dumps({"a": 1}, protocol=2)}, "no tensor"),
        (
            {
                "x/data.pkl": pickled((4, 4), (4, 1), 0, 16),
                "x/data/0": bytes(64),
                "x/byteorder": b"big",
            },
            "little-endian",
        ),
    ],
)
def test_unfit_archives_are_refused(tmp_path: Path, members: dict[str, bytes], why: str) -> None:
    with pytest.raises(IntegrityError, match=why):
        read_index(archive(tmp_path / "x.pth", members))


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    members = {"x/data.pkl": pickled((4, 4), (4, 1), 0, 16), "x/data/0": bytes(64)}
    path = archive(tmp_path / "x.pth", members, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(IntegrityError, match="compressed"):
        read_index(path)


def test_overlapping_members_are_refused(tmp_path: Path) -> None:
    """Two directory entries for one run of bytes, as zip bombs have them."""
    members = {"x/data.pkl": pickled((4, 4), (4, 1), 0, 16), "x/data/0": bytes(64)}
    data = archive(tmp_path / "x.pth", members).read_bytes()
    at = data.rindex(b"PK\x05\x06")
    start = struct.unpack_from("<I", data, at + 16)[0]
    entries = data[start:at]
    second = entries[entries.index(b"PK\x01\x02", 4) :]
    doubled = entries + second.replace(b"x/data/0", b"x/data/1")
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 3, 3, len(doubled), start, 0)
    (tmp_path / "x.pth").write_bytes(data[:start] + doubled + end)
    with pytest.raises(IntegrityError, match="overlaps"):
        read_index(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"<!DOCTYPE html><html>expired</html>", "web page"),
        (b"\n  <html></html>", "web page"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "damaged"),
        (b"", "does not begin as a zip"),
        (b"PK\x03\x04" + bytes(100), "damaged"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=why):
        read_index(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(100, 100)}, buffer)
    for keep in (0.3, 0.9, 0.999):
        data = buffer.getvalue()
        (tmp_path / "x.pth").write_bytes(data[: int(len(data) * keep)])
        with pytest.raises(IntegrityError, match="damaged"):
            read_index(tmp_path / "x.pth")
