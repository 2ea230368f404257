"""Reading GGUF (versions 2 and 3, little-endian), every size checked before it is believed.

Magic, version, counts; key/value pairs; tensor infos (name, dimensions in reverse, type, offset);
then the tensors, aligned. ggml's ``docs/gguf.md`` is the specification. q and k are in Meta's row
order; vectors are stored as F32 whatever the matrices are. A model may be split over several files
(``NAME-00001-of-0000N.gguf``): the first has all keys, each has tensors of its own.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llama_hub.errors import IntegrityError, NotFoundError
from llama_hub.files import open_regular
from llama_hub.hub.architecture import Architecture
from llama_hub.hub.checkpoints import diagnosis, gguf_keys, gguf_types, layout
from llama_hub.hub.checkpoints.source import Checkpoint, Location, Segment, StoredRun

VERSION = 3  # the one that is written
VERSIONS = (2, 3)  # 3 only says that the order of bytes may be the other one
ALIGNMENT = 32  # bytes, unless the file says otherwise
MAX_HEADER = 64 << 20  # bytes; Llama 2's has less than 1 MB, most of it the vocabulary
MAX_PAIRS, MAX_TENSORS = 1 << 12, 1 << 16  # Llama 2 70B: 30 and 723
MAX_ITEMS = 1 << 19  # values of all arrays together; Llama 2 has 96,000
MAX_KEY = 1 << 10  # letters
MAX_ROPE_FACTORS = 1 << 16  # bytes
MAX_PARTS = 1 << 10  # files of a model that was split; 70B in parts of 1 GB has 138

# Value types of key/value pairs and their struct codes.
U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
SCALARS = {
    U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?",
    U64: "Q", I64: "q", F64: "d",
}  # fmt: skip

# Tensor types: number → (name, weights per block, bytes per block).
TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2),
    2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210),
}  # fmt: skip
# Types that are known and not read.
_OTHER_TYPES = {
    4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS",
    19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16",
    26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8",
    34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4",
}  # fmt: skip
TYPE_NUMBERS = {name: number for number, (name, _, _) in TYPES.items()}
FLOAT_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Info:
    """One tensor of the file; ``shape`` is row-major, ``offset`` from the file's start."""

    name: str
    kind: str  # F32, Q8_0, …
    shape: tuple[int, ...]
    offset: int
    size: int  # bytes
    path: Path


@dataclass(frozen=True)
class Content:
    """What a file's header says."""

    path: Path
    values: Mapping[str, Any]
    tensors: Mapping[str, Info]


def is_gguf(folder: Path) -> bool:
    """Whether there is a GGUF file in the folder."""
    return any(folder.glob("*.gguf"))


def read_header(path: Path, alignment: int = ALIGNMENT) -> Content:
    """Keys, values and tensors; ``IntegrityError`` unless all of them are sound.

    ``alignment``: of the tensors, in bytes, where the file does not state its own.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        if os.fstat(file.fileno()).st_size < 24:
            raise _bad(path, "it is too short")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            cursor = _Cursor(path, data)
            return _content(path, cursor, alignment)


def _bad(path: Path, why: str) -> IntegrityError:
    diagnosis.refuse_lfs_pointer(path, diagnosis.beginning(path))
    return IntegrityError(f"{path} is no sound GGUF file: {why}", hint="download or make it again")


def _content(path: Path, cursor: _Cursor, default: int) -> Content:
    if cursor.take(4) != gguf_types.MAGIC:
        raise _bad(path, "it does not begin with GGUF")
    version = cursor.scalar(U32)
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
        what = "its numbers are big-endian" if swapped else f"version {version}"
        raise _bad(path, f"{what}: only versions 2 and 3, little-endian, are supported")
    tensor_count, pair_count = cursor.count(MAX_TENSORS), cursor.count(MAX_PAIRS)
    values: dict[str, Any] = {}
    for _ in range(pair_count):
        key = cursor.text()
        if len(key) > MAX_KEY:
            raise _bad(path, f"a key has {len(key)} letters")
        if key in values:
            raise _bad(path, f"the key {key[:100]!r} stands twice")
        values[key] = cursor.value(cursor.scalar(U32))
    infos = [_info(path, cursor) for _ in range(tensor_count)]
    alignment = values.get("general.alignment", default)
    if type(alignment) is not int or not 8 <= alignment <= 1 << 20 or alignment % 8:
        raise _bad(path, f"alignment {alignment!r}")
    base = cursor.at + -cursor.at % alignment
    return Content(path, values, _placed(path, infos, base, alignment, len(cursor.data)))


def _info(path: Path, cursor: _Cursor) -> Info:
    name = cursor.text()
    if len(name) > MAX_KEY:
        raise _bad(path, f"the name of a tensor has {len(name)} letters")
    dimensions = cursor.scalar(U32)
    if dimensions > 4:
        raise _bad(path, f"{name[:100]!r} has {dimensions} dimensions")
    shape = tuple(reversed([cursor.scalar(U64) for _ in range(dimensions)]))
    kind, offset = cursor.scalar(U32), cursor.scalar(U64)
    if kind in _OTHER_TYPES:
        raise IntegrityError(
            f"{path} holds blocks of the type {_OTHER_TYPES[kind]} ({name[:100]!r}), which are not "
            "read here",
            hint=f"take the same model as one of {', '.join(list(gguf_types.FILE_TYPES)[3:8])} …",
        )
    if kind not in TYPES:
        raise _bad(path, f"{name[:100]!r} has the type number {kind}, which is not known")
    label, block, block_bytes = TYPES[kind]
    if not shape or min(shape) < 1 or max(shape) > 1 << 40 or shape[-1] % block:
        raise _bad(path, f"{name[:100]!r} of type {label} has shape {shape}")
    return Info(name, label, shape, offset, math.prod(shape) // block * block_bytes, path)


def _placed(path: Path, infos: list[Info], base: int, alignment: int, size: int) -> dict[str, Info]:
    found: dict[str, Info] = {}
    at = 0
    for info in sorted(infos, key=lambda info: info.offset):
        if info.name in found:
            raise _bad(path, f"the tensor {info.name[:100]!r} stands twice")
        if info.offset % alignment or info.offset < at or base + info.offset + info.size > size:
            raise _bad(path, f"{info.name[:100]!r} lies outside the file or on another tensor")
        at = info.offset + info.size
        found[info.name] = replace(info, offset=base + info.offset)
    return found


class _Cursor:
    """Reads values one after another and never beyond the end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.at = 0
        self._items = 0  # of the arrays so far

    def take(self, size: int) -> bytes:
        """The next bytes."""
        if size > len(self.data) - self.at:
            raise _bad(self.path, "its header reaches beyond its end")
        if self.at + size > MAX_HEADER:
            raise _bad(self.path, f"its header has more than {MAX_HEADER} bytes")
        self.at += size
        return self.data[self.at - size : self.at]

    def scalar(self, kind: int) -> Any:
        """One number or truth value."""
        code = "<" + SCALARS[kind]
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def count(self, most: int) -> int:
        """A number of items that a sane file may have."""
        count = int(self.scalar(U64))
        if count > most or count > len(self.data):
            raise _bad(self.path, f"it claims {count} items")
        return count

    def text(self) -> str:
        """A string."""
        try:
            return self.take(int(self.scalar(U64))).decode("utf-8")
        except UnicodeDecodeError as error:
            raise _bad(self.path, f"a text is not UTF-8: {error.reason}") from error

    def value(self, kind: int) -> Any:
        """A value of any type; arrays hold scalars or strings."""
        if kind in SCALARS:
            return self.scalar(kind)
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            raise _bad(self.path, f"a value of type {kind}")
        return self._array(self.scalar(U32), self.count(MAX_ITEMS - self._items))

    def _array(self, kind: int, count: int) -> list[Any]:
        self._items += count
        if kind == STRING:
            return [self.text() for _ in range(count)]
        if kind not in SCALARS:
            raise _bad(self.path, f"an array of type {kind}")
        code = f"<{count}{SCALARS[kind]}"
        return list(struct.unpack(code, self.take(struct.calcsize(code))))


# ------------------------------------------------------------------ reading a model


def open_gguf(
    path: Path, *, quantised: bool = False, dequantize: bool = False, packed: bool = False
) -> Checkpoint:
    """The checkpoint in the GGUF file ``path``, or in the only one of a folder; all its parts.

    A quantised file is an ``IntegrityError``, unless it is to be read as what its blocks say
    (``dequantize``: float32, exactly), or block by block (``packed``), or ``quantised``: then only
    its unquantised tensors can be read, and ``stored`` says where the bytes of the others are.
    """
    content = read_model(path)
    architecture = _architecture(content)
    gguf_keys.check(content.values, architecture)
    tensors = _tensors(content, architecture)
    blocks = dequantize and any(info.kind not in FLOAT_TYPES for info in tensors.values())
    narrow = None if blocks else content.values.get("llama_hub.dtype")
    locations: dict[str, Location] = {}
    stored: list[StoredRun] = []
    for spec in layout.specs(architecture):
        info = tensors[spec.name]
        if info.shape != spec.shape:
            raise _bad(info.path, f"{info.name} has shape {info.shape}, not {spec.shape}")
        if info.kind in FLOAT_TYPES or ((dequantize or packed) and not quantised):
            locations[spec.name] = _location(spec, info, narrow)
        elif info.name == layout.gguf_name(spec.name):
            stored.append(
                StoredRun(
                    spec.name, info.kind.lower(), spec.shape, info.path, info.offset, info.size
                )
            )
    if stored and not quantised:
        raise IntegrityError(
            f"{content.path} is quantised ({stored[0].dtype}): the original weights cannot be had "
            "from it",
            hint="convert from the model in Meta's or Hugging Face's layout, or add --dequantize "
            "to take the quantised values as they are",
        )
    folder = path if path.is_dir() else path.parent
    return Checkpoint(
        folder, "gguf", architecture, locations, stored=tuple(stored), values=content.values
    )


def read_model(path: Path) -> Content:
    """The header of the GGUF file ``path``, or of the only one of a folder, all parts together."""
    first = read_header(_only_file(path) if path.is_dir() else path)
    count = first.values.get("split.count", 1)
    if type(count) is not int or not 1 <= count <= MAX_PARTS:
        raise _bad(first.path, f"split.count is {str(count)[:40]}")
    if count == 1:
        return first
    named = gguf_types.part_of(first.path)
    if named is None or named[2] != count:
        raise _bad(
            first.path,
            f"it is one of {count} parts, but not called NAME-00001-of-{count:05d}.gguf",
        )
    paths = [first.path.with_name(name) for name in gguf_types.split_names(named[0], count)]
    return _joined([_part(path, first) for path in paths])


def _part(path: Path, first: Content) -> Content:
    """A part's header. The gguf package aligns parts as the first states, and says so only there;
    llama.cpp aligns them by the default: where the file ends tells which of the two it was.
    """
    if not path.is_file():
        raise NotFoundError(
            f"{path} is missing: {first.path.name} is one part of a model that was split",
            hint="download all its parts into the same folder",
        )
    part = read_header(path)
    stated = first.values.get("general.alignment", ALIGNMENT)
    own = part.values.get("general.alignment", ALIGNMENT)
    if own == stated or _tail(part) < own:
        return part
    part = read_header(path, stated)
    if _tail(part) >= stated:
        raise _bad(path, f"its tensors are aligned neither by {own} nor by {stated}")
    return part


def _tail(content: Content) -> int:
    """Bytes behind the last tensor, which writers pad to the alignment at most."""
    end = max((info.offset + info.size for info in content.tensors.values()), default=0)
    return content.path.stat().st_size - end


def _joined(parts: list[Content]) -> Content:
    """All parts as one; ``IntegrityError`` unless they are of one model."""
    first, tensors = parts[0], dict(parts[0].tensors)
    for number, part in enumerate(parts):
        stated = (part.values.get("split.no"), part.values.get("split.count"))
        if stated != (number, len(parts)):
            raise _bad(part.path, f"its split.no and split.count are {stated}")
        if number == 0:
            continue
        for key, value in part.values.items():
            if not key.startswith("split.") and first.values.get(key) != value:
                raise _bad(part.path, f"its key {key[:100]!r} is not that of {first.path.name}")
        twice = sorted(tensors.keys() & part.tensors.keys())
        if twice:
            raise _bad(part.path, f"the tensor {twice[0][:100]!r} is in another part too")
        tensors |= part.tensors
        layout.check_count(part.path, len(tensors))
    total = first.values.get("split.tensors.count", len(tensors))
    if total != len(tensors):
        raise _bad(
            first.path, f"its parts hold {len(tensors)} tensors, not the {str(total)[:40]} it says"
        )
    return Content(first.path, first.values, tensors)


def _only_file(folder: Path) -> Path:
    """The GGUF file of a folder, or the first part of one that is split."""
    files = sorted(folder.glob("*.gguf"))
    parts = [gguf_types.part_of(path) for path in files]
    models = {part and (part[0], part[2]) for part in parts}
    if len(files) > 1 and None not in models and len(models) == 1:
        return files[0]
    if len(files) != 1:
        names = ", ".join(path.name for path in files[:4])
        raise NotFoundError(
            f"{folder} holds {len(files)} GGUF files ({names}); which of them is meant?",
            hint=f"name the file itself: {files[0]}" if files else "wanted: one *.gguf",
        )
    return files[0]


def _architecture(content: Content) -> Architecture:
    values = content.values
    if values.get("general.architecture") != "llama":
        raise _bad(content.path, "its architecture is not llama")
    try:
        heads = _whole(values["llama.attention.head_count"])
        width = _whole(values["llama.embedding_length"])
        context = _whole(values["llama.context_length"])
        return Architecture(
            dim=width,
            n_layers=_whole(values["llama.block_count"]),
            n_heads=heads,
            n_kv_heads=_whole(values.get("llama.attention.head_count_kv", heads)),
            ffn_dim=_whole(values["llama.feed_forward_length"]),
            vocab_size=content.tensors["token_embd.weight"].shape[0],
            norm_eps=_shortest(values["llama.attention.layer_norm_rms_epsilon"]),
            rope_theta=_shortest(values.get("llama.rope.freq_base", 10000.0)),
            context=context,
            rope_scaling=gguf_keys.rope_scaling(
                values, context, width // max(1, heads), _rope_factors(content)
            ),
        )
    except (KeyError, ValueError) as error:
        raise _bad(content.path, f"it does not describe a Llama model: {error!r}") from error


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"a {type(value).__name__} where a number belongs")
    return value


def _rope_factors(content: Content) -> list[float] | None:
    """The values of ``rope_freqs.weight``; ``None`` without one."""
    info = content.tensors.get(gguf_keys.FACTORS)
    if info is None:
        return None
    if info.kind != "F32" or len(info.shape) != 1 or info.size > MAX_ROPE_FACTORS:
        raise _bad(content.path, f"{info.name} has the type {info.kind} and shape {info.shape}")
    with os.fdopen(open_regular(info.path), "rb") as file:
        file.seek(info.offset)
        return list(struct.unpack(f"<{info.shape[0]}f", file.read(info.size)))


def _shortest(value: float) -> float:
    """The shortest decimal number that is this float32: 1e-05, not 9.999999747e-06."""
    if type(value) is not float or not math.isfinite(value):
        raise ValueError(f"a {type(value).__name__} where a finite number belongs")
    for digits in range(1, 10):
        short = float(f"{value:.{digits}g}")
        if struct.pack("<f", short) == struct.pack("<f", value):
            return short
    return value


def _tensors(content: Content, architecture: Architecture) -> dict[str, Info]:
    """What is stored of each tensor, by canonical name; the output may be the embedding itself."""
    names = {spec.name: layout.gguf_name(spec.name) for spec in layout.specs(architecture)}
    if names["output.weight"] not in content.tensors:  # tied
        names["output.weight"] = names["tok_embeddings.weight"]
    expected = set(names.values())
    found = {name for name in content.tensors if name != gguf_keys.FACTORS}
    if found != expected:
        odd = sorted(found ^ expected)[0]
        state = "missing" if odd in expected else "unexpected"
        raise _bad(content.path, f"the tensor {odd[:100]} is {state}")
    return {name: content.tensors[stored] for name, stored in names.items()}


def _location(spec: layout.TensorSpec, info: Info, narrow: Any) -> Location:
    """Where a tensor is; ``narrow``: the dtype that vectors had before they were written as F32."""
    dtype = FLOAT_TYPES.get(info.kind)
    row = info.size // spec.rows
    where = Segment(info.path, info.offset, spec.rows, spec.columns, row, row // spec.columns)
    if dtype is None:
        return Location("float32", (where,), blocks_of=info.kind)
    narrows = len(spec.shape) == 1 and narrow in FLOAT_TYPES.values() and narrow != dtype
    return Location(dtype, (where,), narrow_to=narrow if narrows else None)
