"""The kernels that the engine computes with on a CPU; without them torch's are used."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

from llama_hub.kernels import Kernels

_POINTER, _INT, _SIZE = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
_DOT = [_POINTER, _POINTER, _POINTER, _INT, *[_SIZE] * 3, _INT, _INT]
_QUANTIZED = [*[_POINTER] * 6, _INT, *[_SIZE] * 5, _INT, _INT]
KERNELS = Kernels(
    name="kernels",
    folder=Path(__file__).parent,
    sources=("dense.c", "quantized.c", "attention.c"),
    headers=("lanes.h",),
    flags=("-fopenmp",),
    signatures={
        "lh_dot": _DOT,
        "lh_packed": _DOT,
        "lh_norm": [_POINTER, _POINTER, _POINTER, _SIZE, _SIZE, ctypes.c_float, _INT],
        "lh_swiglu": [_POINTER, _POINTER, _SIZE, _SIZE, _INT],
        "lh_quantize": [*[_POINTER] * 4, *[_SIZE] * 3, _INT, _INT],
        "lh_dot_quantized": _QUANTIZED,
        "lh_packed_quantized": _QUANTIZED,
        "lh_rope_store": [*[_POINTER] * 3, _INT, *[_POINTER] * 4, *[_SIZE] * 4, _INT],
        "lh_attend": [*[_POINTER] * 4, _INT, _POINTER, _SIZE, _POINTER, *[_SIZE] * 3, _INT],
    },
)


@cache
def library() -> ctypes.CDLL | None:
    """The kernels, or ``None`` where they cannot be had.

    torch must be imported first: its OpenMP runtime is the one that is used.
    """
    return KERNELS.load()
