"""Matrix products with dense and with weight-only quantised weights."""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor


class Linear(Protocol):
    """``y = x Wᵀ`` for ``x`` ``[T, in]``, giving ``[T, out]`` in the type of ``x``."""

    out_features: int

    @property
    def bytes(self) -> int:
        """Size of the weight on its device."""
        ...

    def __call__(self, x: Tensor) -> Tensor: ...


class Dense:
    """A weight ``[out, in]`` in the computing type."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.out_features = weight.shape[0]

    @property
    def bytes(self) -> int:
        return self.weight.numel() * self.weight.element_size()

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)
