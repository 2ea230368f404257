"""ggml's block quantisers, equal bit for bit to the ``gguf`` package's, and faster.

Blocks of 32 consecutive weights of a row. A block is, little-endian:

====  =======================================================================================
Q8_0  float16 d; 32 int8 q                              weight = d q
Q4_0  float16 d; 16 bytes of nibbles                    weight = d (q - 8)
Q4_1  float16 d, m; 16 bytes of nibbles                 weight = d q + m
Q5_0  float16 d; 32 high bits; 16 bytes of nibbles      weight = d (q - 16)
Q5_1  float16 d, m; 32 high bits; 16 bytes of nibbles   weight = d q + m
====  =======================================================================================

Nibble byte i holds weight i (low) and weight i + 16 (high).

Larger ones, the K-quants, are in ``k_quants``; ``encoder`` and ``dequantize`` know both.

The numbers are chosen by C kernels (``ggml_quants.c``), or by numpy where there is no compiler.
numpy is slow along rows of 32, so there n blocks are worked on as *lanes*, [8, 4 n]: lane g holds
weights 4g to 4g + 3 of every block. What belongs to a block is then repeated four times, [4 n].
Work goes in slices that fit the second-level cache. Both release the interpreter's lock, so threads
scale.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llama_hub.hub.checkpoints import k_quants, numeric
from llama_hub.hub.checkpoints.numeric import Bits, Floats
from llama_hub.kernels import Kernels

BLOCK = 32  # weights
BLOCK_BYTES = {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24}
# Kind → (weights, bytes) of a block, of every kind that is read.
BLOCKS = {kind: (BLOCK, size) for kind, size in BLOCK_BYTES.items()} | {
    kind: (k_quants.SUPER, size) for kind, size in k_quants.SUPER_BYTES.items()
}
_AT_ONCE = 1 << 12  # blocks: 512 KiB as float32
_QUAD = 4  # weights of a block that stay together in a lane
_BELOW_HALF = np.float32(0.49999997).view(np.uint32)  # the float32 before 0.5, see _away
_SIGN = np.uint32(1 << 31)
_FOUR_BITS = np.uint32(1 << 24 | 1 << 17 | 1 << 10 | 1 << 3)  # see _high_bits

Bytes = npt.NDArray[np.uint8]

_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_size_t
KERNELS = Kernels(
    name="ggml",
    folder=Path(__file__).parent,
    sources=("ggml_quants.c", "k_quants.c", "group_quants.c"),
    headers=("ggml_blocks.h",),
    signatures={
        f"lh_{kind.lower()}": [_POINTER, _SIZE, ctypes.c_int, _POINTER, _POINTER]
        for kind in (*BLOCK_BYTES, *k_quants.WRITTEN)
    }
    | {
        "lh_groups": [
            *[_POINTER, _SIZE, _SIZE, *[ctypes.c_int] * 3],  # weights, and what they become
            *[_POINTER, ctypes.c_int],  # widths that are tried
            *[_POINTER] * 3,  # scales, numbers, sums
        ]
    },
)
_KERNEL_INPUT = {"float32": 0, "bfloat16": 1}


@cache
def library() -> ctypes.CDLL | None:
    """The C kernels, or ``None`` where they cannot be had."""
    return KERNELS.load()


def encoder(kind: str, dtype: str) -> Callable[[Bits], tuple[Bytes]]:
    """The encoder of rows ``[R, K]`` of ``dtype`` into ``[R, bytes of a row's blocks]``."""
    kernels = library()
    pack = _in_numpy(kind, dtype) if kernels is None else _in_c(kernels, kind, dtype)
    weights, width = BLOCKS[kind]

    def encode(block: Bits) -> tuple[Bytes]:
        blocks = block.reshape(-1, weights)
        out = np.empty((len(blocks), width), np.uint8)
        pack(blocks, out)
        return (out.reshape(len(block), -1),)

    return encode


def _in_numpy(kind: str, dtype: str) -> Callable[[Bits, Bytes], None]:
    def pack(blocks: Bits, out: Bytes) -> None:
        if kind in k_quants.WRITTEN:
            k_quants.quantize(kind, numeric.to_float32(blocks, dtype), out)
            return
        for start in range(0, len(blocks), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            _PACKERS[kind](numeric.to_float32(blocks[part], dtype), out[part])

    return pack


def _in_c(kernels: ctypes.CDLL, kind: str, dtype: str) -> Callable[[Bits, Bytes], None]:
    quantise = getattr(kernels, f"lh_{kind.lower()}")
    known = _KERNEL_INPUT.get(dtype)

    def pack(blocks: Bits, out: Bytes) -> None:
        given = blocks if known is not None else numeric.to_float32(blocks, dtype).view(np.uint32)
        given = np.ascontiguousarray(given)
        least = np.ones(len(blocks), np.float32)
        quantise(given.ctypes.data, len(blocks), known or 0, out.ctypes.data, least.ctypes.data)
        if zero := np.flatnonzero(least == 0).tolist():  # of either sign, as numpy chooses
            out[zero, 2:4] = _half(numeric.to_float32(blocks[zero], dtype).min(axis=1))

    return pack


def dequantize(kind: str, rows: Bytes) -> Floats:
    """Rows of blocks, in bytes [R, B], to their weights [R, K], exactly."""
    blocks = rows.reshape(-1, BLOCKS[kind][1])
    unpack = k_quants.dequantize if kind in k_quants.SUPER_BYTES else _unpacked
    with np.errstate(invalid="ignore", over="ignore"):  # a damaged scale; whoever reads it checks
        return unpack(kind, blocks).reshape(len(rows), -1)


def _unpacked(kind: str, blocks: Bytes) -> Floats:
    d = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
    if kind == "Q8_0":
        return d * blocks[:, 2:].view(np.int8).astype(np.float32)
    nibbles = np.concatenate([blocks[:, -16:] & np.uint8(15), blocks[:, -16:] >> np.uint8(4)], 1)
    if kind.startswith("Q5"):
        fifth = np.unpackbits(blocks[:, -20:-16], axis=1, bitorder="little")
        nibbles |= fifth << np.uint8(4)
    numbers = nibbles.astype(np.float32)
    if kind.endswith("_0"):
        return d * (numbers - np.float32(16 if kind == "Q5_0" else 8))
    least = np.ascontiguousarray(blocks[:, 2:4]).view("<f2").astype(np.float32)
    return d * numbers + least


def _lanes(blocks: Floats) -> Floats:
    """[n, 32] to lanes [8, 4 n]: a transposition of quads, each 16 bytes."""
    quads = np.ascontiguousarray(blocks).view(np.complex128)
    return np.ascontiguousarray(quads.T).view(np.float32)


def _store(lanes: Bytes, out: Bytes) -> None:
    """Lanes of bytes [g, 4 n] to blocks [n, 4 g]."""
    out.view(np.uint32)[:] = lanes.view(np.uint32).T


def _over_block(combine: np.ufunc, lanes: Floats) -> Floats:
    """``combine`` over the 32 weights of each block, [n]."""
    quads = combine.reduce(lanes, axis=0).reshape(-1, _QUAD)
    combined: Floats = combine(combine(quads[:, 0], quads[:, 1]), combine(quads[:, 2], quads[:, 3]))
    return combined


def _scaled(lanes: Floats, scale: Floats) -> Floats:
    """weights / scale, and 0 where 1 / scale is no number."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / scale
    inverse[np.isinf(inverse)] = 0
    return lanes * np.repeat(inverse, _QUAD)


def _half(values: Floats) -> Bytes:
    """[n] as the two bytes of float16, [n, 2]."""
    with np.errstate(over="ignore"):
        return values.astype("<f2")[:, None].view(np.uint8)


def _pack_q8_0(blocks: Floats, out: Bytes) -> None:
    lanes = _lanes(blocks)
    largest = np.maximum(_over_block(np.maximum, lanes), -_over_block(np.minimum, lanes))
    scale = (np.abs(largest) / np.float32(127)).astype(np.float32, copy=False)
    values = _scaled(lanes, scale)
    values += _away(values)
    out[:, :2] = _half(scale)
    _store(values.astype(np.int8).view(np.uint8), out[:, 2:])


def _away(values: Floats) -> Floats:
    """What to add before truncation, to round to nearest with halves away from zero."""
    bits = values.view(np.uint32) & _SIGN
    bits |= _BELOW_HALF
    return bits.view(np.float32)


def _symmetric(blocks: Floats, levels: int) -> tuple[Bytes, Floats]:
    """Lanes of numbers 0 … levels-1 around levels/2; the largest weight takes the lowest."""
    lanes, half = _lanes(blocks), levels // 2
    most, least = _over_block(np.maximum, lanes), _over_block(np.minimum, lanes)
    extreme = np.where(most > -least, most, least)
    tied = np.flatnonzero(most == -least)  # the first of them decides
    extreme[tied] = blocks[tied, np.abs(blocks[tied]).argmax(axis=1)]
    scale = (extreme / np.float32(-half)).astype(np.float32, copy=False)
    values = _scaled(lanes, scale)
    values += np.float32(half + 0.5)
    return _truncated(values, levels), scale


def _affine(blocks: Floats, levels: int) -> tuple[Bytes, Floats, Floats]:
    """Lanes of numbers 0 … levels-1 between the smallest weight and the largest."""
    lanes = _lanes(blocks)
    most, least = _over_block(np.maximum, lanes), _over_block(np.minimum, lanes)
    zero = np.flatnonzero(least == 0)  # of either sign
    least[zero] = blocks[zero].min(axis=1)
    scale = (most - least) / np.float32(levels - 1)
    values = _scaled(lanes - np.repeat(least, _QUAD), scale)
    values += np.float32(0.5)
    return _truncated(values, levels), scale, least


def _truncated(values: Floats, levels: int) -> Bytes:
    np.minimum(values, np.float32(levels - 0.5), out=values)
    return values.astype(np.uint8)


def _nibbles(chosen: Bytes) -> Bytes:
    """Low nibbles of weights i and i + 16 in one byte: lanes [4, 4 n]."""
    return (chosen[:4] & np.uint8(15)) | (chosen[4:] << np.uint8(4))


def _high_bits(chosen: Bytes) -> Bytes:
    """Bit 4 of each of the 32 numbers, [n, 4].

    The product brings the lowest bits of a word's four bytes together in its bits 24 to 27.
    """
    words = (chosen >> np.uint8(4)).view(np.uint32)
    bits = np.zeros(words.shape[1], np.uint32)
    for lane, word in enumerate(words):
        bits |= ((word * _FOUR_BITS) >> np.uint32(24) & np.uint32(15)) << np.uint32(_QUAD * lane)
    return bits[:, None].view(np.uint8)


def _pack_q4_0(blocks: Floats, out: Bytes) -> None:
    chosen, scale = _symmetric(blocks, 16)
    out[:, :2] = _half(scale)
    _store(_nibbles(chosen), out[:, 2:])


def _pack_q4_1(blocks: Floats, out: Bytes) -> None:
    chosen, scale, least = _affine(blocks, 16)
    out[:, :2] = _half(scale)
    out[:, 2:4] = _half(least)
    _store(_nibbles(chosen), out[:, 4:])


def _pack_q5_0(blocks: Floats, out: Bytes) -> None:
    chosen, scale = _symmetric(blocks, 32)
    out[:, :2] = _half(scale)
    out[:, 2:6] = _high_bits(chosen)
    _store(_nibbles(chosen), out[:, 6:])


def _pack_q5_1(blocks: Floats, out: Bytes) -> None:
    chosen, scale, least = _affine(blocks, 32)
    out[:, :2] = _half(scale)
    out[:, 2:4] = _half(least)
    out[:, 4:8] = _high_bits(chosen)
    _store(_nibbles(chosen), out[:, 8:])


_PACKERS: dict[str, Callable[[Floats, Bytes], None]] = {
    "Q8_0": _pack_q8_0,
    "Q4_0": _pack_q4_0,
    "Q4_1": _pack_q4_1,
    "Q5_0": _pack_q5_0,
    "Q5_1": _pack_q5_1,
}
