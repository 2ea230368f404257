"""Weights in the order in which the CUDA kernels read them; no computation."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor


class PackedWeight:
    """A weight as the CUDA kernels (``kernels.products``) read it: packed, with 16-bit scales.

    ``bits`` 16: ``values`` ``[out, in]`` in the computing type; ``scales`` are not read.
    8: int8 ``[out, in]``. 4: uint8 ``[out, in / 2]``: of every ``2 * half`` columns, byte i holds
    column i in its low and column i + half in its high half, 8 added. So a tile of bytes meets two
    unbroken runs of the input. ``scales`` ``[out, in / group]``; ``group`` 0: one for a row.
    """

    def __init__(self, bits: int, values: Tensor, scales: Tensor, group: int, half: int) -> None:
        self.bits = bits
        self.values = values
        self.scales = scales
        self.group = group
        self.half = half
        self.columns = values.shape[1] * (2 if bits == 4 else 1)

    @classmethod
    def of(cls, bits: int, values: Tensor, scales: Tensor) -> Self:
        """From the order and shapes of ``Quantized``; groups must be multiples of 32 columns."""
        columns = values.shape[1] * (2 if bits == 4 else 1)
        group = columns // scales.shape[1]
        half = 32 if group % 64 == 0 else 16
        if bits == 4:
            halves = torch.stack([values & 15, values >> 4], dim=-1).view(len(values), -1, 2, half)
            values = (halves[:, :, 0] | (halves[:, :, 1] << 4)).flatten(1)
        whole = group == columns
        return cls(bits, values.contiguous(), scales.contiguous(), 0 if whole else group, half)

    @property
    def bytes(self) -> int:
        return self.values.nbytes + self.scales.nbytes

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The whole weight ``[out, in]``, in torch's operations."""
        values = self.values
        if self.bits == 4:
            halves = values.view(len(values), -1, 1, self.half)
            values = torch.cat([halves & 15, halves >> 4], dim=2).flatten(1).to(torch.int8) - 8
        grouped = values.reshape(len(values), self.scales.shape[1], -1).float()
        dense: Tensor = (grouped * self.scales.float().unsqueeze(-1)).flatten(1).to(dtype)
        return dense
