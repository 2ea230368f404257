"""``x Wᵀ`` on CUDA in the form that suits the number of rows; weights dense or packed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from llama_hub.inference.kernels import elementwise
from llama_hub.inference.kernels.dequantize import dequantize
from llama_hub.inference.kernels.few_rows import few_rows
from llama_hub.inference.kernels.one_row import one_row
from llama_hub.inference.kernels.runtime import counters, interpreted
from llama_hub.inference.packed import PackedWeight

FEW = 64  # rows up to which a packed weight is read as it is
FEW_DENSE = 8  # the same for a dense one; cuBLAS is as fast above
FEW_WITHOUT_TENSOR_CORES = 8  # compute capability below 8.0: Triton multiplies without them
PROGRAMS = 768  # that keep a large GPU's memory busy
SHORTEST = 512  # columns that one program takes at least


class DenseWeight(Protocol):
    """A weight ``[out, in]`` in the computing type."""

    weight: Tensor


@dataclass(frozen=True)
class Tiling:
    """How a product is shared by programs; see ``few_rows``."""

    block_n: int
    block_k: int
    parts: int
    splits: int
    warps: int
    stages: int


def tiling(weight: PackedWeight, rows: int, *, swiglu: bool, tensor: bool = True) -> Tiling:
    """The tiles for a product; what one sum consists of depends on the weight alone.

    ``tensor``: whether there are tensor cores.
    """
    block_k, parts = steps(weight, swiglu=swiglu, tensor=tensor)
    width = len(weight.values) // (2 if swiglu else 1)
    share = splits(width, weight.columns, block_k * parts)
    height = padded(rows)
    if not tensor:
        return Tiling(16, block_k, parts, share, warps=4, stages=1)
    if height <= 16:
        stages = {4: 3, 8: 6, 16: 4}[weight.bits]
        return Tiling(32, block_k, parts, share, warps=2, stages=stages)
    if height == 32 and not swiglu:
        return Tiling(64, block_k, parts, share, warps=2, stages=3)
    if height == 32:
        return Tiling(32, block_k, parts, share, warps=2, stages=3)
    return Tiling(32, block_k, 1, share, warps=4, stages=3)


def steps(weight: PackedWeight, *, swiglu: bool, tensor: bool = True) -> tuple[int, int]:
    """``BLOCK_K`` and ``PARTS``: columns of one scale at a time, 128 or 256 bytes of a row."""
    within = weight.group or weight.columns
    most = {4: 64, 8: 128, 16: 64}[weight.bits]
    if not tensor:
        most = 64 if weight.bits == 4 else 32
    block_k = min(most, within & -within)  # the power of two in it
    parts = weight.columns // block_k
    at_once = (128 if swiglu or weight.bits == 8 else 256) * 8 // max(8, weight.bits)
    return block_k, min(max(1, at_once // block_k) if tensor else 1, parts & -parts)


def splits(width: int, columns: int, step: int) -> int:
    """Programs that share a row of the weight, so that there are enough of them."""
    wanted = PROGRAMS // triton.cdiv(width, 32)
    most = max(1, columns // max(SHORTEST, step))
    return int(max(1, min(1 << max(0, wanted.bit_length() - 1), most, 16)))


def padded(rows: int) -> int:
    """Rows that the tensor cores compute."""
    return int(max(8, triton.next_power_of_2(rows)))


def fits(weight: PackedWeight, x: Tensor) -> bool:
    """Whether ``few_rows`` can compute it, and is the better way."""
    if x.dtype not in (torch.bfloat16, torch.float16) or weight.columns % 32:
        return False
    if weight.bits == 16 and weight.values.dtype != x.dtype:
        return False
    most = FEW_DENSE if weight.bits == 16 else FEW
    if not tensor_cores(x.device):
        most = min(most, FEW_WITHOUT_TENSOR_CORES)
    return len(x) <= most


def tensor_cores(device: torch.device) -> bool:
    """Whether Triton has tensor-core instructions for the device."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)


def packed(weight: DenseWeight | PackedWeight) -> PackedWeight:
    """A dense weight as what the kernel takes as well."""
    if isinstance(weight, PackedWeight):
        return weight
    dense = weight.weight
    return PackedWeight(16, dense, dense[:1, :1], 0, 32)


def product(
    x: Tensor,
    linear: DenseWeight | PackedWeight,
    *,
    residual: Tensor | None = None,
    swiglu: bool = False,
) -> Tensor:
    """``x Wᵀ`` for ``x`` ``[rows, columns]``, plus ``residual``; or ``silu(gate) * up`` of it.

    ``swiglu``: the weight is gate above up; the result is half as wide. ``residual`` is given up:
    the result may take its place.
    """
    weight = packed(linear)
    assert x.shape[1] == weight.columns
    if fits(weight, x):
        form = by_one_row if alone(weight, x) else by_few_rows
        return form(x.contiguous(), weight, residual, swiglu)
    matrix = weight.values if weight.bits == 16 else dense(weight, x.dtype)
    if swiglu:
        return elementwise.swiglu(F.linear(x, matrix))
    return F.linear(x, matrix) if residual is None else residual.addmm_(x, matrix.t())


@dataclass(frozen=True)
class RowTiling:
    """How the product of one row is shared by programs; see ``one_row``."""

    block_n: int
    warps: int


def row_tiling(weight: PackedWeight, *, swiglu: bool) -> RowTiling:
    """Tiles that were the fastest on an H200 for the shapes of the 7B model (bench/kernels.py)."""
    if weight.bits == 16:
        return RowTiling(2, 4 if swiglu or weight.columns > 8192 else 8)
    if weight.bits == 8:
        return RowTiling(4 if swiglu or len(weight.values) <= weight.columns else 8, 4)
    return RowTiling(4, 2) if swiglu else RowTiling(8, 4)


def alone(weight: PackedWeight, x: Tensor) -> bool:
    """Whether ``one_row`` is the way; long int8 rows are faster shared by several programs."""
    long = weight.bits == 8 and weight.columns > 2 * len(weight.values)
    return len(x) == 1 and not (long and tensor_cores(x.device))


def by_one_row(
    x: Tensor,
    weight: PackedWeight,
    residual: Tensor | None,
    swiglu: bool,
    tiles: RowTiling | None = None,
) -> Tensor:
    """The product of ``x`` ``[1, columns]`` in one launch."""
    width = len(weight.values) // (2 if swiglu else 1)
    how = tiles or row_tiling(weight, swiglu=swiglu)
    out = x.new_empty(1, width)
    assert residual is None or residual.shape == out.shape
    one_row[(triton.cdiv(width, how.block_n),)](
        x,
        weight.values,
        weight.scales,
        out if residual is None else residual,
        out,
        width,
        weight.values.stride(0),
        weight.scales.shape[1],
        BITS=weight.bits,
        GROUP=weight.group,
        HALF=weight.half,
        BLOCK_N=how.block_n,
        CHUNK=how.warps * 32 * (8 if weight.bits == 16 else 16),
        SWIGLU=swiglu,
        RESIDUAL=residual is not None,
        ASM=not interpreted(),
        num_warps=how.warps,
    )
    return out


def by_few_rows(
    x: Tensor,
    weight: PackedWeight,
    residual: Tensor | None,
    swiglu: bool,
    tiles: Tiling | None = None,
) -> Tensor:
    """The product in one launch; ``tiles`` other than the usual ones are for the benchmark."""
    rows, columns = x.shape
    width = len(weight.values) // (2 if swiglu else 1)
    how = tiles or tiling(weight, rows, swiglu=swiglu, tensor=tensor_cores(x.device))
    out = x.new_empty(rows, width)
    assert residual is None or (residual.shape == out.shape and residual.is_contiguous())
    count = triton.cdiv(width, how.block_n)
    tile = how.block_n * padded(rows) * (2 if swiglu else 1)
    shape = (how.splits, count, tile) if how.splits > 1 else (1,)
    few_rows[(count, how.splits)](
        x,
        weight.values,
        weight.scales,
        out if residual is None else residual,
        out,
        torch.empty(shape, dtype=torch.float32, device=x.device),
        counters(x.device, count),
        rows,
        width,
        columns,
        weight.values.stride(0),
        weight.scales.shape[1],
        BITS=weight.bits,
        GROUP=weight.group,
        HALF=weight.half,
        ROWS=padded(rows),
        BLOCK_N=how.block_n,
        BLOCK_K=how.block_k,
        PARTS=how.parts,
        SPLITS=how.splits,
        SWIGLU=swiglu,
        RESIDUAL=residual is not None,
        ASM=not interpreted(),
        num_warps=how.warps,
        num_stages=how.stages,
    )
    return out


def dense(weight: PackedWeight, dtype: torch.dtype) -> Tensor:
    """The whole weight ``[width, columns]`` in ``dtype``, in one launch."""
    out = torch.empty(len(weight.values), weight.columns, dtype=dtype, device=weight.values.device)
    block_k, parts = steps(weight, swiglu=False)
    height = 64 if weight.bits == 4 else 16  # so that a thread reads 16 bytes
    grid = (triton.cdiv(len(weight.values), height), weight.columns // (block_k * parts))
    dequantize[grid](
        weight.values,
        weight.scales,
        out,
        len(weight.values),
        weight.columns,
        weight.values.stride(0),
        weight.scales.shape[1],
        BITS=weight.bits,
        GROUP=weight.group,
        HALF=weight.half,
        BLOCK_N=height,
        BLOCK_K=block_k,
        PARTS=parts,
        ASM=not interpreted(),
    )
    return out
