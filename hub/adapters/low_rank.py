"""An adapter's tensors: for each matrix W of the base two small ones, W + scale · B·A.

In canonical terms, as everywhere: Meta's names and, for wq and wk, Meta's row order of B. So the
same adapter has the same content digest as a folder of peft's and as a GGUF file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from llama_hub.errors import IntegrityError
from llama_hub.hub.adapters.lora_config import MAX_RANK
from llama_hub.hub.architecture import Architecture
from llama_hub.hub.checkpoints import layout, numeric
from llama_hub.hub.checkpoints.layout import REPLICATED, TensorSpec
from llama_hub.hub.checkpoints.numeric import Floats
from llama_hub.hub.checkpoints.source import Checkpoint, Location
from llama_hub.hub.manifest import TensorEntry

AdapterFormat = Literal["peft", "gguf"]


@dataclass(frozen=True)
class Update:
    """What is added to one matrix of the base."""

    name: str  # canonical, of the base's matrix: layers.0.attention.wq.weight
    rank: int
    scale: float
    a: TensorSpec  # [rank, in]
    b: TensorSpec  # [out, rank]


@dataclass(frozen=True)
class StoredPair:
    """Where a reader found A and B, and by which names a person knows them."""

    a: Location
    b: Location
    a_shape: tuple[int, ...]
    b_shape: tuple[int, ...]
    a_name: str
    b_name: str
    scale: float


@dataclass
class LowRank:
    """An opened adapter; closes its files with ``close`` or as a context manager."""

    path: Path
    format: AdapterFormat
    updates: Mapping[str, Update]  # by the canonical name of the base's matrix
    stored: Checkpoint  # A and B as tensors ``….lora_a``, ``….lora_b``

    @property
    def rank(self) -> int:
        """The largest of its ranks."""
        return max(update.rank for update in self.updates.values())

    @property
    def scale(self) -> float | None:
        """The scale, where it is the same for all matrices."""
        scales = {update.scale for update in self.updates.values()}
        return scales.pop() if len(scales) == 1 else None

    def a(self, name: str) -> Floats:
        """A of the base's matrix ``name``, exactly: float32 ``[rank, in]``."""
        return self._values(self.updates[name].a)

    def b(self, name: str) -> Floats:
        """B, exactly: float32 ``[out, rank]``, in Meta's row order."""
        return self._values(self.updates[name].b)

    def dtype_of(self, spec: TensorSpec) -> str:
        """The dtype of A or B as it is stored."""
        return self.stored.dtype_of(spec.name)

    def _values(self, spec: TensorSpec) -> Floats:
        dtype = self.stored.dtype_of(spec.name)
        blocks = [numeric.to_float32(block, dtype).copy() for block in self.stored.blocks(spec)]
        return np.concatenate(blocks) if len(blocks) > 1 else blocks[0]

    def close(self) -> None:
        """Close the files."""
        self.stored.close()

    def __enter__(self) -> LowRank:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def assemble(
    path: Path, fmt: AdapterFormat, architecture: Architecture, pairs: Mapping[str, StoredPair]
) -> LowRank:
    """The adapter of the pairs that a reader found, by the canonical name of the base's matrix.

    ``IntegrityError`` names the tensor that does not fit the base.
    """
    if not pairs:
        raise IntegrityError(f"{path} holds no tensor of an adapter")
    shapes = {spec.name: spec for spec in layout.specs(architecture)}
    updates, locations = {}, {}
    for name, pair in sorted(pairs.items(), key=lambda item: _order(item[0])):
        if name not in shapes:
            raise IntegrityError(
                f"{path}: {pair.a_name} has no place in the base, which has "
                f"{architecture.n_layers} layers",
                hint="name the base that the adapter was made for: --base MODEL",
            )
        update = _update(path, shapes[name], pair)
        updates[name] = update
        locations[update.a.name], locations[update.b.name] = pair.a, pair.b
    return LowRank(path, fmt, updates, Checkpoint(path, "hf", architecture, locations))


def _order(name: str) -> tuple[int, str]:
    return int(name.split(".")[1]), name


def _update(path: Path, base: TensorSpec, pair: StoredPair) -> Update:
    rank = pair.a_shape[0] if pair.a_shape else 0
    if not 1 <= rank <= MAX_RANK:
        raise IntegrityError(f"{path}: {pair.a_name} has rank {rank}, not 1 to {MAX_RANK}")
    _check_shape(path, pair.a_name, pair.a_shape, (rank, base.columns))
    _check_shape(path, pair.b_name, pair.b_shape, (base.rows, rank))
    for where, what in ((pair.a, pair.a_name), (pair.b, pair.b_name)):
        if where.dtype not in numeric.DTYPES:
            raise IntegrityError(
                f"{path}: {what} has the dtype {where.dtype}; supported are "
                f"{', '.join(numeric.DTYPES)}"
            )
    stem = base.name.removesuffix(".weight")
    a = TensorSpec(f"{stem}.lora_a", (rank, base.columns), REPLICATED)
    b = TensorSpec(f"{stem}.lora_b", (base.rows, rank), REPLICATED, base.rotary_rows)
    return Update(base.name, rank, pair.scale, a, b)


def _check_shape(path: Path, name: str, shape: tuple[int, ...], wanted: tuple[int, int]) -> None:
    if tuple(shape) != wanted:
        raise IntegrityError(
            f"{path}: {name} has shape {list(shape)}; the base asks for {list(wanted)}",
            hint="it was made for another base, or with resized embeddings: name the right one "
            "with --base MODEL",
        )


def examine(adapter: LowRank, where: object = None) -> tuple[TensorEntry, ...]:
    """Read every tensor once: its canonical digest, by name; ``where``: how errors call it.

    ``IntegrityError`` for NaN or infinite values, and where every B is zero: such an adapter does
    nothing, which is what a failed training or a wrong conversion leaves.
    """
    where = where or adapter.path
    entries, acts = [], False
    for update in adapter.updates.values():
        for spec in (update.a, update.b):
            dtype, digest = adapter.dtype_of(spec), hashlib.sha256()
            for block in adapter.stored.blocks(spec):
                if bad := numeric.non_finite(block, dtype):
                    raise IntegrityError(
                        f"{where}: {spec.name} holds {bad} values that are NaN or infinite",
                        hint="the adapter is damaged, or its training diverged",
                    )
                acts = acts or (spec is update.b and _is_not_zero(block, dtype))
                digest.update(np.ascontiguousarray(block).data)
            entries.append(TensorEntry(spec.name, dtype, spec.shape, digest.hexdigest()))
    if not acts or not any(update.scale for update in adapter.updates.values()):
        raise IntegrityError(
            f"{where} does nothing: every lora_B is zero, or its scale is",
            hint="it was saved before training, or converted wrongly",
        )
    return tuple(sorted(entries))


def _is_not_zero(block: numeric.Bits, dtype: str) -> bool:
    return bool(np.any(numeric.to_float32(block, dtype)))  # -0.0 is zero


def content_digest(tensors: Iterable[TensorEntry], scales: Mapping[str, float]) -> str:
    """``sha256:…`` of what the adapter computes: its canonical tensors and their scales."""
    digest = hashlib.sha256(b"lora")
    for entry in sorted(tensors):
        digest.update(f"\n{entry.name} {entry.dtype} {entry.shape} {entry.sha256}".encode())
    for name, scale in sorted(scales.items()):
        digest.update(f"\n{name} {float(scale).hex()}".encode())
    return "sha256:" + digest.hexdigest()
