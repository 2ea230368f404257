"""Rotary position embedding in the half-split form of Hugging Face weights.

Row i and row i + head_dim/2 of a head turn together by ``position * theta^(-2i/head_dim)``
(Su et al., RoFormer); Meta's form pairs rows 2i and 2i + 1, which conversion permutes.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Rope:
    """Cosines and sines of every position, ``[context, head_dim / 2]`` in float32."""

    def __init__(self, head_dim: int, context: int, theta: float, device: torch.device) -> None:
        exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
        angles = torch.outer(torch.arange(context).float(), 1.0 / theta**exponents)
        self.cos, self.sin = angles.cos().to(device), angles.sin().to(device)

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Turn ``x`` ``[T, heads, head_dim]`` to ``positions`` ``[T]``; float32 inside."""
        return rotate(x, self.cos[positions], self.sin[positions])


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn ``x`` ``[T, heads, head_dim]`` by angles ``[T, head_dim / 2]``; float32 inside."""
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    first, second = x.float().chunk(2, dim=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    return torch.cat(turned, dim=-1).to(x.dtype)
