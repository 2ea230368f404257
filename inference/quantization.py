"""Weight-only quantisation while loading, and which form of a quantised weight suits a device.

int8: one scale for each row. int4: one for each ``GROUP`` columns, chosen so that
the entry of largest magnitude is met exactly by -8. The output matrix becomes
int8 in both: it is a small part of the bytes and a large part of the error.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from llama_hub.inference.linear import Dense, Linear, Quantized, TorchInt4, TorchInt8

GROUP = 64
ROWS = 2048  # quantised at a time, so that little memory is needed besides the result
GRAIN = 32  # columns that the kernels take at once
TORCH_GROUPS = (32, 64, 128, 256)  # that torch's int4 kernel knows

MakeQuantized = Callable[[int, Tensor, Tensor], Quantized]  # bits, values, scales


def quantize(weight: Tensor, bits: int, make: MakeQuantized) -> Linear:
    """A dense ``weight`` ``[out, in]`` in ``bits`` bits; left as it is if ``in`` is no multiple."""
    columns = weight.shape[1]
    if columns % GRAIN:
        return Dense(weight)
    group = columns if bits == 8 else (GROUP if columns % GROUP == 0 else GRAIN)
    blocks = [_block(weight[at : at + ROWS], bits, group) for at in range(0, len(weight), ROWS)]
    return make(bits, torch.cat([each[0] for each in blocks]), torch.cat([b[1] for b in blocks]))


def _block(weight: Tensor, bits: int, group: int) -> tuple[Tensor, Tensor]:
    grouped = weight.float().reshape(len(weight), -1, group)
    if bits == 8:
        scales = grouped.abs().amax(-1) / 127
    else:
        low, high = grouped.aminmax(dim=-1)
        scales = torch.where(-low > high, low, high) / -8
    divisor = torch.where(scales == 0, torch.ones_like(scales), scales).unsqueeze(-1)
    limit = 1 << (bits - 1)
    values = (grouped / divisor).round_().clamp_(-limit, limit - 1).flatten(1).to(torch.int8)
    return (values if bits == 8 else pack4(values)), scales


def pack4(values: Tensor) -> Tensor:
    """int8 ``[out, in]`` from -8 to 7 → uint8 ``[out, in / 2]``, even columns in the low halves."""
    unsigned = (values + 8).to(torch.uint8)
    return unsigned[:, 0::2] | (unsigned[:, 1::2] << 4)


def for_kernels(bits: int, values: Tensor, scales: Tensor) -> Quantized:
    """As our own kernels read it."""
    return Quantized(bits, values, scales)


def for_torch(dtype: torch.dtype, device: torch.device) -> MakeQuantized:
    """As torch computes with it best on ``device``."""

    def make(bits: int, values: Tensor, scales: Tensor) -> Quantized:
        plain = Quantized(bits, values, scales)
        if device.type != "cpu":
            return plain
        if bits == 8 and scales.shape[1] == 1:
            return TorchInt8(bits, values, scales)
        if bits == 4 and plain.group in TORCH_GROUPS and len(values) % 64 == 0:
            return TorchInt4(bits, values, scales, dtype)
        return plain

    return make
