"""Planning Meta's layout: ``consolidated.NN.pth`` for any number of model-parallel shards."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from isal.isal_zlib import crc32

from llama_hub.errors import IntegrityError, UsageError
from llama_hub.hub.architecture import Architecture
from llama_hub.hub.checkpoints import layout, numeric, torch_zip
from llama_hub.hub.checkpoints.blueprint import (
    Blueprint,
    Encoder,
    Extent,
    FilePlan,
    Portion,
    TensorPlan,
    as_it_is,
)
from llama_hub.hub.checkpoints.layout import COLUMNS, ROWS, TensorSpec
from llama_hub.hub.checkpoints.numeric import Bits
from llama_hub.hub.checkpoints.torch_zip import Member, TensorRecord


def plan(architecture: Architecture, dtypes: Mapping[str, str], shards: int) -> Blueprint:
    """Shard files with every tensor in ``dtypes``' dtype; ``UsageError`` if it cannot be cut so."""
    try:
        layout.check_shards(architecture, shards)
    except IntegrityError as error:
        raise UsageError(error.message, hint="give a --model-parallel that divides it") from error
    specs = layout.specs(architecture)
    archive = _archive(architecture, specs, dtypes, shards)
    files = tuple(_file(archive, number) for number in range(shards))
    tensors = tuple(
        TensorPlan(spec, dtypes[spec.name], _portions(spec, dtypes[spec.name], archive, shards))
        for spec in specs
    )
    return Blueprint(files, tensors)


@dataclass(frozen=True)
class _Archive:
    """The layout that all shard files share, since their tensors have the same sizes."""

    members: tuple[Member, ...]
    contents: Mapping[str, bytes]  # of the members that are known from the start
    records: Mapping[str, Member]  # by tensor
    end: int  # where the directory begins


def _archive(
    architecture: Architecture, specs: list[TensorSpec], dtypes: Mapping[str, str], shards: int
) -> _Archive:
    freqs = rope_freqs(architecture, dtypes[specs[0].name])
    records = [_record(spec, dtypes[spec.name], shards) for spec in specs]
    records.append(
        TensorRecord(layout.ROPE_FREQS, dtypes[specs[0].name], (len(freqs),), freqs.nbytes)
    )
    contents = {
        "consolidated/data.pkl": torch_zip.pickled(records),
        "consolidated/byteorder": b"little",
        f"consolidated/data/{len(records) - 1}": freqs.tobytes(),
        "consolidated/version": b"3\n",
    }
    sizes = [(f"consolidated/data/{key}", record.size) for key, record in enumerate(records)]
    first = [(name, len(contents[name])) for name in list(contents)[:2]]
    last = [("consolidated/version", 2)]
    members: list[Member] = []
    for name, size in [*first, *sizes, *last]:
        members.append(torch_zip.member(name, size, members[-1].end if members else 0))
    by_tensor = {spec.name: members[2 + key] for key, spec in enumerate(specs)}
    return _Archive(tuple(members), contents, by_tensor, members[-1].end)


def _record(spec: TensorSpec, dtype: str, shards: int) -> TensorRecord:
    shape = layout.shard_shape(spec, shards)
    return TensorRecord(spec.name, dtype, shape, math.prod(shape) * numeric.item_bytes(dtype))


def _file(archive: _Archive, number: int) -> FilePlan:
    fixed = [(one.header_at, one.header) for one in archive.members]
    known = {name: crc32(data) for name, data in archive.contents.items()}
    for one in archive.members:
        if one.name in archive.contents:
            fixed.append((one.data_at, archive.contents[one.name]))
            fixed.append(one.seal(known[one.name]))

    def trailer(by_tensor: Mapping[str, int]) -> bytes:
        crcs = {archive.records[name].name: crc for name, crc in by_tensor.items()}
        return torch_zip.directory(archive.members, known | crcs, archive.end)

    size = archive.end + len(trailer(dict.fromkeys(archive.records, 0)))
    name = f"consolidated.{number:02d}.pth"
    return FilePlan(name, size, tuple(fixed), archive.end, trailer)


def _portions(spec: TensorSpec, dtype: str, archive: _Archive, shards: int) -> tuple[Portion, ...]:
    member = archive.records[spec.name]
    shape = layout.shard_shape(spec, shards)
    row_bytes = shape[-1] * numeric.item_bytes(dtype)
    places = [Extent(number, member.data_at, row_bytes, member.seal) for number in range(shards)]
    if spec.axis == ROWS:
        rows = shape[0]
        return tuple(Portion(rank * rows, rows, (place,)) for rank, place in enumerate(places))
    return (Portion(0, spec.rows, tuple(places), _encoder(spec, shards)),)


def _encoder(spec: TensorSpec, shards: int) -> Encoder:
    if shards == 1:
        return as_it_is
    if spec.axis == COLUMNS:
        return lambda block: np.split(block, shards, axis=1)
    return lambda block: (block,) * shards


def rope_freqs(architecture: Architecture, dtype: str) -> Bits:
    """The steps that Meta stores beside the weights: theta ** (-2j / head_dim), [head_dim / 2].

    The power is rounded from float64: the float32 powers of numpy, torch and libm differ in the
    last bit from machine to machine, and this is what torch's is nearest to.
    """
    steps = np.arange(0, architecture.head_dim, 2, dtype=np.float32) / architecture.head_dim
    power = np.power(np.float64(architecture.rope_theta), steps.astype(np.float32), dtype=float)
    freqs = np.float32(1) / power.astype(np.float32)
    return numeric.from_float32(freqs, dtype)
