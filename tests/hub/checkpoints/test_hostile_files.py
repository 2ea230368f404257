"""Files that cost more than they are worth: a few bytes that stand for seconds or gigabytes.

Each is made when its test runs, is read in a process that may use 5 seconds and 512 MiB, and is
refused by name (exit 5).
"""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_hub.errors import IntegrityError
from llama_hub.hub import digests
from llama_hub.hub.checkpoints import diagnosis
from tests.support.limited import Limited, limited

PARAMS = {"dim": 8, "n_layers": 1, "n_heads": 2, "norm_eps": 1e-5, "vocab_size": -1}


@pytest.fixture(scope="module")
def reader() -> Iterator[Limited]:
    with limited() as running:
        yield running


def refused(reader: Limited, what: str, path: Path, name: str) -> str:
    """The refusal, which names the file."""
    ending = reader.run(what, path)
    assert ending.code == 5, ending
    assert name in ending.message
    assert len(ending.message) < 1000
    return ending.message


# Pickles


def _doubled(times: int) -> bytes:
    """A tuple of twice itself, so many times: its text has 2**times letters."""
    return b"K\x01" + b"q\x00h\x00\x86" * times


BOMB = _doubled(100)
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
KIND = b"X\x07\x00\x00\x00storage"
KEY = b"X\x01\x00\x00\x000"
STORAGE = b"(" + KIND + b"ctorch\nFloatStorage\n" + KEY + b"X\x03\x00\x00\x00cpuK\x01tQ"
ORDERED = b"ccollections\nOrderedDict\n"
HOOKS = b"\x89" + ORDERED + b")R"


def _tensor(shape: bytes, stride: bytes) -> bytes:
    return (
        b"\x80\x02}(X\x01\x00\x00\x00a"
        + REBUILD + b"(" + STORAGE + b"K\x00" + shape + stride + HOOKS + b"tRu."
    )  # fmt: skip


PICKLES = {
    "a module that is a bomb": lambda: b"\x80\x02" + BOMB + b"X\x01\x00\x00\x00a\x93.",
    "a name that is a bomb": lambda: b"\x80\x02X\x01\x00\x00\x00a" + BOMB + b"\x93.",
    "a call with a bomb": lambda: b"\x80\x02" + ORDERED + BOMB + b"R.",
    "a call of a bomb": lambda: b"\x80\x02" + BOMB + b")R.",
    "a key that is a bomb": lambda: b"\x80\x02}" + BOMB + b"K\x01s.",
    "a storage that is a bomb": lambda: b"\x80\x02" + BOMB + b"Q.",
    "a storage whose key is a bomb": lambda: b"\x80\x02" + STORAGE.replace(KEY, BOMB) + b".",
    "a storage whose kind is a bomb": lambda: b"\x80\x02" + STORAGE.replace(KIND, BOMB) + b".",
    "a shape that is a bomb": lambda: _tensor(BOMB, b")"),
    "300,000 dimensions": lambda: _tensor(b"(" + b"K\x02" * 300_000 + b"t", b")"),
    "a shape that is a list": lambda: _tensor(b"](" + b"K\x02" * 300_000 + b"e", b")"),
    "a stride that repeats one element": lambda: _tensor(
        b"\x8a\x06\xff\xff\xff\xff\xff\x0f\x85", b"K\x00\x85"
    ),
    "lists": lambda: b"\x80\x02" + b"]" * 4_000_000,
    "dictionaries": lambda: b"\x80\x02" + b"}" * 4_000_000,
    "marks": lambda: b"\x80\x02" + b"(" * 4_000_000,
    "tuples in tuples": lambda: b"\x80\x02K\x01" + b"\x85" * 4_000_000 + b".",
    "a memo": lambda: b"\x80\x02K\x01" + b"\x94" * 4_000_000 + b".",
    "doubled lists": lambda: b"\x80\x02]q\x00" + b"(" + b"h\x00" * 1_000_000 + b"e.",
    "LONG4 too long": lambda: b"\x80\x02\x8b\xff\xff\xff\x7f",
    "LONG4 of a negative length": lambda: b"\x80\x02\x8b\xff\xff\xff\xff1.",
    "LONG4 of a million bytes": lambda: b"\x80\x02\x8b\x40\x42\x0f\x00"
    + b"\x7f" * 1_000_000
    + b".",
    "a decimal number": lambda: b"\x80\x02L" + b"9" * 3_000_000 + b"L\n.",
    "a text of 2**62 bytes": lambda: b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"x.",
    "bytes of 2**62": lambda: b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.",
    "a text that is not UTF-8": lambda: b"\x80\x02X"
    + struct.pack("<I", 3_000_000)
    + b"\xff" * 3_000_000,
    "a global of a million letters": lambda: b"\x80\x02c" + b"x" * 1_000_000 + b"\ny\n.",
    "a name of a million letters": lambda: b"\x80\x02X"
    + struct.pack("<I", 1_000_000)
    + b"x" * 1_000_000
    + b"X\x01\x00\x00\x00a\x93.",
    "nothing": lambda: b"",
    "no pickle": lambda: b"x" * 1000,
}  # fmt: skip


def _pth(path: Path, pickle: bytes, members: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickle)
        for name, data in (members or {"x/data/0": b"\0" * 4}).items():
            archive.writestr(name, data)
    return path


def _meta(folder: Path) -> Path:
    (folder / "params.json").write_text(json.dumps(PARAMS))
    return folder / "consolidated.00.pth"


@pytest.mark.parametrize("kind", PICKLES)
def test_no_pickle_costs_more_than_it_is_worth(reader: Limited, tmp_path: Path, kind: str) -> None:
    _pth(_meta(tmp_path), PICKLES[kind]())
    refused(reader, "open", tmp_path, "consolidated.00.pth")


def test_tensors_that_share_their_bytes_do_not_stand_for_terabytes(
    reader: Limited, tmp_path: Path
) -> None:
    tensor = REBUILD + b"(" + STORAGE.replace(b"K\x01tQ", b"J\x00\x00\x04\x00tQ") + b"K\x00"
    tensor += b"J\x00\x00\x04\x00\x85K\x01\x85" + HOOKS + b"tR"
    names = b"".join(b"X\x05\x00\x00\x00%05dh\x01" % number for number in range(20_000))
    pickle = b"\x80\x02" + tensor + b"q\x01}(" + names + b"u."
    _pth(_meta(tmp_path), pickle, {"x/data/0": bytes(1 << 20)})
    assert "and it holds" in refused(reader, "open", tmp_path, "consolidated.00.pth")


# Zips


def _entry(number: int, offset: int) -> bytes:
    return struct.pack(
        "<4sHHHHHHIIIHHHHHII", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, offset
    ) + b"%08d" % number  # fmt: skip


def _directory(count: int, stated: int | None = None) -> bytes:
    entries = b"".join(_entry(number, 0) for number in range(count))
    end = struct.pack(
        "<4sHHHHIIH", b"PK\x05\x06", 0, 0, 0, 0, len(entries) if stated is None else stated, 38, 0
    )
    return b"PK\x03\x04" + bytes(26) + b"00000000" + entries + end


ZIPS = {
    "a directory of 500,000 members": lambda: _directory(500_000),
    "a directory of 60,000 members": lambda: _directory(60_000),
    "a directory larger than the file": lambda: _directory(1, 0xFFFFFFF0),
    "zip64 with impossible offsets": lambda: b"PK\x03\x04" + bytes(100)
    + struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, 1 << 63, 1 << 63)
    + struct.pack("<4sIQI", b"PK\x06\x07", 0, 104, 1)
    + struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0),
    "nothing but a beginning": lambda: b"PK\x03\x04" + bytes(60),
    "torch before 1.6": lambda: b"\x80\x02" + bytes(100),
    "a web page": lambda: b"<!doctype html>",
    "nothing": lambda: b"",
}  # fmt: skip


@pytest.mark.parametrize("kind", ZIPS)
def test_no_zip_costs_more_than_it_is_worth(reader: Limited, tmp_path: Path, kind: str) -> None:
    _meta(tmp_path).write_bytes(ZIPS[kind]())
    refused(reader, "open", tmp_path, "consolidated.00.pth")


def test_a_zip_bomb_is_not_unpacked(reader: Limited, tmp_path: Path) -> None:
    with zipfile.ZipFile(_meta(tmp_path), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(1 << 26))
    assert "compressed" in refused(reader, "open", tmp_path, "consolidated.00.pth")


# safetensors

CONFIG = {
    "model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 16, "vocab_size": 8,
}  # fmt: skip


def _hf(folder: Path) -> Path:
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder / "model.safetensors"


def _header(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _shaped(shape: str) -> bytes:
    return _header(f'{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,4]}}}}'.encode())


SAFETENSORS = {
    "300,000 dimensions": lambda: _shaped(f"[{','.join(['9'] * 300_000)}]") + bytes(4),
    "dimensions of 2**62": lambda: _shaped(f"[{','.join([str(1 << 61)] * 8)}]") + bytes(4),
    "a dimension of 4,000 digits": lambda: _shaped(f"[{'9' * 4000}]") + bytes(4),
    "a dimension of 100,000 digits": lambda: _shaped(f"[{'9' * 100_000}]") + bytes(4),
    "a shape that is an object": lambda: _shaped("{}") + bytes(4),
    "1.7 million keys": lambda: _header(
        b"{" + b",".join(b'"%d":{}' % number for number in range(1_700_000)) + b"}"
    ),
    "400,000 keys": lambda: _header(
        b"{" + b",".join(b'"%d":{}' % number for number in range(350_000)) + b"}"
    ),
    "a million lists": lambda: _header(b'{"a":[' + b"[]," * 1_300_000 + b"[]]}"),
    "lists in lists": lambda: _header(b'{"a":' + b"[" * 2_000_000 + b"]" * 2_000_000 + b"}"),
    "the same key": lambda: _header(b'{"a":{},"a":{}}'),
    "a key of 4 MB": lambda: _header(b'{"' + b"x" * 4_000_000 + b'":{}}'),
    "a dtype of 4 MB": lambda: _header(b'{"a":{"dtype":"' + b"x" * 4_000_000
        + b'","shape":[1],"data_offsets":[0,4]}}') + bytes(4),
    "a length of 2**63": lambda: struct.pack("<Q", 1 << 63) + b"{}",
    "no JSON": lambda: _header(b"{" + b"x" * 1000),
    "not UTF-8": lambda: _header(b'{"' + b"\xff" * 3_000_000),
    "a list": lambda: _header(b"[]"),
    "nothing": lambda: b"",
}  # fmt: skip


@pytest.mark.parametrize("kind", SAFETENSORS)
def test_no_safetensors_costs_more_than_it_is_worth(
    reader: Limited, tmp_path: Path, kind: str
) -> None:
    _hf(tmp_path).write_bytes(SAFETENSORS[kind]())
    refused(reader, "open", tmp_path, "model.safetensors")


# GGUF


def _gguf(tensors: int, pairs: int, rest: bytes = b"", padding: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs) + rest + bytes(padding)


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _array(kind: int, count: int, content: bytes = b"") -> bytes:
    return _string(b"k") + struct.pack("<IIQ", 9, kind, count) + content


MB = 1 << 20
GGUFS = {
    "2**24 tensors": lambda: _gguf(1 << 24, 0, padding=20 * MB),
    "2**63 tensors": lambda: _gguf(1 << 63, 0),
    "2**24 pairs": lambda: _gguf(0, 1 << 24, b"".join(
        _string(b"%x" % number) + struct.pack("<IB", 0, 1) for number in range(200_000)), 20 * MB),
    "a million pairs": lambda: _gguf(0, MB, b"".join(
        _string(b"%x" % number) + struct.pack("<IB", 0, 1) for number in range(MB))),
    "an array of 2**24 bytes": lambda: _gguf(0, 1, _array(0, 1 << 24, bytes(1 << 24))),
    "an array of 2**24 texts": lambda: _gguf(0, 1, _array(8, 1 << 24), 8 << 24),
    "an array of a million texts": lambda: _gguf(
        0, 1, _array(8, MB - 1, _string(b"ab") * (MB - 1))),
    "many arrays": lambda: _gguf(0, 100, b"".join(
        _string(b"%x" % number) + struct.pack("<IIQ", 9, 0, MB // 2) + bytes(MB // 2)
        for number in range(100))),
    "arrays in arrays": lambda: _gguf(0, 1, _array(9, 1, struct.pack("<IQ", 9, 1) * 100_000)),
    "a text of 2**63 bytes": lambda: _gguf(0, 1, struct.pack("<Q", 1 << 63)),
    "a key of 100 MB": lambda: _gguf(0, 1, struct.pack("<Q", 100 * MB), 101 * MB),
    "a key of 60 MB": lambda: _gguf(0, 1, struct.pack("<Q", 60 * MB), 61 * MB),
    "a text that is not UTF-8": lambda: _gguf(0, 1, _string(b"\xff" * (30 * MB))),
    "a tensor of 2**32 dimensions": lambda: _gguf(
        1, 0, _string(b"a") + struct.pack("<I", 0xFFFFFFFF)),
    "dimensions that overflow": lambda: _gguf(1, 0, _string(b"a")
        + struct.pack("<IQQQQIQ", 4, *[1 << 40] * 4, 0, 0)),
    "an alignment of 2**63": lambda: _gguf(0, 1, _string(b"general.alignment")
        + struct.pack("<IQ", 10, 1 << 63)),
    "a type that is none": lambda: _gguf(0, 1, _string(b"a") + struct.pack("<I", 99)),
    "an architecture that is a list": lambda: _gguf(0, 1, _string(b"general.architecture")
        + struct.pack("<IIQ", 9, 0, MB // 2) + bytes(MB // 2)),
    "version 99": lambda: b"GGUF" + struct.pack("<IQQ", 99, 0, 0),
    "nothing": lambda: b"",
}  # fmt: skip


@pytest.mark.parametrize("kind", GGUFS)
def test_no_gguf_costs_more_than_it_is_worth(reader: Limited, tmp_path: Path, kind: str) -> None:
    (tmp_path / "model.gguf").write_bytes(GGUFS[kind]())
    refused(reader, "open", tmp_path, "model.gguf")


# tokenizer.model


def _message(number: int, content: bytes) -> bytes:
    """A field of bytes; the length as a varint."""
    size, length = len(content), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


PIECE = _message(1, _message(1, b"a"))
TOKENIZERS = {
    "4 million pieces": lambda: b"\x0a\x00" * (4 * MB - 10),
    "400,000 pieces": lambda: PIECE * 400_000,
    "pieces of many fields": lambda: _message(1, b"\x18\x01" * 1_000_000) * 4,
    "4 million settings": lambda: PIECE + _message(2, b"\x08\x01" * (4 * MB - 100)),
    "settings again and again": lambda: PIECE + _message(2, b"\x08\x01") * 200_000,
    "a piece of 8 MB": lambda: _message(1, _message(1, b"a" * (8 * MB - 100))),
    "9 MB": lambda: bytes(9 * MB),
    "a length of 2**69": lambda: b"\x0a" + b"\xff" * 9 + b"\x01",
    "a number without an end": lambda: b"\x08" + b"\xff" * 100,
    "an unknown token beyond all": lambda: PIECE + _message(2, b"\xc0\x02\xff\xff\xff\x07\x18\x02"),
    "a score that is none": lambda: _message(1, _message(1, b"a") + b"\x15\x00\x00\xc0\x7f"),
    "groups": lambda: b"\x0b" * 1000,
    "nothing": lambda: b"",
}  # fmt: skip


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_no_tokenizer_costs_more_than_it_is_worth(
    reader: Limited, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(TOKENIZERS[kind]())
    refused(reader, "tokenizer", path, "tokenizer.model")


# What is no file


@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
@pytest.mark.parametrize(
    "name", ["consolidated.00.pth", "model.safetensors", "pytorch_model.bin", "m.gguf"]
)
def test_what_is_no_file_is_not_read(reader: Limited, tmp_path: Path, name: str, kind: str) -> None:
    _hf(tmp_path) if name.startswith(("model", "pytorch")) else _meta(tmp_path)
    path = tmp_path / name
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    assert reader.run("open", tmp_path).code in (5, 6)


def test_many_files_of_many_tensors_are_bounded_together(reader: Limited, tmp_path: Path) -> None:
    names = [f"model-{number:05d}-of-00040.safetensors" for number in range(1, 41)]
    _hf(tmp_path)
    for file, name in enumerate(names):
        entries = b",".join(
            b'"%d.%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % (file, number)
            for number in range(10_000)
        )
        (tmp_path / name).write_bytes(_header(b"{" + entries + b"}"))
    assert "which no model has" in refused(reader, "open", tmp_path, "model-000")


@pytest.mark.parametrize("name", ["pipe", "endless", "/dev/zero", "missing"])
def test_what_a_damaged_file_is_instead_is_told_without_waiting(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "pipe":
        os.mkfifo(path)
    elif name == "endless":  # a regular file that blocks whoever reads it to its end
        path.symlink_to("/proc/kmsg")
    assert isinstance(diagnosis.beginning(path), bytes)
    if name in ("pipe", "/dev/zero"):
        with pytest.raises(IntegrityError):
            digests.hash_file(path, ())
