"""Rotary position embedding in the half-split form of Hugging Face weights.

Row i and row i + head_dim/2 of a head turn together by ``position * theta^(-2i/head_dim)``
(Su et al., RoFormer); Meta's form pairs rows 2i and 2i + 1, which conversion permutes.
Scaled positions are computed as transformers does, in float32, so that logits agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from llama_hub.hub.rope_scaling import RopeScaling


class Rope:
    """Cosines and sines of every position, ``[context, head_dim / 2]`` in float32."""

    def __init__(
        self,
        head_dim: int,
        context: int,
        theta: float,
        device: torch.device,
        scaling: RopeScaling | None = None,
    ) -> None:
        frequencies = inverse_frequencies(head_dim, theta, scaling)
        angles = torch.outer(torch.arange(context).float(), frequencies)
        factor = scaling.attention_factor if scaling else 1.0
        self.cos = (angles.cos() * factor).to(device)
        self.sin = (angles.sin() * factor).to(device)

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Turn ``x`` ``[T, heads, head_dim]`` to ``positions`` ``[T]``; float32 inside."""
        return rotate(x, self.cos[positions], self.sin[positions])


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn ``x`` ``[T, heads, head_dim]`` by angles ``[T, head_dim / 2]``; float32 inside."""
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    first, second = x.float().chunk(2, dim=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    return torch.cat(turned, dim=-1).to(x.dtype)


def inverse_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None = None) -> Tensor:
    """Radians per position of each pair, ``[head_dim / 2]`` in float32."""
    plain = 1.0 / theta ** _exponents(head_dim)
    if scaling is None:
        return plain
    return _KINDS[scaling.kind](plain, head_dim, theta, scaling)


def _exponents(head_dim: int) -> Tensor:
    return torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim


def _linear(plain: Tensor, head_dim: int, theta: float, scaling: RopeScaling) -> Tensor:
    """Positions divided by the factor (Chen et al. 2023, position interpolation)."""
    return plain / scaling.factor


def _dynamic(plain: Tensor, head_dim: int, theta: float, scaling: RopeScaling) -> Tensor:
    """NTK-aware scaling begins beyond the original context, which is never exceeded here."""
    return plain


def _yarn(plain: Tensor, head_dim: int, theta: float, scaling: RopeScaling) -> Tensor:
    """Fast dimensions as they were, slow ones interpolated, a ramp between (Peng et al. 2023)."""

    def dimension(rotations: float) -> float:
        """The dimension that turns ``rotations`` times within the original context."""
        turns = scaling.original_context / (rotations * 2 * math.pi)
        return head_dim * math.log(turns) / (2 * math.log(theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    width = high - low or 0.001
    ramp = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
    powers = theta ** _exponents(head_dim)
    kept = 1 - ramp
    return 1.0 / (scaling.factor * powers) * (1 - kept) + 1.0 / powers * kept


def _llama3(plain: Tensor, head_dim: int, theta: float, scaling: RopeScaling) -> Tensor:
    """Long waves divided by the factor, short ones kept, smooth between (Llama 3.1)."""
    wavelength = 2 * math.pi / plain
    low = scaling.original_context / scaling.low_freq_factor
    high = scaling.original_context / scaling.high_freq_factor
    scaled = torch.where(wavelength > low, plain / scaling.factor, plain)
    smooth = (scaling.original_context / wavelength - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    between = (1 - smooth) * scaled / scaling.factor + smooth * scaled
    medium = ~(wavelength < high) & ~(wavelength > low)
    return torch.where(medium, between, scaled)


_KINDS: dict[str, Callable[[Tensor, int, float, RopeScaling], Tensor]] = {
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "llama3": _llama3,
}
