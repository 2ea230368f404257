"""The .pth files that are written: torch loads them, zip tools find nothing wrong."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import pytest
import torch

from llama_hub.hub.checkpoints import torch_zip
from llama_hub.hub.checkpoints.pickle_index import read_index
from llama_hub.hub.checkpoints.torch_zip import TensorRecord

TORCH = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def written(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    records = [
        TensorRecord(name, str(one.dtype).removeprefix("torch."), tuple(one.shape), one.nbytes)
        for name, one in tensors.items()
    ]
    contents = {"x/data.pkl": torch_zip.pickled(records), "x/byteorder": b"little"}
    for key, one in enumerate(tensors.values()):
        contents[f"x/data/{key}"] = one.view(torch.uint8).numpy().tobytes()
    contents["x/version"] = b"3\n"
    data, members = bytearray(), []
    for name, content in contents.items():
        member = torch_zip.member(name, len(content), len(data))
        members.append(member)
        data += member.header + content
        at, crc = member.seal(zlib.crc32(content))
        data[at : at + 4] = crc
    crcs = {name: zlib.crc32(content) for name, content in contents.items()}
    path.write_bytes(data + torch_zip.directory(members, crcs, len(data)))
    return path


@pytest.mark.parametrize("dtype", TORCH)
def test_torch_loads_it_safely_and_mapped(tmp_path: Path, dtype: str) -> None:
    tensors = {
        "layers.0.attention.wq.weight": torch.randn(6, 4).to(TORCH[dtype]),
        "norm.weight": torch.randn(5).to(TORCH[dtype]),
    }
    path = written(tmp_path / "x.pth", tensors)
    for options in ({}, {"mmap": True}):
        loaded = torch.load(path, weights_only=True, **options)
        assert list(loaded) == list(tensors)
        for name, tensor in tensors.items():
            assert loaded[name].dtype == tensor.dtype
            assert torch.equal(loaded[name], tensor)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    assert all(found.record.offset % 64 == 0 for found in read_index(path).values())


def test_sizes_and_offsets_beyond_four_gigabytes(tmp_path: Path) -> None:
    """A sparse archive of 9 GB: zip tools and torch's own reader find the last member."""
    first = torch_zip.member("x/data/0", (4 << 30) + 8, 0)
    second = torch_zip.member("x/version", 2, first.end)
    path = tmp_path / "x.pth"
    with path.open("wb") as file:
        for member in (first, second):
            file.seek(member.header_at)
            file.write(member.header)
        file.write(b"3\n")
        crcs = {first.name: 0, second.name: zlib.crc32(b"3\n")}
        at, crc = second.seal(crcs[second.name])
        file.seek(second.end)
        file.write(torch_zip.directory([first, second], crcs, second.end))
        file.seek(at)
        file.write(crc)
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("x/data/0").file_size == (4 << 30) + 8
        assert archive.getinfo("x/version").header_offset > 1 << 32
        assert archive.read("x/version") == b"3\n"
    reader = torch._C.PyTorchFileReader(str(path))
    assert reader.get_record("version") == b"3\n"
