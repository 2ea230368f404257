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
    BLOCK_K: tl.constexpr,  # columns within one group
    PARTS: tl.constexpr,  # times BLOCK_K columns of a program
    ASM: tl.constexpr,
):
    row = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    real = (row < width)[:, None]
    dtype = out.dtype.element_ty
    for part in tl.static_range(PARTS):
        unit = tl.program_id(1) * PARTS + part
        at = scales + row * groups
        if GROUP > 0:
            at += unit * BLOCK_K // GROUP
        scale = tl.load(at, mask=row < width, other=0.0).to(tl.float32)[:, None]
        if BITS == 4:
            byte = tl.arange(0, BLOCK_K // 2)
            place = values + row[:, None] * stride + unit * (BLOCK_K // 2) + byte[None, :]
            low, high = unpack4(tl.load(place, mask=real, other=0), dtype, ASM)
            column = (byte // HALF) * (2 * HALF) + byte % HALF
            to = out + row[:, None] * columns + unit * BLOCK_K + column[None, :]
            tl.store(to, (low.to(tl.float32) * scale).to(dtype), mask=real)
            tl.store(to + HALF, (high.to(tl.float32) * scale).to(dtype), mask=real)
        else:
            column = tl.arange(0, BLOCK_K)
            place = values + row[:, None] * stride + unit * BLOCK_K + column[None, :]
            tile = tl.load(place, mask=real, other=0).to(tl.float32)
            to = out + row[:, None] * columns + unit * BLOCK_K + column[None, :]
            tl.store(to, (tile * scale).to(dtype), mask=real)
