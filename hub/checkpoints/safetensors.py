"""The safetensors file format: its header, read with suspicion and written.

A safetensors file is a u64 little-endian header length, a JSON header (tensor name → dtype,
shape, offsets relative to the header's end), and the tensors without holes or overlaps. Written
here from the specification; the format has no checksum, so the manifest carries one.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_hub.errors import IntegrityError
from llama_hub.files import open_regular
from llama_hub.hub.checkpoints import diagnosis

MAX_HEADER = 4 << 20  # bytes; Llama 2 70B in one file has 100 kB (the specification: 100 MB)
START = 64 << 10  # bytes; the header of most files, and enough to tell what else one is
MAX_RANK = 8  # dimensions of a tensor
MAX_NAME = 1 << 10  # letters
NAMES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "int32": "I32", "int64": "I64"}
ITEM_BYTES = {
    "BF16": 2, "F16": 2, "F32": 4, "F64": 8, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1,
    "U16": 2, "U32": 4, "U64": 8, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
_DTYPES = {code: name for name, code in NAMES.items()}


@dataclass(frozen=True)
class Entry:
    """One tensor of a safetensors file; ``offset`` is from the file's start."""

    path: Path
    code: str  # BF16, F16, …
    shape: tuple[int, ...]
    offset: int
    size: int  # bytes

    @property
    def dtype(self) -> str:
        """The dtype's name here; the code itself if it is none of ours."""
        return _DTYPES.get(self.code, self.code)


def read_header(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """Tensors and metadata of one file; ``IntegrityError`` unless it is exactly to the letter."""
    with os.fdopen(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(START)
        start += file.read(max(0, header_size(path, start, size) - len(start)))
    return parse_header(path, start, size)


def header_size(path: Path, start: bytes, size: int) -> int:
    """Bytes before the tensors of a file of ``size`` bytes, of which ``start`` are the first."""
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8 or not 2 <= length <= size - 8:
        raise _no_header(path, start, "its header's length is impossible")
    if length > MAX_HEADER:
        why = f"its header has {length} bytes, no model's has over {MAX_HEADER}"
        raise _no_header(path, start, why)
    return 8 + length


def parse_header(path: Path, start: bytes, size: int) -> tuple[dict[str, Entry], dict[str, str]]:
    """``read_header`` of a file of which only ``start`` is here; at least its header is."""
    base = header_size(path, start, size)
    entries, metadata = _parsed(path, start[8:base])
    tensors = {name: _entry(path, name, value, base) for name, value in entries.items()}
    _check_cover(path, tensors, base, size)
    return tensors, metadata


def _no_header(path: Path, start: bytes, why: str) -> IntegrityError:
    """What a file is instead that does not even begin as one."""
    diagnosis.refuse_lfs_pointer(path, start)
    return _bad(path, "it is a web page" if start.lstrip()[:1] == b"<" else why)


def _bad(path: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"{path} is no sound safetensors file: {why}",
        hint="download it again, or repair it with llama-hub verify --repair",
    )


def _parsed(path: Path, text: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    if text[:1] != b"{":
        raise _bad(path, "its header does not begin with {")
    try:
        document = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        why = f"its header is not JSON with unique keys: {error}"[:200]
        raise _bad(path, why) from error
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict) or any(type(v) is not str for v in metadata.values()):
        raise _bad(path, "its metadata are not texts")
    return document, metadata


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _entry(path: Path, name: str, value: Any, base: int) -> Entry:
    try:
        code, (begin, end) = value["dtype"], value["data_offsets"]
        shape = _shape(value["shape"])
        if not _are_sizes((*shape, begin, end)) or len(name) > MAX_NAME:
            raise ValueError("a size that is no size, or a name of too many letters")
        if len(value) != 3 or end - begin != math.prod(shape) * ITEM_BYTES[code]:
            raise ValueError("sizes that disagree")
    except (KeyError, TypeError, ValueError) as error:
        why = f"its entry {name[:100]!r} is wrong: {type(error).__name__}: {error}"[:300]
        raise _bad(path, why) from error
    return Entry(path, code, shape, base + begin, end - begin)


def _shape(value: Any) -> tuple[Any, ...]:
    """The rank is judged before anything is computed over the dimensions."""
    if not isinstance(value, list) or len(value) > MAX_RANK:
        raise ValueError(f"a shape that is no list of at most {MAX_RANK}")
    return tuple(value)


def _are_sizes(values: Sequence[Any]) -> bool:
    return all(type(value) is int and 0 <= value < 1 << 62 for value in values)


def _check_cover(path: Path, tensors: Mapping[str, Entry], base: int, size: int) -> None:
    at = base
    for entry in sorted(tensors.values(), key=lambda entry: (entry.offset, entry.size)):
        if entry.offset != at:
            raise _bad(path, "its tensors overlap or leave a hole")
        at += entry.size
    if at != size:
        raise _bad(path, f"it should have {at} bytes and has {size}")


def header(tensors: Sequence[tuple[str, str, Sequence[int]]], metadata: Mapping[str, str]) -> bytes:
    """The bytes before the tensors; ``tensors``: (name, dtype, shape) in the order of their data.

    Padded with spaces so that the data begins at a multiple of 64.
    """
    document: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name, dtype, shape in tensors:
        code = NAMES[dtype]
        end = at + math.prod(shape) * ITEM_BYTES[code]
        document[name] = {"dtype": code, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return len(text).to_bytes(8, "little") + text
