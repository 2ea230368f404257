"""Reading a checkpoint of any format as canonical tensors, one block of rows at a time.

A reader (``meta``, ``safetensors``, ``gguf``) only says where the parts of each tensor lie; this
module reads them by offset, joins shards on the right axis, restores Meta's row order and checks
CRCs on the way. Anonymous memory: the block itself and, for a join or a permutation, one copy.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from isal.isal_zlib import crc32

from llama_hub.errors import IntegrityError
from llama_hub.files import CHUNK
from llama_hub.hub.architecture import Architecture
from llama_hub.hub.checkpoints import numeric
from llama_hub.hub.checkpoints.layout import COLUMNS, ROWS, TensorSpec, specs
from llama_hub.hub.checkpoints.numeric import Bits
from llama_hub.hub.manifest import Format

BLOCK_BYTES = 2 << 20  # of one block of rows; fits the second-level cache of current processors


@dataclass(frozen=True)
class Checked:
    """A run of bytes whose CRC-32 is known."""

    path: Path
    offset: int
    size: int
    crc: int


@dataclass(frozen=True)
class Segment:
    """One part of a tensor in one file, a matrix; elements of a row are adjacent.

    ``checked``: the stored run of bytes around it, if that has a checksum; ``whole``: whether the
    segment is exactly that run, so that reading the one checks the other.
    """

    path: Path
    offset: int  # bytes
    rows: int
    columns: int
    row_step: int  # bytes from one row to the next
    column_step: int  # bytes from one element to the next
    checked: Checked | None = None
    whole: bool = False


@dataclass(frozen=True)
class Location:
    """Where a tensor is: its parts in shard order."""

    dtype: str
    segments: tuple[Segment, ...]
    hf_rows: bool = False  # stored in Hugging Face's row order
    narrow_to: str | None = None  # stored wider than it is (GGUF's norms), exactly
    blocks_of: str | None = None  # stored in ggml's blocks of that type, read as float32


@dataclass(frozen=True)
class StoredRun:
    """A quantised tensor: its bytes as the manifest lists them, not its weights."""

    name: str  # canonical, with the stored tensor's own ending
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int  # bytes
    size: int  # bytes


@dataclass
class Checkpoint:
    """An opened model: what it is and where its tensors lie; ``blocks`` reads them.

    Safe for several threads; closes its files with ``close`` or as a context manager.
    """

    folder: Path
    format: Format
    architecture: Architecture
    locations: Mapping[str, Location]  # by canonical name
    shards: int = 1  # model-parallel shards, of Meta's format
    stored: tuple[StoredRun, ...] = ()  # quantised tensors, which ``blocks`` cannot read
    values: Mapping[str, Any] = field(default_factory=dict)  # the keys of a GGUF file
    _files: _Files = field(default_factory=lambda: _Files())

    @property
    def specs(self) -> list[TensorSpec]:
        """Every tensor that can be read, in canonical order."""
        return [spec for spec in specs(self.architecture) if spec.name in self.locations]

    @property
    def dtype(self) -> str:
        """The dtype of the matrices."""
        return self.locations["layers.0.attention.wq.weight"].dtype

    @property
    def tied(self) -> bool:
        """Whether the output matrix is the embedding itself, which is stored once."""
        output = self.locations.get("output.weight")
        return output is not None and output == self.locations.get("tok_embeddings.weight")

    @property
    def dequantised(self) -> Mapping[str, int]:
        """How many tensors are read from blocks of each type, which lost what they had before."""
        kinds = [place.blocks_of for place in self.locations.values() if place.blocks_of]
        return {kind: kinds.count(kind) for kind in sorted(set(kinds))}

    def dtype_of(self, name: str) -> str:
        """The dtype of one tensor."""
        location = self.locations[name]
        return location.narrow_to or location.dtype

    @property
    def files(self) -> list[Path]:
        """The weight files, in order."""
        paths = {part.path: None for place in self.locations.values() for part in place.segments}
        return sorted(paths)

    def blocks(self, spec: TensorSpec, block_bytes: int = BLOCK_BYTES) -> Iterator[Bits]:
        """The tensor's rows from first to last, some at a time: bits ``[rows, columns]``.

        wq and wk come in whole heads. ``IntegrityError`` if a stored CRC does not fit; a
        replicated tensor must be the same in every shard. A block is valid until the next.
        """
        location = self.locations[spec.name]
        rows = self._rows_at_once(spec, block_bytes)
        for block in self._joined(spec, location, rows):
            if location.hf_rows:
                block = numeric.meta_rows(block, self.architecture.head_dim)
            yield _narrowed(block, location, spec.name)

    def _rows_at_once(self, spec: TensorSpec, block_bytes: int) -> int:
        unit = self.architecture.head_dim if spec.rotary_rows else 1
        row_bytes = spec.columns * numeric.item_bytes(self.locations[spec.name].dtype)
        return max(1, block_bytes // (row_bytes * unit)) * unit

    def packed_blocks(self, spec: TensorSpec, block_bytes: int = BLOCK_BYTES) -> Iterator[Bits]:
        """The rows of a tensor in ggml's blocks as they are stored, uint8 ``[rows, bytes]``.

        They come as ``blocks`` would give them: so many at a time, wq and wk in whole heads.
        """
        (part,) = self.locations[spec.name].segments
        return self._stored_rows(part, self._rows_at_once(spec, block_bytes))

    def _joined(self, spec: TensorSpec, location: Location, rows: int) -> Iterator[Bits]:
        if location.blocks_of is not None:
            yield from self._dequantised(location.segments[0], location.blocks_of, rows)
            return
        parts = [self._segment(part, location.dtype, rows) for part in location.segments]
        if len(parts) == 1:
            yield from parts[0]
        elif spec.axis == ROWS:
            for part in parts:
                yield from part
        elif spec.axis == COLUMNS:
            for pieces in zip(*parts, strict=True):
                yield np.concatenate(pieces, axis=1)
        else:
            yield from _replicas(parts, spec.name)

    def _dequantised(self, part: Segment, kind: str, rows: int) -> Iterator[Bits]:
        """The weights of ggml's blocks, exactly, as float32; blocks lie one after another."""
        from llama_hub.hub.checkpoints import ggml_quants

        for block in self._stored_rows(part, rows):
            yield ggml_quants.dequantize(kind, block).view(np.uint32)

    def _stored_rows(self, part: Segment, rows: int) -> Iterator[npt.NDArray[np.uint8]]:
        buffer = np.empty((min(rows, part.rows), part.row_step), np.uint8)
        for start in range(0, part.rows, rows):
            block = buffer[: min(rows, part.rows - start)]
            self._files.read(part.path, part.offset + start * part.row_step, block)
            yield block

    def _segment(self, part: Segment, dtype: str, rows: int) -> Iterator[Bits]:
        bits = numeric.bits_type(dtype)
        if part.column_step != bits.itemsize or part.row_step != part.columns * bits.itemsize:
            self._files.check(part.checked)
            return self._strided(part, bits, rows)
        if not part.whole:
            self._files.check(part.checked)
        return self._contiguous(part, bits, rows)

    def _contiguous(self, part: Segment, bits: np.dtype[Any], rows: int) -> Iterator[Bits]:
        buffer = np.empty((min(rows, part.rows), part.columns), bits)
        crc = 0
        for start in range(0, part.rows, rows):
            block = buffer[: min(rows, part.rows - start)]
            self._files.read(part.path, part.offset + start * part.row_step, block)
            if part.whole and part.checked:
                crc = crc32(block.data, crc)
            yield block
        if part.whole and part.checked and crc != part.checked.crc:
            raise _wrong_crc(part.path)

    def _strided(self, part: Segment, bits: np.dtype[Any], rows: int) -> Iterator[Bits]:
        """Views that are no plain run of bytes (transposed, sliced), through the page cache."""
        whole: Bits = np.ndarray(
            (part.rows, part.columns),
            bits,
            self._files.mapped(part.path),
            part.offset,
            (part.row_step, part.column_step),
        )
        for start in range(0, part.rows, rows):
            yield np.ascontiguousarray(whole[start : start + rows])

    def stored_bytes(self, run: StoredRun) -> Iterator[Bits]:
        """The bytes of a quantised tensor, some at a time."""
        buffer = np.empty(CHUNK, np.uint8)
        for start in range(0, run.size, CHUNK):
            piece = buffer[: min(CHUNK, run.size - start)]
            self._files.read(run.path, run.offset + start, piece)
            yield piece

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _replicas(parts: list[Iterator[Bits]], name: str) -> Iterator[Bits]:
    for pieces in zip(*parts, strict=True):
        if any(not np.array_equal(pieces[0], piece) for piece in pieces[1:]):
            raise IntegrityError(
                f"{name} differs between the shards: they are not of one model",
                hint="download the shards again, all from the same place",
            )
        yield pieces[0]


def _narrowed(block: Bits, location: Location, name: str) -> Bits:
    if location.narrow_to is None:
        return block
    narrow, changed, _ = numeric.cast(block, location.dtype, location.narrow_to)
    if changed:
        raise IntegrityError(f"{name} holds values that are no {location.narrow_to}")
    return narrow


def _wrong_crc(path: Path) -> IntegrityError:
    return IntegrityError(
        f"{path} is damaged: the CRC-32 of a tensor does not fit",
        hint="download it again, or repair it with llama-hub verify --repair",
    )


class _Files:
    """Open files by path, and the checksums that were checked already."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._descriptors: dict[Path, int] = {}
        self._maps: dict[Path, mmap.mmap] = {}
        self._checks: dict[Checked, threading.Lock | None] = {}

    def read(self, path: Path, offset: int, into: Bits) -> None:
        """Fill ``into`` from the file."""
        view = into.data.cast("B")
        done = 0
        while done < len(view):
            count = os.preadv(self._descriptor(path), [view[done:]], offset + done)
            if count == 0:
                raise IntegrityError(f"{path} ended too early: it was truncated meanwhile")
            done += count

    def mapped(self, path: Path) -> mmap.mmap:
        """The file as memory, read only."""
        with self._lock:
            if path not in self._maps:
                with path.open("rb") as file:
                    self._maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return self._maps[path]

    def check(self, run: Checked | None) -> None:
        """Compare the CRC of a run of bytes, once."""
        if run is None:
            return
        with self._lock:
            guard = self._checks.setdefault(run, threading.Lock())
        if guard is None:
            return
        with guard:
            if self._checks[run] is not None:
                self._compare(run)
                self._checks[run] = None

    def _compare(self, run: Checked) -> None:
        crc, buffer = 0, np.empty(CHUNK, np.uint8)
        for start in range(0, run.size, CHUNK):
            piece = buffer[: min(CHUNK, run.size - start)]
            self.read(run.path, run.offset + start, piece)
            crc = crc32(piece.data, crc)
        if crc != run.crc:
            raise _wrong_crc(run.path)

    def _descriptor(self, path: Path) -> int:
        with self._lock:
            if path not in self._descriptors:
                self._descriptors[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            return self._descriptors[path]

    def close(self) -> None:
        with self._lock:
            for descriptor in self._descriptors.values():
                os.close(descriptor)
            self._descriptors.clear()
            for mapped in self._maps.values():
                _close_map(mapped)
            self._maps.clear()


def _close_map(mapped: mmap.mmap) -> None:
    try:
        mapped.close()
    except BufferError:  # an array still looks at it; it is closed with the array
        return
