"""Weight-only quantisation into the ``compressed-tensors`` layout, which vLLM loads as well.

What a quantised folder holds
-----------------------------
Names and row order are Hugging Face's. Embedding, ``lm_head``, norms, and matrices whose rows do
not divide into groups stay as they are. Every other ``NAME.weight`` [N, K] becomes

* ``NAME.weight_packed``, int32 [N, K * bits / 32]: consecutive weights of a row from the low bits
  up, each stored as q + 2**(bits-1). So viewed as bytes it is uint8 [N, K] for int8, and for int4
  uint8 [N, K/2] with the even column in the low nibble;
* ``NAME.weight_scale``, [N, K/G] in the model's dtype: one scale for each group of G consecutive
  weights of a row (G = K: one per row, the strategy "channel");
* ``NAME.weight_shape``, int64 [2]: (N, K).

weight = (stored - 2**(bits-1)) * scale, symmetric, no zero points; a scale may be negative.
``config.json`` says so in ``quantization_config`` (format ``pack-quantized``, num_bits 4 or 8,
strategy ``group`` with group_size, or ``channel``); ``ignore`` lists what stayed.

How scales are found
--------------------
Round-to-nearest spreads the grid over the largest magnitude of a group. Here the sign of the
scale puts the longer half of the grid (-8 … 7) on the side of the largest weight, some narrower
and wider grids are tried, and for each the least-squares scale <w,q>/<q,q> is taken; the one with
the least squared error wins. No calibration data is needed. A C kernel searches
(``checkpoints/group_quants.c``); where there is none, numpy does, with the same sums in the same
order, so that a folder's digests do not depend on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llama_hub.errors import IntegrityError, UsageError
from llama_hub.hub.checkpoints import layout, numeric
from llama_hub.hub.checkpoints.ggml_quants import library
from llama_hub.hub.checkpoints.hf_writer import Form, OutputTensor, plain_form
from llama_hub.hub.checkpoints.layout import TensorSpec
from llama_hub.hub.checkpoints.numeric import Bits, Floats

if TYPE_CHECKING:
    from ctypes import CDLL

_KERNEL_INPUT = {"float32": 0, "bfloat16": 1}
DEFAULT_GROUP = {"int8": 0, "int4": 64}  # 0: one scale per row
_WIDTHS = {4: (0.72, 0.8, 0.88, 0.96, 1.04), 8: (0.92, 0.96, 1.0)}  # of the grid, tried in turn
_SAME_BLOCKS = {4: "Q4_0", 8: "Q8_0"}  # of GGUF: the numbers and scales of groups of 32
_AT_ONCE = 1 << 16  # weights; their working copies fit the second-level cache
_WIDE = 16  # running sums of a group, put together in halves
_SMALLEST = np.float32(np.finfo(np.float32).tiny)  # whose inverse is finite


@dataclass(frozen=True)
class Scheme:
    """How matrices are quantised: ``bits`` 4 or 8; ``group``: weights per scale, 0 for a row."""

    bits: int
    group: int

    def applies_to(self, spec: TensorSpec) -> bool:
        """Whether the tensor is quantised: a projection of a layer that divides into groups."""
        if not spec.name.startswith("layers.") or len(spec.shape) != 2:
            return False
        return spec.columns % (self.group or 32) == 0

    def form(self, spec: TensorSpec, dtype: str, head_dim: int) -> Form:
        """How one tensor of the model is stored."""
        if not self.applies_to(spec):
            return plain_form(spec, dtype, head_dim)
        stem = layout.hf_name(spec.name)
        group = self.group or spec.columns
        shape = np.array(spec.shape, "<i8").tobytes()
        stored = (
            OutputTensor(f"{stem}_packed", "int32", (spec.rows, spec.columns * self.bits // 32)),
            OutputTensor(f"{stem}_scale", dtype, (spec.rows, spec.columns // group)),
            OutputTensor(f"{stem}_shape", "int64", (2,), shape),
        )
        quantiser = Quantiser(self.bits, group, dtype, head_dim if spec.rotary_rows else 0)
        return Form(spec, dtype, stored, quantiser.encode, True, quantiser.relative_error)

    def form_of_blocks(self, spec: TensorSpec, kind: str | None, head_dim: int) -> Form | None:
        """How a tensor in ggml's blocks is stored with these blocks' own numbers and scales.

        ``None`` where the two layouts differ: only Q8_0 and Q4_0 have groups of 32, no minimum,
        and scales that are float16.
        """
        if kind != _SAME_BLOCKS.get(self.bits) or self.group != 32 or not self.applies_to(spec):
            return None
        plain = self.form(spec, "float16", head_dim)
        encode = _repacker(self.bits, head_dim if spec.rotary_rows else 0, spec.name)
        return replace(plain, encode=encode, error=None, packed=True)

    def config(self, specs: list[TensorSpec]) -> dict[str, Any]:
        """``quantization_config`` as compressed-tensors and vLLM read it."""
        kept = [layout.hf_name(s.name) for s in specs if not self.applies_to(s)]
        linear = [n for n in kept if n == "lm_head.weight" or n.endswith("_proj.weight")]
        weights = {
            "num_bits": self.bits,
            "type": "int",
            "symmetric": True,
            "strategy": "group" if self.group else "channel",
            "group_size": self.group or None,
            "block_structure": None,
            "dynamic": False,
            "actorder": None,
            "observer": "mse",
            "observer_kwargs": {},
        }
        return {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": weights,
                    "input_activations": None,
                    "output_activations": None,
                }
            },
            "ignore": [name.removesuffix(".weight") for name in linear],
            "kv_cache_scheme": None,
        }


def scheme(name: str, group: int | None) -> Scheme:
    """``int8`` or ``int4``; ``UsageError`` for another name.

    ``group``: weights per scale, 0 for a whole row, ``None`` as usual.
    """
    bits = {"int8": 8, "int4": 4}.get(name)
    if bits is None:
        raise UsageError(f"there is no quantisation {name!r}; known are int8 and int4")
    return Scheme(bits, DEFAULT_GROUP[name] if group is None else group)


def _repacker(bits: int, head_dim: int, name: str) -> Callable[[Bits], tuple[Any, Bits]]:
    """Rows of Q8_0 or Q4_0 blocks, uint8 [R, B], to (packed [R, K*bits/32], scales [R, K/32])."""
    width = 2 + 4 * bits  # bytes of a block: d and 32 numbers

    def repack(block: Bits) -> tuple[npt.NDArray[np.int32], Bits]:
        rows = numeric.hf_rows(block, head_dim) if head_dim else block
        blocks = rows.reshape(len(rows), -1, width)
        scales = np.ascontiguousarray(blocks[:, :, :2]).view("<u2")[:, :, 0]
        if numeric.non_finite(scales, "float16"):
            raise IntegrityError(
                f"{name} holds scales that are NaN or infinite", hint="download the model again"
            )
        numbers = blocks[:, :, 2:]
        if bits == 4:  # low nibbles are the first half of a block, high ones the second
            numbers = np.concatenate([numbers & 15, numbers >> 4], axis=2) - np.uint8(8)
        packed = pack(np.ascontiguousarray(numbers).view(np.int8).reshape(len(rows), -1), bits)
        return packed, np.ascontiguousarray(scales)

    return repack


class Quantiser:
    """Quantises the rows of one tensor as they come, and keeps account of the error."""

    def __init__(self, bits: int, group: int, dtype: str, head_dim: int) -> None:
        """``head_dim``: of a tensor whose rows go into Hugging Face's order, else 0."""
        self.bits = bits
        self.group = group
        self.dtype = dtype
        self.head_dim = head_dim
        self._squared_error = 0.0
        self._squared_norm = 0.0

    def encode(self, block: Bits) -> tuple[npt.NDArray[np.int32], Bits]:
        """Rows [R, K] in Meta's order to (packed [R, K*bits/32], scales [R, K/group])."""
        rows = numeric.hf_rows(block, self.head_dim) if self.head_dim else block
        groups = rows.reshape(-1, self.group)
        quantised = np.empty(groups.shape, np.int8)
        scales = np.empty((len(groups), 1), np.float32)
        kernels = library()
        if kernels is not None:
            self._search(kernels, groups, scales, quantised)
        else:
            self._search_in_numpy(numeric.to_float32(groups, self.dtype), scales, quantised)
        packed = pack(quantised.reshape(block.shape), self.bits)
        return packed, numeric.from_float32(scales, self.dtype).reshape(len(block), -1)

    def _search(
        self, kernels: CDLL, groups: Bits, scales: Floats, quantised: npt.NDArray[np.int8]
    ) -> None:
        known = _KERNEL_INPUT.get(self.dtype)
        wide = groups if known is not None else numeric.to_float32(groups, self.dtype).view("<u4")
        given = np.ascontiguousarray(wide)
        widths = np.array(_WIDTHS[self.bits], np.float32)
        sums = np.zeros(2, np.float64)
        kernels.lh_groups(
            *(given.ctypes.data, *given.shape, known or 0),
            *(self.bits, numeric.DTYPES.index(self.dtype), widths.ctypes.data, len(widths)),
            *(scales.ctypes.data, quantised.ctypes.data, sums.ctypes.data),
        )
        self._squared_error += float(sums[0])
        self._squared_norm += float(sums[1])

    def _search_in_numpy(
        self, weights: Floats, scales: Floats, quantised: npt.NDArray[np.int8]
    ) -> None:
        step = max(1, _AT_ONCE // self.group)
        for start in range(0, len(weights), step):
            part = slice(start, start + step)
            scales[part], quantised[part] = self._quantise(weights[part])

    def relative_error(self) -> float:
        """Root of (squared error / squared norm) over all rows so far."""
        return math.sqrt(self._squared_error / self._squared_norm) if self._squared_norm else 0.0

    def _quantise(self, weights: Floats) -> tuple[Floats, npt.NDArray[np.int8]]:
        scale = best_scale(weights, self.bits, self.dtype)
        chosen = nearest(weights, scale, self.bits)
        error = weights - chosen * scale
        self._squared_error += float(np.einsum("ij,ij->", error, error, dtype=np.float64))
        self._squared_norm += float(np.einsum("ij,ij->", weights, weights, dtype=np.float64))
        return scale, chosen.astype(np.int8)


def nearest(weights: Floats, scale: Floats, bits: int) -> Floats:
    """The whole numbers of the grid that are nearest to weights [n, G] / scale [n, 1]."""
    half = 1 << (bits - 1)
    usable = np.abs(scale) >= _SMALLEST
    inverse = np.divide(np.float32(1.0), scale, out=np.zeros_like(scale), where=usable)
    chosen = weights * inverse
    np.rint(chosen, out=chosen)
    return np.clip(chosen, -half, half - 1, out=chosen)


def best_scale(weights: Floats, bits: int, dtype: str) -> Floats:
    """A scale [n, 1] for each group [n, G], already a value of ``dtype``."""
    extreme = np.take_along_axis(weights, np.abs(weights).argmax(1)[:, None], 1)
    widest = extreme * np.float32(-1.0 / (1 << (bits - 1)))
    best = _rounded(widest, dtype)
    gain = _gain(weights, best, bits)
    for width in _WIDTHS[bits]:
        best, gain = _better(weights, widest * np.float32(width), bits, dtype, best, gain)
    return best


def _better(
    weights: Floats, start: Floats, bits: int, dtype: str, best: Floats, gain: Floats
) -> tuple[Floats, Floats]:
    """The better of the best so far and the least-squares scale of the grid ``start``."""
    chosen = nearest(weights, start, bits)
    along, square = _products(weights, chosen)
    fitted = np.divide(along, square, out=np.zeros_like(along), where=square != 0)
    candidate = _rounded(fitted, dtype)
    new = _gain(weights, candidate, bits)
    won = new > gain
    return np.where(won, candidate, best), np.where(won, new, gain)


def _gain(weights: Floats, scale: Floats, bits: int) -> Floats:
    """By how much quantising lowers |w|^2 to |w - s q|^2: 2 s <w,q> - s^2 <q,q>, [n, 1]."""
    along, square = _products(weights, nearest(weights, scale, bits))
    gain: Floats = scale * (2 * along - scale * square)
    return gain


def _products(weights: Floats, chosen: Floats) -> tuple[Floats, Floats]:
    """<w,q> and <q,q> of each group, [n, 1]."""
    return _sums(weights * chosen), _sums(chosen * chosen)


def _sums(terms: Floats) -> Floats:
    """The sum of each row [n, G] in an order that a kernel can follow, [n, 1]."""
    columns = terms.reshape(len(terms), -1, _WIDE)
    sums = columns[:, 0].copy()
    for index in range(1, columns.shape[1]):
        sums += columns[:, index]
    while (half := sums.shape[1] // 2) > 0:
        sums = sums[:, :half] + sums[:, half:]
    return sums


def _rounded(values: Floats, dtype: str) -> Floats:
    return numeric.to_float32(numeric.from_float32(np.ascontiguousarray(values), dtype), dtype)


def pack(values: npt.NDArray[np.int8], bits: int) -> npt.NDArray[np.int32]:
    """Signed whole numbers [R, K] to int32 [R, K*bits/32], see the top of this module."""
    raised = (values.view(np.uint8) + np.uint8(1 << (bits - 1))).astype(np.uint8)
    if bits == 4:
        raised = raised[:, 0::2] | (raised[:, 1::2] << np.uint8(4))
    return np.ascontiguousarray(raised).view("<i4")


def unpack(packed: npt.NDArray[np.int32], bits: int) -> npt.NDArray[np.int8]:
    """The inverse of ``pack``."""
    raised = np.ascontiguousarray(packed).view(np.uint8)
    if bits == 4:
        raised = np.stack((raised & 15, raised >> 4), axis=-1).reshape(len(packed), -1)
    return (raised - np.uint8(1 << (bits - 1))).astype(np.uint8).view(np.int8)
