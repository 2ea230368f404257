"""The blueprint of a conversion, fixed before the first byte: files, sizes, offsets, encodings.

Each tensor is written by portions of rows; a portion encodes a block of rows into one array per
place, and a place is a run of rows of fixed width in one file. Whatever does not depend on the
weights (headers, directories of files) is there from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from llama_hub.hub.checkpoints.layout import TensorSpec
from llama_hub.hub.checkpoints.numeric import Bits

Encoder = Callable[[Bits], Sequence[npt.NDArray[Any]]]


def as_it_is(block: Bits) -> Sequence[npt.NDArray[Any]]:
    """The encoder that changes nothing."""
    return (block,)


@dataclass(frozen=True)
class Extent:
    """Rows of fixed width in a file; ``file`` is an index into ``Blueprint.files``."""

    file: int
    offset: int  # bytes
    row_bytes: int
    # Given the CRC-32 of all that was written here: bytes to write elsewhere in the file.
    seal: Callable[[int], tuple[int, bytes]] | None = None


@dataclass(frozen=True)
class Portion:
    """Rows ``first`` to ``first + rows`` of a tensor and the places that get them."""

    first: int
    rows: int
    places: tuple[Extent, ...]
    encode: Encoder = as_it_is


@dataclass(frozen=True)
class TensorPlan:
    """How one tensor is written.

    ``stored`` is empty if the weights are kept: the manifest then lists the canonical tensor.
    Otherwise it says what the manifest lists instead, (name, dtype, shape) for each place, with
    the digest of the bytes that are stored there.
    """

    spec: TensorSpec
    dtype: str  # what the values are cast to before they are hashed and encoded
    portions: tuple[Portion, ...]
    stored: tuple[tuple[str, str, tuple[int, ...]], ...] = ()
    error: Callable[[], float] | None = None  # relative error, once all rows are encoded
    packed: bool = False  # rows are encoded from ggml's blocks as they are stored, not from values

    @property
    def places(self) -> list[Extent]:
        """Every place, in the order of portions."""
        return [place for portion in self.portions for place in portion.places]


@dataclass(frozen=True)
class FilePlan:
    """One output file. ``trailer``: its last bytes, which depend on the CRCs of its tensors."""

    name: str
    size: int  # bytes, trailer included
    fixed: tuple[tuple[int, bytes], ...] = ()  # offset, content
    trailer_at: int | None = None
    trailer: Callable[[Mapping[str, int]], bytes] | None = None  # CRC-32 by tensor → bytes


@dataclass(frozen=True)
class Blueprint:
    """The whole output; ``documents`` are the small files beside the weights."""

    files: tuple[FilePlan, ...]
    tensors: tuple[TensorPlan, ...]
    documents: Mapping[str, bytes] = field(default_factory=dict)
    md5: bool = False  # whether the weight files need an MD5 as well (Meta's checklist)

    @property
    def bytes(self) -> int:
        """Size of the weight files."""
        return sum(file.size for file in self.files)
