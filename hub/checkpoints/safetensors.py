"""Safetensors and the Hugging Face folder: reading by offset, planning what is written.

A safetensors file is a u64 little-endian header length, a JSON header (tensor name → dtype,
shape, offsets relative to the header's end), and the tensors without holes or overlaps. Written
here from the specification; the format has no checksum, so the manifest carries one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_hub.errors import IntegrityError, NotFoundError
from llama_hub.hub.architecture import from_config
from llama_hub.hub.checkpoints import layout, numeric
from llama_hub.hub.checkpoints.blueprint import Blueprint, FilePlan, Place, Portion, TensorPlan
from llama_hub.hub.checkpoints.meta import segment
from llama_hub.hub.checkpoints.pickle_index import read_index
from llama_hub.hub.checkpoints.source import Checkpoint, Location, Segment, StoredRun

MAX_HEADER = 100_000_000  # bytes, of the specification
INDEX_NAME = "model.safetensors.index.json"
_NAMES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "int32": "I32", "int64": "I64"}
_ITEM_BYTES = {
    "BF16": 2, "F16": 2, "F32": 4, "F64": 8, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1,
    "U16": 2, "U32": 4, "U64": 8, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
_QUANTISED = (".weight_packed", ".weight_scale", ".weight_shape")
_DTYPES = {code: name for name, code in _NAMES.items()}


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
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(MAX_HEADER, size - 8) or length < 2:
            raise _bad(path, "its header's length is impossible")
        text = file.read(length)
    entries, metadata = _parsed(path, text)
    tensors = {name: _entry(path, name, value, 8 + length) for name, value in entries.items()}
    _check_cover(path, tensors, 8 + length, size)
    return tensors, metadata


def _bad(path: Path, why: str) -> IntegrityError:
    web_page = why if path.stat().st_size > 1 << 20 else _web_page(path) or why
    return IntegrityError(
        f"{path} is no sound safetensors file: {web_page}",
        hint="download it again, or repair it with llama-hub verify --repair",
    )


def _web_page(path: Path) -> str | None:
    return "it is a web page" if path.read_bytes().lstrip()[:1] == b"<" else None


def _parsed(path: Path, text: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    if text[:1] != b"{":
        raise _bad(path, "its header does not begin with {")
    try:
        document = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _bad(path, f"its header is not JSON with unique keys: {error}") from error
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
        code, shape = value["dtype"], tuple(value["shape"])
        begin, end = value["data_offsets"]
        sizes = (*shape, begin, end)
        if any(type(size) is not int or not 0 <= size < 1 << 62 for size in sizes):
            raise ValueError("a size that is no size")
        count = math.prod(shape)
        if len(value) != 3 or len(shape) > 8 or end - begin != count * _ITEM_BYTES[code]:
            raise ValueError("sizes that disagree")
    except (KeyError, TypeError, ValueError) as error:
        raise _bad(path, f"its entry {name[:100]!r} is wrong: {error!r}") from error
    return Entry(path, code, shape, base + begin, end - begin)


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
        code = _NAMES[dtype]
        end = at + math.prod(shape) * _ITEM_BYTES[code]
        document[name] = {"dtype": code, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return len(text).to_bytes(8, "little") + text


# ------------------------------------------------------------------ reading a folder


def is_hf(folder: Path) -> bool:
    """Whether the folder looks like a Hugging Face model."""
    return (folder / "config.json").is_file()


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's ``config.json``."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError(f"{folder} has no config.json") from error
    except (ValueError, RecursionError, OSError) as error:
        raise IntegrityError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise IntegrityError(f"{path} is not a JSON object")
    return config


def open_hf(folder: Path, *, quantised: bool = False) -> Checkpoint:
    """The checkpoint in ``folder``: safetensors, or the older ``pytorch_model*.bin``.

    ``IntegrityError`` if files are missing or tensors do not have the shapes of config.json, or
    for a quantised model unless ``quantised``: then only its unquantised tensors can be read, and
    ``stored`` says where the bytes of the others are.
    """
    config = read_config(folder)
    architecture = from_config(config)
    segments = _segments(folder)
    stored = _take_quantised(folder, segments)
    if stored and not quantised:
        raise IntegrityError(
            f"{folder} is quantised: the original weights cannot be had from it",
            hint="convert from the original or the unquantised folder",
        )
    tied = "lm_head.weight" not in segments and config.get("tie_word_embeddings", False)
    if tied and "model.embed_tokens.weight" in segments:
        segments["lm_head.weight"] = segments["model.embed_tokens.weight"]
    expected = [
        spec for spec in layout.specs(architecture) if spec.name not in {n for n, _ in stored}
    ]
    _check_names(folder, set(segments), expected)
    locations = {
        spec.name: _location(folder, spec, segments[layout.hf_name(spec.name)]) for spec in expected
    }
    runs = tuple(run for _, run in stored)
    return Checkpoint(folder, "hf", architecture, locations, stored=runs)


def _take_quantised(folder: Path, segments: dict[str, Found]) -> list[tuple[str, StoredRun]]:
    """Take quantised tensors out of ``segments``: (canonical name of the weight, stored bytes)."""
    found = []
    for name in [name for name in segments if name.endswith(_QUANTISED)]:
        dtype, shape, where = segments.pop(name)
        stem, _, ending = name.rpartition(".")
        try:
            canonical = layout.canonical_of_hf(f"{stem}.weight")
        except KeyError as error:
            raise IntegrityError(f"{folder} does not fit its config.json: {name}") from error
        if ending != "weight_shape":
            size = where.rows * where.row_step
            run = f"{canonical.removesuffix('weight')}{ending}"
            found.append((canonical, StoredRun(run, dtype, shape, where.path, where.offset, size)))
    return found


Found = tuple[str, tuple[int, ...], Segment]  # dtype, shape, where


def _segments(folder: Path) -> dict[str, Found]:
    found: dict[str, Found] = {}
    for path in _weight_files(folder):
        for name, one in _file_segments(path).items():
            if name in found:
                raise IntegrityError(f"the tensor {name} is in two files of {folder}")
            found[name] = one
    return found


def _file_segments(path: Path) -> dict[str, Found]:
    if path.suffix == ".safetensors":
        return {
            name: (entry.dtype, entry.shape, _segment(entry))
            for name, entry in read_header(path)[0].items()
        }
    return {
        name: (tensor.dtype, tensor.shape, segment(tensor))
        for name, tensor in read_index(path).items()
        if tensor.shape
    }


def _segment(entry: Entry) -> Segment:
    item = _ITEM_BYTES[entry.code]
    columns = entry.shape[-1] if entry.shape else 1
    rows = entry.shape[0] if len(entry.shape) == 2 else 1
    return Segment(entry.path, entry.offset, rows, columns, columns * item, item)


def _weight_files(folder: Path) -> list[Path]:
    for name, pattern in (
        (INDEX_NAME, "model*.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model*.bin"),
    ):
        index = folder / name
        paths = _indexed(index) if index.is_file() else sorted(folder.glob(pattern))
        if paths:
            return paths
    raise NotFoundError(
        f"{folder} holds no model*.safetensors", hint="the weights belong beside config.json"
    )


def _indexed(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{index} cannot be read: {error!r}") from error
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
            raise IntegrityError(f"{index} names a file outside its folder: {name!r}")
        if not (index.parent / name).is_file():
            raise IntegrityError(
                f"{index} names {name}, which is missing", hint="download it into the same folder"
            )
    return [index.parent / name for name in names]


def _check_names(folder: Path, found: set[str], specs: Sequence[layout.TensorSpec]) -> None:
    expected = {layout.hf_name(spec.name) for spec in specs}
    found = {name for name in found if not layout.ignored_in_hf(name)}
    if found != expected:
        odd = sorted(found ^ expected)[0]
        state = "missing" if odd in expected else "unexpected"
        raise IntegrityError(f"{folder} does not fit its config.json: {odd} is {state}")


def _location(folder: Path, spec: layout.TensorSpec, found: Found) -> Location:
    dtype, shape, where = found
    if shape != spec.shape:
        raise IntegrityError(
            f"{layout.hf_name(spec.name)} in {folder} has shape {list(shape)}; config.json asks "
            f"for {list(spec.shape)}"
        )
    if dtype not in numeric.DTYPES:
        raise IntegrityError(
            f"{layout.hf_name(spec.name)} in {folder} has the dtype {dtype}; supported are "
            f"{', '.join(numeric.DTYPES)}"
        )
    return Location(dtype, (where,), hf_rows=spec.rotary_rows)


# ------------------------------------------------------------------ planning a folder


@dataclass(frozen=True)
class Stored:
    """One tensor as it will stand in a file: which place of its ``TensorPlan`` fills it, if any."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    content: bytes | None = None  # where it does not depend on the weights

    @property
    def bytes(self) -> int:
        """Size of its data."""
        return math.prod(self.shape) * _ITEM_BYTES[_NAMES[self.dtype]]


@dataclass(frozen=True)
class Form:
    """How one canonical tensor is stored: its file tensors, and the encoder that fills them.

    ``encode`` yields one array for each of ``stored`` without ``content``, in order.
    """

    spec: layout.TensorSpec
    dtype: str
    stored: tuple[Stored, ...]
    encode: Callable[[numeric.Bits], Sequence[Any]]
    quantised: bool = False
    error: Callable[[], float] | None = None  # of a quantised tensor, see ``TensorPlan``


def plain_form(spec: layout.TensorSpec, dtype: str, head_dim: int) -> Form:
    """A tensor as it is, with Hugging Face's name and row order."""
    stored = (Stored(layout.hf_name(spec.name), dtype, spec.shape),)
    if spec.rotary_rows:
        return Form(spec, dtype, stored, lambda b: (numeric.hf_rows(b, head_dim),))
    return Form(spec, dtype, stored, lambda block: (block,))


def plan(forms: Iterable[Form], max_shard_bytes: int) -> Blueprint:
    """Files, none larger than ``max_shard_bytes`` unless one tensor alone is, and their index."""
    groups = _grouped(forms, max_shard_bytes)
    names = _file_names(len(groups))
    files: list[FilePlan] = []
    tensors: list[TensorPlan] = []
    weight_map: dict[str, str] = {}
    for number, (name, group) in enumerate(zip(names, groups, strict=True)):
        file, plans = _plan_file(number, name, group)
        files.append(file)
        tensors += plans
        weight_map |= {stored.name: name for form in group for stored in form.stored}
    total = sum(stored.bytes for group in groups for form in group for stored in form.stored)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    text = json.dumps(index, indent=2).encode() + b"\n"
    documents = {INDEX_NAME: text} if len(names) > 1 else {}
    return Blueprint(tuple(files), tuple(tensors), documents)


def _grouped(forms: Iterable[Form], limit: int) -> list[list[Form]]:
    groups: list[list[Form]] = [[]]
    size = 0
    for form in forms:
        more = sum(stored.bytes for stored in form.stored)
        if groups[-1] and size + more > limit:
            groups.append([])
            size = 0
        groups[-1].append(form)
        size += more
    return groups


def _file_names(count: int) -> list[str]:
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _plan_file(number: int, name: str, group: list[Form]) -> tuple[FilePlan, list[TensorPlan]]:
    listed = [(one.name, one.dtype, one.shape) for form in group for one in form.stored]
    head = header(listed, {"format": "pt"})
    fixed = [(0, head)]
    plans: list[TensorPlan] = []
    at = len(head)
    for form in group:
        places: list[Place] = []
        for one in form.stored:
            if one.content is None:
                places.append(Place(number, at, one.bytes // form.spec.rows))
            else:
                fixed.append((at, one.content))
            at += one.bytes
        portion = Portion(0, form.spec.rows, tuple(places), form.encode)
        stored = _manifest_entries(form) if form.quantised else ()
        plans.append(TensorPlan(form.spec, form.dtype, (portion,), stored, form.error))
    return FilePlan(name, at, tuple(fixed)), plans


def _manifest_entries(form: Form) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    """Meta's name with the stored tensor's own ending: ``layers.0.attention.wq.weight_packed``."""
    stem = form.spec.name.removesuffix("weight")
    return tuple(
        (stem + one.name.rsplit(".", 1)[1], one.dtype, one.shape)
        for one in form.stored
        if one.content is None
    )
