"""``x Wᵀ`` for a single row of ``x``: every thread reads 16 bytes of several rows of the weight.

Nothing is shared between threads until the sums are complete, so many loads are on their way at
once and the memory is busy all the time. Packed integers become floats by what is cheapest: their
bits are put into the mantissa of a number N, which gives N plus the integer (or a power of two of
it); what N adds to the sum, N times the sum of ``x``, is the same for all rows and taken off.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def _shifted4(packed, ASM: tl.constexpr):  # type: ignore[no-untyped-def]
    """uint8 → float32: the low half plus 2048, the high half plus 128."""
    if ASM:
        low, high = tl.inline_asm_elementwise(
            """{
            .reg .b32 a, b, c, d;
            shl.b32 a, $8, 12;
            shl.b32 b, $8, 4;
            shr.u32 c, $8, 4;
            shr.u32 d, $8, 12;
            lop3.b32 $0, a, 0x0000f000, 0x45000000, 0xea;
            lop3.b32 $1, b, 0x0000f000, 0x45000000, 0xea;
            lop3.b32 $2, c, 0x0000f000, 0x45000000, 0xea;
            lop3.b32 $3, d, 0x0000f000, 0x45000000, 0xea;
            lop3.b32 $4, a, 0x000f0000, 0x43000000, 0xea;
            lop3.b32 $5, b, 0x000f0000, 0x43000000, 0xea;
            lop3.b32 $6, c, 0x000f0000, 0x43000000, 0xea;
            lop3.b32 $7, d, 0x000f0000, 0x43000000, 0xea;
            }""",
            "=r,=r,=r,=r,=r,=r,=r,=r,r",
            [packed],
            dtype=(tl.float32, tl.float32),
            is_pure=True,
            pack=4,
        )
    else:
        low = (packed & 15).to(tl.float32) + 2048.0
        high = (packed >> 4).to(tl.float32) + 128.0
    return low, high


@triton.jit  # type: ignore[untyped-decorator]
def _shifted8(values, ASM: tl.constexpr):  # type: ignore[no-untyped-def]
    """int8 → float32, 32768 + 128 added."""
    if ASM:
        wide = tl.inline_asm_elementwise(
            """{
            .reg .b32 a, n;
            mov.b32 n, 0x47000000;
            xor.b32 a, $4, 0x80808080;
            prmt.b32 $0, a, n, 0x7504;
            prmt.b32 $1, a, n, 0x7514;
            prmt.b32 $2, a, n, 0x7524;
            prmt.b32 $3, a, n, 0x7534;
            }""",
            "=r,=r,=r,=r,r",
            [values],
            dtype=tl.float32,
            is_pure=True,
            pack=4,
        )
    else:
        wide = values.to(tl.float32) + 32896.0
    return wide


@triton.jit  # type: ignore[untyped-decorator]
def _dot(  # type: ignore[no-untyped-def]
    values,
    scales,
    row,
    stride,
    groups,
    begin,
    first,
    second,
    excess,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr,
    ASM: tl.constexpr,
):
    """Sums over 16 bytes each, which one thread reads, scaled: ``[BLOCK_N, CHUNK / each]``."""
    at = begin + tl.arange(0, CHUNK)
    place = values + row[:, None] * stride + at[None, :]
    tile = tl.load(place, mask=(at < stride)[None, :], other=0)
    each: tl.constexpr = 8 if BITS == 16 else 16
    shape: tl.constexpr = (BLOCK_N, CHUNK // each, each)
    if BITS == 4:
        low, high = _shifted4(tile, ASM)
        part = tl.sum(tl.reshape(low * first[None, :], shape), axis=2)
        part += tl.sum(tl.reshape(high * second[None, :], shape), axis=2)
    elif BITS == 8:
        part = tl.sum(tl.reshape(_shifted8(tile, ASM) * first[None, :], shape), axis=2)
    else:
        part = tl.sum(tl.reshape(tile.to(tl.float32) * first[None, :], shape), axis=2)
    if BITS < 16:
        part = part - excess[None, :]
    if GROUP > 0:
        column = (begin + tl.arange(0, CHUNK // each) * each) * (2 if BITS == 4 else 1)
        scale = scales + row[:, None] * groups + (column // GROUP)[None, :]
        inside = (column < groups * GROUP)[None, :]
        part = part * tl.load(scale, mask=inside, other=0.0).to(tl.float32)
    return part


@triton.jit  # type: ignore[untyped-decorator]
def one_row(  # type: ignore[no-untyped-def]
    x,  # [columns]
    values,  # [width (× 2 if SWIGLU), stride], packed in pairs HALF columns apart if BITS is 4
    scales,  # [the same, groups]
    residual,  # [width], added if RESIDUAL
    out,  # [width]
    width,
    stride,
    groups,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,  # columns of a scale; 0: one for each row
    HALF: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr,  # of a row at a time, in its own elements (bytes, or 16-bit numbers)
    SWIGLU: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ASM: tl.constexpr,
):
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    row = tl.where(n < width, n, 0).to(tl.int64)
    each: tl.constexpr = 8 if BITS == 16 else 16
    total = tl.zeros((BLOCK_N, CHUNK // each), tl.float32)
    up = tl.zeros((BLOCK_N, CHUNK // each), tl.float32)
    for begin in range(0, stride, CHUNK):
        at = begin + tl.arange(0, CHUNK)
        inside = at < stride
        if BITS == 4:
            column = (at // HALF) * (2 * HALF) + at % HALF
            first = tl.load(x + column, mask=inside, other=0.0).to(tl.float32)
            second = tl.load(x + column + HALF, mask=inside, other=0.0).to(tl.float32)
            excess = first * (2048.0 + 8.0) + second * (128.0 + 8.0)
        else:
            first = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
            second = first
            excess = first * (32768.0 + 128.0)
        excess = tl.sum(tl.reshape(excess, (CHUNK // each, each)), axis=1)
        total += _dot(
            values, scales, row, stride, groups, begin, first, second, excess,
            BITS, GROUP, BLOCK_N, CHUNK, ASM,
        )  # fmt: skip
        if SWIGLU:
            up += _dot(
                values, scales, row + width, stride, groups, begin, first, second, excess,
                BITS, GROUP, BLOCK_N, CHUNK, ASM,
            )  # fmt: skip
    result = tl.sum(total, axis=1)
    gated = tl.sum(up, axis=1)
    if BITS < 16 and GROUP == 0:
        result = result * tl.load(scales + row * groups).to(tl.float32)
        if SWIGLU:
            gated = gated * tl.load(scales + (row + width) * groups).to(tl.float32)
    if SWIGLU:
        result = result / (1.0 + tl.exp(-result)) * gated
    if RESIDUAL:
        result += tl.load(residual + n, mask=n < width, other=0.0).to(tl.float32)
    tl.store(out + n, result.to(out.dtype.element_ty), mask=n < width)
