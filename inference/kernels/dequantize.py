"""A packed weight as a dense one, for products with many rows, which cuBLAS then computes."""

from __future__ import annotations

import triton
import triton.language as tl

from llama_hub.inference.kernels.unpack import unpack4


@triton.jit  # type: ignore[untyped-decorator]
def dequantize(  # type: ignore[no-untyped-def]
    values,  # [width, stride]
    scales,  # [width, groups]
    out,  # [width, columns]
    width,
    columns,
    stride,
    groups,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,  # columns of a scale; 0: one for each row
    HALF: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    ASM: tl.constexpr,
):
    """One tile, ``BLOCK_K`` columns of it within one group."""
    row = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    real = (row < width)[:, None]
    unit = tl.program_id(1)
    dtype = out.dtype.element_ty
    if GROUP > 0:
        at = scales + row * groups + unit * BLOCK_K // GROUP
    else:
        at = scales + row
    scale = tl.load(at, mask=row < width, other=0.0).to(tl.float32)[:, None]
    if BITS == 4:
        byte = tl.arange(0, BLOCK_K // 2)
        tile = tl.load(
            values + row[:, None] * stride + unit * (BLOCK_K // 2) + byte[None, :],
            mask=real,
            other=0,
        )
        low, high = unpack4(tile, dtype, ASM)
        column = (byte // HALF) * (2 * HALF) + byte % HALF
        place = out + row[:, None] * columns + unit * BLOCK_K + column[None, :]
        tl.store(place, (low.to(tl.float32) * scale).to(dtype), mask=real)
        tl.store(place + HALF, (high.to(tl.float32) * scale).to(dtype), mask=real)
    else:
        column = tl.arange(0, BLOCK_K)
        tile = tl.load(
            values + row[:, None] * stride + unit * BLOCK_K + column[None, :], mask=real, other=0
        )
        place = out + row[:, None] * columns + unit * BLOCK_K + column[None, :]
        tl.store(place, (tile.to(tl.float32) * scale).to(dtype), mask=real)
