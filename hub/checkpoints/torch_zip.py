"""The container of a ``.pth`` file, laid out before its contents are known.

As torch writes it: a zip whose members are stored, each member's data at a multiple of 64 bytes,
``NAME/data.pkl`` first. A member's CRC-32 is filled in when its bytes have been written; the
central directory, which repeats them, comes last.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ALIGNMENT = 64
_LIMIT = 0xFFFFFFFF  # sizes and offsets from here on go into a ZIP64 field
_DATE = 33  # 1 January 1980, the earliest that a zip can say
_STORAGE = {"bfloat16": "BFloat16Storage", "float16": "HalfStorage", "float32": "FloatStorage"}


@dataclass(frozen=True)
class Member:
    """One member and where its parts lie, in bytes from the file's start."""

    name: str
    size: int
    header_at: int
    header: bytes  # with a CRC of 0
    data_at: int

    @property
    def end(self) -> int:
        """First byte after the data."""
        return self.data_at + self.size

    def seal(self, crc: int) -> tuple[int, bytes]:
        """Where the CRC goes and its bytes."""
        return self.header_at + 14, struct.pack("<I", crc)


@dataclass(frozen=True)
class TensorRecord:
    """One tensor of the archive: contiguous, alone in its storage."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int  # bytes


def member(name: str, size: int, at: int) -> Member:
    """A member whose header begins at ``at``, padded so that its data is aligned."""
    encoded = name.encode()
    large = struct.pack("<HHQQ", 1, 16, size, size) if size >= _LIMIT else b""
    start = at + 30 + len(encoded) + len(large)
    padding = -(start + 4) % ALIGNMENT
    extra = large + b"FB" + struct.pack("<H", padding) + b"Z" * padding
    short = min(size, _LIMIT)
    header = struct.pack(
        "<4sHHHHHIIIHH",
        b"PK\x03\x04", 45 if large else 20, 0x800, 0, 0, _DATE, 0, short, short,
        len(encoded), len(extra),
    )  # fmt: skip
    return Member(name, size, at, header + encoded + extra, at + 30 + len(encoded) + len(extra))


def directory(members: Sequence[Member], crcs: Mapping[str, int], at: int) -> bytes:
    """The central directory and its end records, to be written at offset ``at``."""
    entries = b"".join(_entry(one, crcs[one.name]) for one in members)
    count, size = len(members), len(entries)
    zip64 = struct.pack(
        "<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, at
    ) + struct.pack("<4sIQI", b"PK\x06\x07", 0, at + size, 1)
    short = min(count, 0xFFFF)
    end = struct.pack(
        "<4sHHHHIIH", b"PK\x05\x06", 0, 0, short, short, min(size, _LIMIT), min(at, _LIMIT), 0
    )
    return entries + zip64 + end


def _entry(one: Member, crc: int) -> bytes:
    """Of fixed length whatever the CRC: ZIP64 fields are there only where sizes ask for them."""
    large = [one.size, one.size] if one.size >= _LIMIT else []
    large += [one.header_at] if one.header_at >= _LIMIT else []
    extra = struct.pack(f"<HH{len(large)}Q", 1, 8 * len(large), *large) if large else b""
    name, short = one.name.encode(), min(one.size, _LIMIT)
    return struct.pack(
        "<4sHHHHHHIIIHHHHHII",
        b"PK\x01\x02", 45, 45 if large else 20, 0x800, 0, 0, _DATE, crc, short, short,
        len(name), len(extra), 0, 0, 0, 0, min(one.header_at, _LIMIT),
    ) + name + extra  # fmt: skip


def pickled(records: Sequence[TensorRecord]) -> bytes:
    """``data.pkl``: a dictionary of tensors, tensor number n in storage ``data/n``."""
    items = [_text(one.name) + _tensor(one, key) for key, one in enumerate(records)]
    return b"\x80\x02}(" + b"".join(items) + b"u."


def _tensor(one: TensorRecord, key: int) -> bytes:
    count = 1
    strides: list[int] = []
    for size in reversed(one.shape):
        strides.insert(0, count)
        count *= size
    storage = (
        b"(" + _text("storage") + _global("torch", _STORAGE[one.dtype]) + _text(str(key))
        + _text("cpu") + _whole(count) + b"tQ"
    )  # fmt: skip
    hooks = _global("collections", "OrderedDict") + b")R"
    arguments = storage + _whole(0) + _sizes(one.shape) + _sizes(strides) + b"\x89" + hooks
    return _global("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"


def _text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _whole(value: int) -> bytes:
    if value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    encoded = value.to_bytes(9, "little")
    return b"\x8a" + bytes([len(encoded)]) + encoded


def _sizes(values: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(_whole, values)) + b"t"
