"""Weights as bit patterns: what bfloat16, float16 and float32 are to numpy, which has no bfloat16.

A block of weights is an array ``[rows, columns]`` of unsigned integers that hold the bits; its
dtype's name goes with it. Only a change of dtype or a quantiser looks at the values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.unsignedinteger[Any]]
Floats = npt.NDArray[np.float32]

DTYPES = ("bfloat16", "float16", "float32")
_BITS: dict[str, np.dtype[Any]] = {
    "bfloat16": np.dtype("<u2"),
    "float16": np.dtype("<u2"),
    "float32": np.dtype("<u4"),
}
_EXPONENT = {"bfloat16": 0x7F80, "float16": 0x7C00, "float32": 0x7F800000}
_MAGNITUDE = {"bfloat16": 0x7FFF, "float16": 0x7FFF, "float32": 0x7FFFFFFF}


def bits_type(dtype: str) -> np.dtype[Any]:
    """The little-endian unsigned integer that holds one value of ``dtype``."""
    return _BITS[dtype]


def item_bytes(dtype: str) -> int:
    """Bytes of one value."""
    return _BITS[dtype].itemsize


def non_finite(bits: Bits, dtype: str) -> int:
    """How many values are NaN or infinite: those whose exponent is all ones.

    Finite positive ones are below, as signed numbers, and finite negative ones as unsigned
    numbers: two maxima, which need no copy, settle the usual case.
    """
    exponent, magnitude = _EXPONENT[dtype], _MAGNITUDE[dtype]
    if bits.size == 0:
        return 0
    signed = bits.view(f"<i{bits.itemsize}")
    if int(signed.max()) < exponent and int(bits.max()) < exponent + magnitude + 1:
        return 0
    return int(np.count_nonzero((bits & bits.dtype.type(magnitude)) >= exponent))


def to_float32(bits: Bits, dtype: str) -> Floats:
    """The values, exactly; a new array except for float32."""
    if dtype == "float32":
        return bits.view(np.float32)
    if dtype == "float16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def from_float32(values: Floats, dtype: str) -> Bits:
    """The nearest bit patterns of ``dtype``, ties to even; NaN stays NaN."""
    if dtype == "float32":
        return values.view(np.uint32)
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).view(np.uint16)
    raw = values.view(np.uint32)
    rounded = (raw + np.uint32(0x7FFF) + ((raw >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet_nan = (raw >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(values), quiet_nan, rounded).astype(np.uint16)


def cast(bits: Bits, dtype: str, wanted: str) -> tuple[Bits, int, int]:
    """``(new bits, values that changed, values that became infinite)``."""
    if dtype == wanted:
        return bits, 0, 0
    values = to_float32(bits, dtype)
    new = from_float32(values, wanted)
    back = to_float32(new, wanted)
    changed = int(np.count_nonzero((back != values) & ~np.isnan(values)))
    overflowed = int(np.count_nonzero(np.isinf(back) & np.isfinite(values))) if changed else 0
    return new, changed, overflowed


def hf_rows(block: Bits, head_dim: int) -> Bits:
    """Whole heads in Meta's row order to Hugging Face's; see ``layout``."""
    heads = block.reshape(-1, head_dim // 2, 2, block.shape[-1])
    return np.ascontiguousarray(heads.transpose(0, 2, 1, 3)).reshape(block.shape)


def meta_rows(block: Bits, head_dim: int) -> Bits:
    """Whole heads in Hugging Face's row order to Meta's; the inverse of ``hf_rows``."""
    heads = block.reshape(-1, 2, head_dim // 2, block.shape[-1])
    return np.ascontiguousarray(heads.transpose(0, 2, 1, 3)).reshape(block.shape)
