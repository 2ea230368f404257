"""Planning a GGUF file: keys, vocabulary, tensor infos, and the encoders of the tensors."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llama_hub.errors import IntegrityError, NotFoundError
from llama_hub.hub.architecture import Architecture
from llama_hub.hub.checkpoints import ggml_quants, gguf, gguf_keys, gguf_tokenizer, layout, numeric
from llama_hub.hub.checkpoints.blueprint import (
    Blueprint,
    Encoder,
    Extent,
    FilePlan,
    Portion,
    TensorPlan,
    as_it_is,
)
from llama_hub.hub.checkpoints.gguf_types import FILE_TYPES, MAGIC, Mixture, name_of, split_names
from llama_hub.hub.checkpoints.layout import TensorSpec
from llama_hub.hub.checkpoints.source import Checkpoint
from llama_hub.hub.conversion.companions import Subject, vocabulary
from llama_hub.hub.tokenizer import writing

_FLOATS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True)
class Form:
    """How the model is to be stored."""

    type: str | None = None  # a GGUF file type or a dtype; ``None``: as it is
    stem: str | None = None  # of the file's name, by default MODEL-TYPE
    split_max_size: int | None = None  # bytes of the tensors of one file


def plan(source: Checkpoint, form: Form, subject: Subject) -> Blueprint:
    """One file, or several if it is to be split.

    Without a type, tensors that the source has in blocks are taken over as they are.
    """
    kept = form.type is None and bool(source.dequantised)
    if kept:
        number = source.values.get("general.file_type")
        kind, cast = name_of(number), None
        tensors = [_as_stored(spec, source) for spec in source.specs]
    else:
        kind = _FLOATS.get(form.type or source.dtype, form.type or "")
        cast = gguf.FLOAT_TYPES.get(kind) if form.type else None
        number = FILE_TYPES[kind][0]
        mixture = Mixture(kind, source.architecture, source.tied)
        tensors = [
            _tensor(spec, cast or source.dtype_of(spec.name), mixture) for spec in source.specs
        ]
    tied = tensors.pop() if source.tied else None  # the output matrix is the last
    vectors = {one.dtype for one in tensors if len(one.spec.shape) == 1}
    known = vectors.pop() if len(vectors) == 1 else ""
    pairs = _pairs(subject, number, known) + _tokenizer_pairs(subject)
    parts = _parts(tensors, form.split_max_size)
    names = split_names(form.stem or f"{subject.model}-{kind}", len(parts))
    factors = _rope_factors(subject.architecture)
    files: list[FilePlan] = []
    plans: list[TensorPlan] = []
    for number, (name, part) in enumerate(zip(names, parts, strict=True)):
        stated = pairs if number == 0 else []
        if len(parts) > 1:
            stated = [*stated, *_split_pairs(number, len(parts), len(tensors) + bool(factors))]
        last = factors if number == len(parts) - 1 else b""
        file, placed = _file(name, number, part, stated, last)
        files.append(file)
        plans += placed
    if tied is not None and tensors[0].is_float:  # described all the same, stored as the embedding
        plans.append(TensorPlan(tied.spec, tied.dtype, ()))
    return Blueprint(tuple(files), tuple(plans))


def _file(
    name: str, number: int, tensors: Sequence[_Tensor], pairs: Sequence[Pair], factors: bytes
) -> tuple[FilePlan, list[TensorPlan]]:
    """One file with these tensors and, after them, the content of ``rope_freqs.weight``."""
    head = _header(pairs, tensors, len(factors) // 4)
    plans, at = [], len(head)
    for one in tensors:
        place = Extent(number, at, one.size // one.spec.rows)
        portion = Portion(0, one.spec.rows, (place,), one.encode)
        stored = () if one.is_float else ((one.spec.name, one.kind.lower(), one.spec.shape),)
        plans.append(TensorPlan(one.spec, one.dtype, (portion,), stored, packed=one.packed))
        at += one.size + -one.size % gguf.ALIGNMENT
    known = ((0, head), (at, factors)) if factors else ((0, head),)
    return FilePlan(name, at + len(factors), known), plans


def _parts(tensors: Sequence[_Tensor], most: int | None) -> list[list[_Tensor]]:
    """The tensors of each file: as many as have at most so many bytes, one at least."""
    parts: list[list[_Tensor]] = [[]]
    taken = 0
    for one in tensors:
        size = one.size + -one.size % gguf.ALIGNMENT
        if most is not None and parts[-1] and taken + size > most:
            parts.append([])
            taken = 0
        parts[-1].append(one)
        taken += size
    return parts


def _split_pairs(number: int, parts: int, tensors: int) -> list[Pair]:
    return [
        ("split.no", gguf.U16, number),
        ("split.count", gguf.U16, parts),
        ("split.tensors.count", gguf.I32, tensors),
    ]


def _rope_factors(architecture: Architecture) -> bytes:
    """The content of ``rope_freqs.weight``, which only llama3's scaling has."""
    scaling = architecture.rope_scaling
    if scaling is None or scaling.kind != "llama3":
        return b""
    found = gguf_keys.llama3_factors(scaling, architecture.head_dim, architecture.rope_theta)
    return struct.pack(f"<{len(found)}f", *found)


@dataclass(frozen=True)
class _Tensor:
    spec: TensorSpec
    dtype: str  # of the values before encoding
    kind: str  # of the stored tensor
    encode: Encoder
    packed: bool = False  # taken over in blocks, see ``TensorPlan``

    @property
    def is_float(self) -> bool:
        """Whether its weights are kept, not quantised."""
        return self.kind in gguf.FLOAT_TYPES

    @property
    def size(self) -> int:
        """Bytes of its data."""
        _, block, block_bytes = gguf.TYPES[gguf.TYPE_NUMBERS[self.kind]]
        return math.prod(self.spec.shape) // block * block_bytes


def _tensor(spec: TensorSpec, dtype: str, mixture: Mixture) -> _Tensor:
    """Vectors are F32, matrices what the file type makes of them."""
    if len(spec.shape) == 1:
        return _Tensor(spec, dtype, "F32", _widened(dtype))
    kind = None if mixture.type in gguf.FLOAT_TYPES else mixture.kind(spec)
    if kind is None:
        return _Tensor(spec, dtype, _FLOATS[dtype], as_it_is)
    return _Tensor(spec, dtype, kind, ggml_quants.encoder(kind, dtype))


def _as_stored(spec: TensorSpec, source: Checkpoint) -> _Tensor:
    """A tensor of a quantised file, taken over as it is."""
    dtype, blocks = source.dtype_of(spec.name), source.locations[spec.name].blocks_of
    if len(spec.shape) == 1:
        return _Tensor(spec, dtype, "F32", _widened(dtype))
    return _Tensor(spec, dtype, blocks or _FLOATS[dtype], as_it_is, packed=blocks is not None)


def _widened(dtype: str) -> Encoder:
    return lambda block: (numeric.to_float32(block, dtype),)


Pair = tuple[str, int, Any]  # key, value type, value; for an array the value is (type, items)


def _pairs(subject: Subject, file_type: Any, dtype: str) -> list[Pair]:
    architecture, license = subject.architecture, subject.license
    pairs: list[Pair] = [
        ("general.architecture", gguf.STRING, "llama"),
        ("general.type", gguf.STRING, "model"),
        ("general.name", gguf.STRING, subject.model),
        ("general.alignment", gguf.U32, gguf.ALIGNMENT),
        ("general.file_type", gguf.U32, file_type if type(file_type) is int else ""),
        ("general.quantization_version", gguf.U32, 2),
        ("general.license", gguf.STRING, license.spdx),
        ("general.license.name", gguf.STRING, license.name),
        ("general.license.link", gguf.STRING, license.url),
        ("llama.vocab_size", gguf.U32, architecture.vocab_size),
        ("llama.context_length", gguf.U32, architecture.context),
        ("llama.embedding_length", gguf.U32, architecture.dim),
        ("llama.block_count", gguf.U32, architecture.n_layers),
        ("llama.feed_forward_length", gguf.U32, architecture.ffn_dim),
        ("llama.rope.dimension_count", gguf.U32, architecture.head_dim),
        ("llama.rope.freq_base", gguf.F32, architecture.rope_theta),
        ("llama.attention.head_count", gguf.U32, architecture.n_heads),
        ("llama.attention.head_count_kv", gguf.U32, architecture.n_kv_heads),
        ("llama.attention.layer_norm_rms_epsilon", gguf.F32, architecture.norm_eps),
        ("llama_hub.license", gguf.STRING, license.id),
        ("llama_hub.notice", gguf.STRING, license.notice),
        ("llama_hub.dtype", gguf.STRING, dtype),  # of the vectors, which are stored as F32
    ]
    pairs += gguf_keys.pairs(architecture.rope_scaling, gguf.STRING, gguf.U32, gguf.F32)
    return [pair for pair in pairs if pair[2] != ""]


def _tokenizer_pairs(subject: Subject) -> list[Pair]:
    known = vocabulary(subject)
    if known is None:
        raise NotFoundError(
            f"{subject.folder} has no tokenizer.model, without which a GGUF file cannot be used",
            hint="put the model's tokenizer.model or tokenizer.json into that folder",
        )
    if writing.sentencepiece_bytes(known) is None:
        raise IntegrityError(
            f"tokenizer.json in {subject.folder} cuts texts as no SentencePiece model does, and "
            "llama.cpp reads no other tokenizer of a Llama 2 model",
            hint="put the model's tokenizer.model beside it, or keep Hugging Face's layout",
        )
    return gguf_tokenizer.pairs(known)


def _header(pairs: Sequence[Pair], tensors: Sequence[_Tensor], factors: int) -> bytes:
    """Everything before the first tensor; ``factors``: elements of ``rope_freqs.weight``."""
    count = len(tensors) + bool(factors)
    parts = [MAGIC, struct.pack("<IQQ", gguf.VERSION, count, len(pairs))]
    parts += [text(key) + struct.pack("<I", kind) + value(kind, one) for key, kind, one in pairs]
    offset = 0
    for one in tensors:
        shape = tuple(reversed(one.spec.shape))
        parts.append(text(layout.gguf_name(one.spec.name)))
        parts.append(struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
        parts.append(struct.pack("<IQ", gguf.TYPE_NUMBERS[one.kind], offset))
        offset += one.size + -one.size % gguf.ALIGNMENT
    if factors:
        parts.append(text(gguf_keys.FACTORS))
        parts.append(struct.pack("<IQIQ", 1, factors, gguf.TYPE_NUMBERS["F32"], offset))
    head = b"".join(parts)
    return head + b"\0" * (-len(head) % gguf.ALIGNMENT)


def value(kind: int, content: Any) -> bytes:
    """A value of a key, without the number of its type; of an array ``(type, items)``."""
    if kind == gguf.STRING:
        return text(content)
    if kind == gguf.ARRAY:
        item_kind, items = content
        head = struct.pack("<IQ", item_kind, len(items))
        if item_kind == gguf.STRING:
            return head + b"".join(map(text, items))
        return head + struct.pack(f"<{len(items)}{gguf.SCALARS[item_kind]}", *items)
    return struct.pack("<" + gguf.SCALARS[kind], content)


def text(content: str) -> bytes:
    """A text as GGUF has it, after its length."""
    encoded = content.encode()
    return struct.pack("<Q", len(encoded)) + encoded
