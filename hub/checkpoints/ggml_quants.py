"""ggml's block quantisers in numpy, equal bit for bit to the ``gguf`` package's, and faster.

Blocks of 32 consecutive weights of a row. A block is, little-endian:

====  =======================================================================================
Q8_0  float16 d; 32 int8 q                              weight = d q
Q4_0  float16 d; 16 bytes of nibbles                    weight = d (q - 8)
Q4_1  float16 d, m; 16 bytes of nibbles                 weight = d q + m
Q5_0  float16 d; 32 high bits; 16 bytes of nibbles      weight = d (q - 16)
Q5_1  float16 d, m; 32 high bits; 16 bytes of nibbles   weight = d q + m
====  =======================================================================================

Nibble byte i holds weight i (low) and weight i + 16 (high). Work goes in slices that fit the
second-level cache; numpy releases the interpreter's lock, so several threads scale.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from llama_hub.hub.checkpoints import numeric
from llama_hub.hub.checkpoints.numeric import Bits, Floats

BLOCK = 32  # weights
BLOCK_BYTES = {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24}
_AT_ONCE = 1 << 11  # blocks: 256 KiB as float32
_BELOW_HALF = np.float32(0.49999997).view(np.uint32)  # the float32 before 0.5, see _away
_LOW_NIBBLES = np.uint64(0x0F0F0F0F0F0F0F0F)
_SIGN = np.uint32(1 << 31)

Bytes = npt.NDArray[np.uint8]


def encoder(kind: str, dtype: str) -> Callable[[Bits], tuple[Bytes]]:
    """The encoder of rows ``[R, K]`` of ``dtype`` into ``[R, K / 32 * BLOCK_BYTES]``."""
    pack = _PACKERS[kind]
    width = BLOCK_BYTES[kind]

    def encode(block: Bits) -> tuple[Bytes]:
        blocks = block.reshape(-1, BLOCK)
        out = np.empty((len(blocks), width), np.uint8)
        for start in range(0, len(blocks), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            pack(numeric.to_float32(blocks[part], dtype), out[part])
        return (out.reshape(len(block), -1),)

    return encode


def _inverse(scale: Floats) -> Floats:
    """1 / scale, and 0 where that is no number."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / scale
    return np.where(np.isinf(inverse), np.float32(0), inverse)


def _half(values: Floats) -> Bytes:
    """[n, 1] as the two bytes of float16, [n, 2]."""
    with np.errstate(over="ignore"):
        return values.astype("<f2").view(np.uint8)


def _pack_q8_0(blocks: Floats, out: Bytes) -> None:
    largest = _picked(blocks, np.abs(blocks).argmax(axis=1))
    scale = (np.abs(largest) / np.float32(127)).astype(np.float32, copy=False)
    values = blocks * _inverse(scale)
    values += _away(values)
    out[:, :2] = _half(scale)
    out[:, 2:] = values.astype(np.int8).view(np.uint8)


def _away(values: Floats) -> Floats:
    """What to add before truncation, to round to nearest with halves away from zero."""
    bits = values.view(np.uint32) & _SIGN
    bits |= _BELOW_HALF
    return bits.view(np.float32)


def _picked(blocks: Floats, columns: npt.NDArray[np.intp]) -> Floats:
    """One weight of each block, [n, 1]. (With argmax this is faster than max along short rows.)"""
    columns += np.arange(0, blocks.size, BLOCK)
    return blocks.reshape(-1)[columns][:, None]


def _symmetric(blocks: Floats, levels: int) -> tuple[Bytes, Floats]:
    """Whole numbers 0 … levels-1 around levels/2; the largest weight takes the lowest."""
    half = levels // 2
    scale = _picked(blocks, np.abs(blocks).argmax(axis=1)) / np.float32(-half)
    values = blocks * _inverse(scale)
    values += np.float32(half + 0.5)
    return _truncated(values, levels), scale


def _affine(blocks: Floats, levels: int) -> tuple[Bytes, Floats, Floats]:
    """Whole numbers 0 … levels-1 between the smallest weight and the largest."""
    least = _picked(blocks, blocks.argmin(axis=1))
    most = _picked(blocks, blocks.argmax(axis=1))
    scale = (most - least) / np.float32(levels - 1)
    values = blocks - least
    values *= _inverse(scale)
    values += np.float32(0.5)
    return _truncated(values, levels), scale, least


def _truncated(values: Floats, levels: int) -> Bytes:
    np.minimum(values, np.float32(levels - 0.5), out=values)
    return values.astype(np.uint8)


def _nibbles(chosen: Bytes) -> Bytes:
    """Low nibbles of weights i and i + 16 in one byte, [n, 16]; eight bytes at a time."""
    words = chosen.view(np.uint64)
    packed = np.empty((len(chosen), 2), np.uint64)
    for half in (0, 1):
        high = (words[:, half + 2] & _LOW_NIBBLES) << np.uint64(4)
        packed[:, half] = (words[:, half] & _LOW_NIBBLES) | high
    return packed.view(np.uint8)


def _high_bits(chosen: Bytes) -> Bytes:
    """Bit 4 of each of the 32 numbers, [n, 4]."""
    return np.packbits(chosen >> np.uint8(4), axis=1, bitorder="little")


def _pack_q4_0(blocks: Floats, out: Bytes) -> None:
    chosen, scale = _symmetric(blocks, 16)
    out[:, :2] = _half(scale)
    out[:, 2:] = _nibbles(chosen)


def _pack_q4_1(blocks: Floats, out: Bytes) -> None:
    chosen, scale, least = _affine(blocks, 16)
    out[:, :2] = _half(scale)
    out[:, 2:4] = _half(least)
    out[:, 4:] = _nibbles(chosen)


def _pack_q5_0(blocks: Floats, out: Bytes) -> None:
    chosen, scale = _symmetric(blocks, 32)
    out[:, :2] = _half(scale)
    out[:, 2:6] = _high_bits(chosen)
    out[:, 6:] = _nibbles(chosen)


def _pack_q5_1(blocks: Floats, out: Bytes) -> None:
    chosen, scale, least = _affine(blocks, 32)
    out[:, :2] = _half(scale)
    out[:, 2:4] = _half(least)
    out[:, 4:8] = _high_bits(chosen)
    out[:, 8:] = _nibbles(chosen)


_PACKERS: dict[str, Callable[[Floats, Bytes], None]] = {
    "Q8_0": _pack_q8_0,
    "Q4_0": _pack_q4_0,
    "Q4_1": _pack_q4_1,
    "Q5_0": _pack_q5_0,
    "Q5_1": _pack_q5_1,
}
