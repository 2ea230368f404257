"""Matrix products with dense and with weight-only quantised weights."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_hub.inference.packed import PackedWeight

PANEL = 1024  # rows that are dequantised at a time
SMALL = 16  # rows of input up to which torch's int4 and int8 kernels are the faster way on a CPU


class Linear(Protocol):
    """``y = x Wᵀ`` for ``x`` ``[T, in]``, giving ``[T, out]`` in the type of ``x``."""

    @property
    def bytes(self) -> int:
        """Size of the weight on its device."""
        ...

    def __call__(self, x: Tensor) -> Tensor: ...


class Dense:
    """A weight ``[out, in]`` in the computing type."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    @property
    def bytes(self) -> int:
        return _size(self.weight)

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class Quantized:
    """Integers of 8 or 4 bits times a float32 scale for each group of columns; symmetric.

    int8: ``values`` int8 ``[out, in]``. int4: ``values`` uint8 ``[out, in / 2]``, column 2i in the
    low and column 2i + 1 in the high half of byte i, 8 added (the order of compressed-tensors).
    ``scales`` float32 ``[out, in / group]``.
    """

    def __init__(self, bits: int, values: Tensor, scales: Tensor) -> None:
        self.bits = bits
        self.values = values
        self.scales = scales.float()
        self.columns = values.shape[1] * (2 if bits == 4 else 1)
        self.group = self.columns // scales.shape[1]

    @property
    def bytes(self) -> int:
        return _size(self.values) + _size(self.scales)

    def dense(self, dtype: torch.dtype, rows: slice = slice(None)) -> Tensor:
        """Some rows as a dense matrix."""
        values = self.values[rows]
        if self.bits == 4:
            values = torch.stack([values & 15, values >> 4], dim=-1).flatten(1).to(torch.int8) - 8
        grouped = values.reshape(len(values), -1, self.group).to(torch.float32)
        dense: Tensor = (grouped * self.scales[rows].unsqueeze(-1)).flatten(1).to(dtype)
        return dense

    def __call__(self, x: Tensor) -> Tensor:
        panels = range(0, len(self.values), PANEL)
        return torch.cat(
            [F.linear(x, self.dense(x.dtype, slice(at, at + PANEL))) for at in panels], dim=-1
        )


class Packed(PackedWeight):
    """A packed weight, multiplied by the CUDA kernels."""

    def __call__(self, x: Tensor) -> Tensor:
        from llama_hub.inference.kernels.products import product

        return product(x, self)


class TorchInt8(Quantized):
    """int8 with one scale for each row, through torch's CPU kernel where few rows come in."""

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) > SMALL:
            return super().__call__(x)
        scales = self.scales[:, 0].to(x.dtype)
        return torch.ops.aten._weight_int8pack_mm(x.contiguous(), self.values, scales)  # type: ignore[no-any-return]


class TorchInt4(Quantized):
    """int4 in the layout of torch's CPU kernel, for machines without our own kernels."""

    def __init__(self, bits: int, values: Tensor, scales: Tensor, dtype: torch.dtype) -> None:
        super().__init__(bits, values, scales)
        plain = torch.stack([values & 15, values >> 4], dim=-1).flatten(1).to(torch.int32)
        self._packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(plain, 1)
        columns = scales.t().contiguous()
        self._scales_and_zeros = torch.stack([columns, torch.zeros_like(columns)], -1).to(dtype)

    @property
    def bytes(self) -> int:
        return super().bytes + _size(self._packed) + _size(self._scales_and_zeros)

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) > SMALL:
            return super().__call__(x)
        return torch.ops.aten._weight_int4pack_mm_for_cpu(  # type: ignore[no-any-return]
            x.contiguous(), self._packed, self.group, self._scales_and_zeros
        )


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
