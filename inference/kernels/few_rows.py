"""``x Wᵀ`` for up to 64 rows of ``x``: the weight is read once, as it is stored.

The time of a decode step is the time to read the weights, so a program takes some of the weight's
rows, streams them through shared memory in 16-byte pieces and multiplies on the tensor cores, with
the weight as the left operand (its rows fill the 16 of an instruction, a single row of ``x`` would
not). Where the weight has few rows its columns are shared by several programs; the last of them to
end adds their sums up, in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from llama_hub.inference.kernels.unpack import unpack4


@triton.jit  # type: ignore[untyped-decorator]
def _add(  # type: ignore[no-untyped-def]
    total,
    values,
    scales,
    row,
    stride,
    groups,
    unit,
    first,
    second,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_K: tl.constexpr,
    ASM: tl.constexpr,
):
    """``total`` ``[BLOCK_N, ROWS]`` plus the product of one tile; ``first`` and ``second``: x."""
    if BITS == 4:
        byte = tl.arange(0, BLOCK_K // 2)
        tile = tl.load(values + row[:, None] * stride + unit * (BLOCK_K // 2) + byte[None, :])
        if GROUP > 0:
            scale = tl.load(scales + row * groups + unit * BLOCK_K // GROUP).to(tl.float32)
        low, high = unpack4(tile, first.dtype, ASM)
        part = tl.dot(low, first)
        part = tl.dot(high, second, part)
    else:
        column = tl.arange(0, BLOCK_K)
        tile = tl.load(values + row[:, None] * stride + unit * BLOCK_K + column[None, :])
        if GROUP > 0:
            scale = tl.load(scales + row * groups + unit * BLOCK_K // GROUP).to(tl.float32)
        part = tl.dot(tile.to(first.dtype), first)
    if GROUP > 0:
        part = part * scale[:, None]
    return total + part


@triton.jit  # type: ignore[untyped-decorator]
def _finish(  # type: ignore[no-untyped-def]
    total,
    up,
    scales,
    row,
    width,
    residual,
    out,
    place,
    valid,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    SWIGLU: tl.constexpr,
    RESIDUAL: tl.constexpr,
):
    """Scales of whole rows, activation, residual; then the store."""
    if BITS < 16 and GROUP == 0:
        total = total * tl.load(scales + row).to(tl.float32)[:, None]
        if SWIGLU:
            up = up * tl.load(scales + row + width).to(tl.float32)[:, None]
    if SWIGLU:
        total = total / (1.0 + tl.exp(-total)) * up
    if RESIDUAL:
        total += tl.load(residual + place, mask=valid, other=0.0).to(tl.float32)
    tl.store(out + place, total.to(out.dtype.element_ty), mask=valid)


@triton.jit  # type: ignore[untyped-decorator]
def _sum(  # type: ignore[no-untyped-def]
    partials, step, real, total, up, size: tl.constexpr, SPLITS: tl.constexpr, SWIGLU: tl.constexpr
):
    """The sums of all programs that share a tile, always in the same order."""
    total = tl.zeros_like(total)
    up = tl.zeros_like(up)
    for split in tl.static_range(SPLITS):  # unrolled, so that all loads are on their way at once
        total += tl.load(partials + split * step, mask=real, other=0.0, cache_modifier=".cg")
        if SWIGLU:
            theirs = partials + split * step + size
            up += tl.load(theirs, mask=real, other=0.0, cache_modifier=".cg")
    return total, up


@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator]
def few_rows(  # type: ignore[no-untyped-def]
    x,  # [rows, columns]
    values,  # [width (× 2 if SWIGLU), stride], packed in pairs HALF columns apart if BITS is 4
    scales,  # [the same, groups]
    residual,  # [rows, width], added if RESIDUAL
    out,  # [rows, width]
    partials,  # float32 [SPLITS, tiles, 1 or 2, BLOCK_N, ROWS]
    counters,  # int32 [tiles], zero before and after
    rows,
    width,
    columns,
    stride,
    groups,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,  # columns of a scale; 0: one for each row
    HALF: tl.constexpr,
    ROWS: tl.constexpr,  # a power of two, at least ``rows``
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PARTS: tl.constexpr,  # times BLOCK_K columns between two barriers
    SPLITS: tl.constexpr,
    SWIGLU: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ASM: tl.constexpr,
):
    tile, split = tl.program_id(0), tl.program_id(1)
    n = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.arange(0, ROWS)
    row = tl.where(n < width, n, 0).to(tl.int64)  # the last tile reads row 0 instead of a mask
    steps = columns // (BLOCK_K * PARTS)
    share = (steps + SPLITS - 1) // SPLITS
    begin = split * share
    end = tl.minimum(begin + share, steps)
    taken: tl.constexpr = BLOCK_K // 2 if BITS == 4 else BLOCK_K
    at = tl.arange(0, taken)
    if BITS == 4:
        at = (at // HALF) * (2 * HALF) + at % HALF
    x_at = x + m[None, :] * columns + at[:, None]
    real = (m < rows)[None, :]
    total = tl.zeros((BLOCK_N, ROWS), tl.float32)
    up = tl.zeros((BLOCK_N, ROWS), tl.float32)
    for step in range(begin, end):
        for part in tl.static_range(PARTS):
            unit = step * PARTS + part
            first = tl.load(x_at + unit * BLOCK_K, mask=real, other=0.0)
            second = first
            if BITS == 4:
                second = tl.load(x_at + unit * BLOCK_K + HALF, mask=real, other=0.0)
            total = _add(
                total, values, scales, row, stride, groups, unit, first, second,
                BITS, GROUP, BLOCK_K, ASM,
            )  # fmt: skip
            if SWIGLU:
                up = _add(
                    up, values, scales, row + width, stride, groups, unit, first, second,
                    BITS, GROUP, BLOCK_K, ASM,
                )  # fmt: skip
    place = m[None, :] * width + n[:, None]
    valid = real & (n < width)[:, None]
    if SPLITS == 1:
        _finish(
            total, up, scales, row, width, residual, out, place, valid,
            BITS, GROUP, SWIGLU, RESIDUAL,
        )  # fmt: skip
    else:
        tiles = tl.num_programs(0)
        size: tl.constexpr = BLOCK_N * ROWS
        kinds: tl.constexpr = 2 if SWIGLU else 1
        inside = tl.arange(0, BLOCK_N)[:, None] * ROWS + m[None, :]
        own = partials + (split * tiles + tile) * (kinds * size) + inside
        asked = real & (n >= 0)[:, None]  # rows that only fill the tensor cores are not shared
        tl.store(own, total, mask=asked)
        if SWIGLU:
            tl.store(own + size, up, mask=asked)
        tl.debug_barrier()  # every thread's part is written before the counter says so
        if tl.atomic_add(counters + tile, 1, sem="acq_rel") == SPLITS - 1:
            total, up = _sum(
                partials + tile * (kinds * size) + inside, tiles * (kinds * size), asked, total, up,
                size, SPLITS, SWIGLU,
            )  # fmt: skip
            tl.store(counters + tile, 0)
            _finish(
                total, up, scales, row, width, residual, out, place, valid,
                BITS, GROUP, SWIGLU, RESIDUAL,
            )  # fmt: skip
