"""Weight-only quantisation while loading, and which form of a quantised weight suits a device.

int8: one scale for each row. int4: one for each ``GROUP`` columns, chosen so that
the entry of largest magnitude is met exactly by -8. The output matrix becomes
int8 in both: it is a small part of the bytes and a large part of the error.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from llama_hub.inference.linear import Dense, Linear, Packed, Quantized, TorchInt4, TorchInt8

GROUP = 64
ROWS = 2048  # quantised at a time, so that little memory is needed besides the result
GRAIN = 32  # columns that the kernels take at once
TORCH_GROUPS = (32, 64, 128, 256)  # that torch's int4 kernel knows

MakeQuantized = Callable[[int, Tensor, Tensor], Linear]  # bits, values, scales


def quantize(
    weight: Tensor, bits: int, make: MakeQuantized, scale_type: torch.dtype = torch.float32
) -> Linear:
    """A dense ``weight`` ``[out, in]`` in ``bits`` bits; left as it is if ``in`` is no multiple."""
    columns = weight.shape[1]
    if columns % GRAIN:
        return Dense(weight)
    group = columns if bits == 8 else (GROUP if columns % GROUP == 0 else GRAIN)
    blocks = [
        _block(weight[at : at + ROWS], bits, group, scale_type)
        for at in range(0, len(weight), ROWS)
    ]
    return make(bits, torch.cat([each[0] for each in blocks]), torch.cat([b[1] for b in blocks]))


def _block(weight: Tensor, bits: int, group: int, scale_type: torch.dtype) -> tuple[Tensor, Tensor]:
    grouped = weight.float().reshape(len(weight), -1, group)
    if bits == 8:
        scales = grouped.abs().amax(-1) / 127
    else:
        low, high = grouped.aminmax(dim=-1)
        scales = torch.where(-low > high, low, high) / -8
    scales = scales.to(scale_type)  # before the values, so that they suit what is kept of it
    divisor = torch.where(scales == 0, torch.ones_like(scales), scales).float().unsqueeze(-1)
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


def scale_type(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The type that scales are kept in: on CUDA half the bytes of float32, which count there."""
    return dtype if device.type == "cuda" else torch.float32


def for_torch(dtype: torch.dtype, device: torch.device) -> MakeQuantized:
    """As ``device`` computes with it best."""
    return for_cuda(dtype) if device.type == "cuda" else _for_torch_on_cpu(dtype)


def for_cuda(dtype: torch.dtype) -> MakeQuantized:
    """As the Triton kernels read it, where they are; else in plain order."""
    usable = find_spec("triton") is not None and dtype in (torch.float16, torch.bfloat16)

    def make(bits: int, values: Tensor, scales: Tensor) -> Linear:
        columns = values.shape[1] * (2 if bits == 4 else 1)
        if not usable or columns // scales.shape[1] % GRAIN:
            return Quantized(bits, values, scales)
        return Packed.of(bits, values, scales)

    return make


def _for_torch_on_cpu(dtype: torch.dtype) -> MakeQuantized:
    def make(bits: int, values: Tensor, scales: Tensor) -> Linear:
        plain = Quantized(bits, values, scales)
        if bits == 8 and scales.shape[1] == 1:
            return TorchInt8(bits, values, scales)
        if bits == 4 and plain.group in TORCH_GROUPS and len(values) % 64 == 0:
            return TorchInt4(bits, values, scales, dtype)
        return plain

    return make
