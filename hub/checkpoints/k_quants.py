"""ggml's K-quants: super-blocks of 256 weights, quantised as ``ggml-quants.c`` does, bit for bit.

A super-block is cut into groups that share a scale (and a minimum), which are small whole numbers
themselves; d and dmin are float16. Little-endian:

====  ==========================================================================================
Q2_K  16 groups; 16 bytes scale | min << 4; 64 bytes of 2-bit q; d, dmin      d s q - dmin m
Q3_K  16 groups; 32 bytes of third bits; 64 bytes of low q; 12 bytes of
      6-bit scales; d                                                        d (s - 32) (q - 4)
Q4_K  8 groups; d, dmin; 12 bytes of 6-bit scales and mins; 128 nibbles       d s q - dmin m
Q5_K  8 groups; d, dmin; 12 bytes likewise; 32 bytes of fifth bits; nibbles   d s q - dmin m
Q6_K  16 groups; 128 bytes of low q; 64 of high bits; 16 int8 scales; d       d s (q - 32)
====  ==========================================================================================

Quantising searches each group's scale: for a number of trial scales the numbers are rounded, the
best scale for these numbers is solved for, and the one with the least weighted error is taken.
The sums run in the order of the weights, so that any implementation gives the same bits: the C
kernels (``k_quants.c``) put groups side by side in a vector, numpy in a row of an array
``[weights of a group, groups]``, along whose columns it adds one row after another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llama_hub.hub.checkpoints.numeric import Floats

SUPER = 256  # weights
SUPER_BYTES = {"Q2_K": 84, "Q3_K": 110, "Q4_K": 144, "Q5_K": 176, "Q6_K": 210}
WRITTEN = ("Q4_K", "Q5_K", "Q6_K")

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int32]

_AT_ONCE = 1 << 9  # super-blocks: 512 KiB as float32
_ROUND = np.float32(12582912)  # 1.5 * 2^23: a float added to it is rounded to a whole number
_SMALLEST = np.float32(1e-15)  # what is smaller in a group counts as nothing


@dataclass(frozen=True)
class _Search:
    """What was found for each group, [groups]; ``numbers`` [weights of a group, groups]."""

    scale: Floats
    offset: Floats
    numbers: Ints


def _nearest(values: Floats) -> Ints:
    """To the nearest whole number, ties to even; beyond 2^22 as ggml does, by the bits."""
    whole: Ints = ((values + _ROUND).view(np.int32) & 0x007FFFFF) - 0x00400000
    return whole


def _numbers(values: Floats, low: int, high: int) -> Ints:
    return np.clip(_nearest(values), low, high)


def _sum(terms: Floats) -> Floats:
    """Down the columns, one row after another."""
    added: Floats = np.add.reduce(terms, axis=0, initial=np.float32(0))
    return added


def _affine(x: Floats, top: int, start: float, steps: int) -> _Search:
    """The scale and offset of groups ``x`` [32, groups] for numbers 0 … ``top``."""
    weight = np.sqrt(_sum(x * x) / np.float32(32)) + np.abs(x)
    sum_w, sum_x = _sum(weight), _sum(weight * x)
    least, most = np.minimum(x.min(axis=0), np.float32(0)), x.max(axis=0)
    flat = least == most
    inverse = np.float32(top) / (most - least)
    scale = np.float32(1) / inverse
    numbers = _numbers(inverse * (x - least), 0, top)
    best = _error(weight, scale * numbers.astype(np.float32) + least - x)
    for step in range(steps + 1):
        reach = np.float32(start) + np.float32(0.1) * np.float32(step) + np.float32(top)
        trial = _numbers((reach / (most - least)) * (x - least), 0, top)
        whole = trial.astype(np.float32)
        slope, intercept, sound = _solved(x, weight, whole, sum_w, sum_x)
        error = _error(weight, slope * whole + intercept - x)
        better = (error < best) & sound & ~flat
        best = np.where(better, error, best)
        scale = np.where(better, slope, scale)
        least = np.where(better, intercept, least)
        numbers = np.where(better, trial, numbers)
    return _Search(np.where(flat, np.float32(0), scale), -least, np.where(flat, 0, numbers))


def _error(weight: Floats, difference: Floats) -> Floats:
    return _sum(weight * (difference * difference))


def _solved(
    x: Floats, weight: Floats, numbers: Floats, sum_w: Floats, sum_x: Floats
) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    """The line with the least weighted error through (number, weight), and whether there is one.

    Its intercept is at most 0, for the offset is stored as a positive number.
    """
    weighted = weight * numbers
    sum_l, sum_l2, sum_xl = _sum(weighted), _sum(weighted * numbers), _sum(weighted * x)
    determinant = sum_w * sum_l2 - sum_l * sum_l
    slope: Floats = np.divide(sum_w * sum_xl - sum_x * sum_l, determinant)
    intercept: Floats = np.divide(sum_l2 * sum_x - sum_l * sum_xl, determinant)
    positive = intercept > 0
    slope = np.where(positive, sum_xl / sum_l2, slope)
    intercept = np.where(positive, np.float32(0), intercept)
    return slope, intercept, determinant > 0


def _symmetric(x: Floats) -> _Search:
    """The scale of groups ``x`` [16, groups] for numbers -32 … 31; ``numbers`` are 32 more."""
    extreme = np.take_along_axis(x, np.abs(x).argmax(axis=0)[None], axis=0)[0]
    square = x * x
    cube = square * x
    scale = best = np.zeros_like(extreme)
    numbers = np.zeros(x.shape, np.int32)
    for step in (0, *range(-9, 0), *range(1, 10)):
        reach = np.float32(32) + np.float32(0.1) * np.float32(step)
        trial = _numbers(-reach / extreme * x, -32, 31)
        whole = trial.astype(np.float32)
        sum_lx, sum_l2 = _sum(cube * whole), _sum(square * whole * whole)
        better = (sum_l2 > 0) & (sum_lx * sum_lx > best * sum_l2) if step else sum_l2 != 0
        if not step:
            numbers = trial
        scale = np.where(better, sum_lx / sum_l2, scale)
        best = np.where(better, scale * sum_lx, best)
        numbers = np.where(better, trial, numbers)
    nothing = np.abs(extreme) < _SMALLEST
    scale = np.where(nothing, np.float32(0), scale)
    return _Search(scale, np.zeros_like(scale), np.where(nothing, 0, numbers + 32))


def _groups(blocks: Floats, size: int) -> Floats:
    """[n, 256] to [size, 256 / size * n]."""
    return np.ascontiguousarray(blocks.reshape(-1, size).T)


def _half(values: Floats) -> npt.NDArray[np.float16]:
    return values.astype("<f2")


def _bytes_of(halves: npt.NDArray[np.float16]) -> Bytes:
    return halves[:, None].view(np.uint8)


def _pack_affine(blocks: Floats, out: Bytes, top: int, start: float, steps: int) -> None:
    found = _affine(_groups(blocks, 32), top, start, steps)
    scale, offset = found.scale.reshape(-1, 8), found.offset.reshape(-1, 8)
    most, deepest = (np.maximum(part.max(axis=1), np.float32(0)) for part in (scale, offset))
    scales = _sixes(scale, most)
    minima = _sixes(offset, deepest)
    d, dmin = _half(most / np.float32(63)), _half(deepest / np.float32(63))
    out[:, 0:2], out[:, 2:4] = _bytes_of(d), _bytes_of(dmin)
    out[:, 4:16] = _packed_sixes(scales, minima)
    step = (d.astype(np.float32)[:, None] * scales.astype(np.float32)).reshape(-1)
    shift = (dmin.astype(np.float32)[:, None] * minima.astype(np.float32)).reshape(-1)
    again = _numbers((_groups(blocks, 32) + shift) / step, 0, top)
    numbers = np.where(step == 0, found.numbers, again)
    groups = numbers.T.astype(np.uint8).reshape(-1, 8, 32)
    if top > 15:
        bits = np.packbits((groups >> np.uint8(4)).transpose(0, 2, 1), axis=2, bitorder="little")
        out[:, 16:48] = bits[:, :, 0]
        groups = groups & np.uint8(15)
    nibbles = groups[:, 0::2] | groups[:, 1::2] << np.uint8(4)
    out[:, -128:] = nibbles.reshape(-1, 128)


def _sixes(values: Floats, most: Floats) -> Bytes:
    """Each of [n, 8] as six bits, ``most`` [n] being 63."""
    inverse = np.where(most > 0, np.float32(63) / most, np.float32(0))
    return np.minimum(_nearest(inverse[:, None] * values).astype(np.uint8), np.uint8(63))


def _packed_sixes(scales: Bytes, minima: Bytes) -> Bytes:
    """[n, 8] each in [n, 12]."""
    first = [part[:, :4] | part[:, 4:] >> np.uint8(4) << np.uint8(6) for part in (scales, minima)]
    last = (scales[:, 4:] & np.uint8(15)) | (minima[:, 4:] & np.uint8(15)) << np.uint8(4)
    return np.concatenate([*first, last], axis=1)


def _unpacked_sixes(packed: Bytes) -> tuple[Bytes, Bytes]:
    """The inverse of ``_packed_sixes``."""
    first, second, last = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    low, high = np.uint8(63), np.uint8(6)
    scales = (last & np.uint8(15)) | first >> high << np.uint8(4)
    minima = last >> np.uint8(4) | second >> high << np.uint8(4)
    return (
        np.concatenate([first & low, scales], axis=1),
        np.concatenate([second & low, minima], axis=1),
    )


def _pack_q6(blocks: Floats, out: Bytes) -> None:
    x = _groups(blocks, 16)
    found = _symmetric(x)
    scale = found.scale.reshape(-1, 16)
    extreme = np.take_along_axis(scale, np.abs(scale).argmax(axis=1)[:, None], axis=1)[:, 0]
    inverse = np.float32(-128) / extreme
    d = _half(np.float32(1) / inverse)
    scales = np.minimum(_nearest(inverse[:, None] * scale), 127).astype(np.int8)
    step = (d.astype(np.float32)[:, None] * scales.astype(np.float32)).reshape(-1)
    again = _numbers(x / step, -32, 31) + 32
    numbers = np.where(step == 0, found.numbers, again).T.astype(np.uint8).reshape(-1, 2, 4, 32)
    low = numbers & np.uint8(15)
    out[:, :128] = (low[:, :, :2] | low[:, :, 2:] << np.uint8(4)).reshape(-1, 128)
    high = (numbers >> np.uint8(4)) << np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    out[:, 128:192] = np.bitwise_or.reduce(high, axis=2).reshape(-1, 64)
    out[:, 192:208] = scales.view(np.uint8)
    out[:, 208:210] = _bytes_of(d)
    out[np.abs(extreme) < _SMALLEST] = 0


_PACKERS: dict[str, Callable[[Floats, Bytes], None]] = {
    "Q4_K": lambda blocks, out: _pack_affine(blocks, out, 15, -1.0, 20),
    "Q5_K": lambda blocks, out: _pack_affine(blocks, out, 31, -0.5, 15),
    "Q6_K": _pack_q6,
}


def quantize(kind: str, blocks: Floats, out: Bytes) -> None:
    """Super-blocks [n, 256] into ``out`` [n, SUPER_BYTES]; without C."""
    with np.errstate(all="ignore"):  # groups of zeros divide by zero, and are set apart after it
        for start in range(0, len(blocks), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            _PACKERS[kind](blocks[part], out[part])


# ------------------------------------------------------------------ reading


def _of_half(two: Bytes) -> Floats:
    return np.ascontiguousarray(two).view("<f2").astype(np.float32)


def _crumbs(packed: Bytes) -> Bytes:
    """Two-bit numbers [n, 64] in ggml's order, [n, 256]: four runs of 32 in each 32 bytes."""
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    return ((packed.reshape(-1, 2, 1, 32) >> shifts) & np.uint8(3)).reshape(-1, SUPER)


def _nibbles(packed: Bytes) -> Bytes:
    """[n, 128] to [n, 256]: the low nibbles of 32 bytes, then their high ones."""
    parts = packed.reshape(-1, 4, 1, 32) >> np.array([0, 4], np.uint8)[:, None]
    return (parts & np.uint8(15)).reshape(-1, SUPER)


def _scaled(numbers: npt.NDArray[np.integer], scale: Floats, offset: Floats | None) -> Floats:
    """``scale`` [n, groups] times the numbers [n, 256], less ``offset``."""
    groups = numbers.reshape(*scale.shape, -1).astype(np.float32)
    weights: Floats = scale[:, :, None] * groups
    if offset is not None:
        weights -= offset[:, :, None]
    return weights.reshape(-1, SUPER)


def _unpack_q2(blocks: Bytes) -> Floats:
    d, dmin = _of_half(blocks[:, 80:82]), _of_half(blocks[:, 82:84])
    scales = blocks[:, :16]
    low, high = (scales & np.uint8(15)).astype(np.float32), (scales >> np.uint8(4))
    return _scaled(_crumbs(blocks[:, 16:80]), d * low, dmin * high.astype(np.float32))


def _unpack_q3(blocks: Bytes) -> Floats:
    packed = blocks[:, 96:108]
    low = np.concatenate([packed[:, :8] & np.uint8(15), packed[:, :8] >> np.uint8(4)], axis=1)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = ((packed[:, None, 8:] >> shifts) & np.uint8(3)).reshape(-1, 16)
    scales = (low | high << np.uint8(4)).astype(np.int8) - np.int8(32)
    bits = np.arange(8, dtype=np.uint8)[:, None]
    third = ((blocks[:, None, :32] >> bits) & np.uint8(1)).reshape(-1, SUPER)
    numbers = (_crumbs(blocks[:, 32:96]) | third << np.uint8(2)).astype(np.int8) - np.int8(4)
    return _scaled(numbers, _of_half(blocks[:, 108:110]) * scales.astype(np.float32), None)


def _unpack_affine(blocks: Bytes, numbers: Bytes) -> Floats:
    scales, minima = _unpacked_sixes(blocks[:, 4:16])
    d, dmin = _of_half(blocks[:, :2]), _of_half(blocks[:, 2:4])
    return _scaled(numbers, d * scales.astype(np.float32), dmin * minima.astype(np.float32))


def _unpack_q4(blocks: Bytes) -> Floats:
    return _unpack_affine(blocks, _nibbles(blocks[:, 16:]))


def _unpack_q5(blocks: Bytes) -> Floats:
    bits = np.arange(8, dtype=np.uint8)[:, None]
    fifth = ((blocks[:, None, 16:48] >> bits) & np.uint8(1)).reshape(-1, SUPER)
    return _unpack_affine(blocks, _nibbles(blocks[:, 48:]) | fifth << np.uint8(4))


def _unpack_q6(blocks: Bytes) -> Floats:
    low = blocks[:, :128].reshape(-1, 2, 1, 64) >> np.array([0, 4], np.uint8)[:, None]
    low = (low & np.uint8(15)).reshape(-1, SUPER)
    numbers = (low | _crumbs(blocks[:, 128:192]) << np.uint8(4)).astype(np.int8) - np.int8(32)
    scales = blocks[:, 192:208].view(np.int8).astype(np.float32)
    return _scaled(numbers, _of_half(blocks[:, 208:210]) * scales, None)


_UNPACKERS: dict[str, Callable[[Bytes], Floats]] = {
    "Q2_K": _unpack_q2,
    "Q3_K": _unpack_q3,
    "Q4_K": _unpack_q4,
    "Q5_K": _unpack_q5,
    "Q6_K": _unpack_q6,
}


def dequantize(kind: str, blocks: Bytes) -> Floats:
    """Super-blocks [n, SUPER_BYTES] to their weights [n, 256], exactly."""
    return _UNPACKERS[kind](blocks)
