"""Parts that launching needs besides the kernels."""

from __future__ import annotations

import os
from functools import cache

import torch
from torch import Tensor

COUNTERS = 1 << 16


def interpreted() -> bool:
    """Whether Triton runs kernels in Python on the CPU (for tests)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def counters(device: torch.device, count: int) -> Tensor:
    """int32 zeros, for programs that count who has ended; each kernel leaves them zero.

    One buffer for a device and its one stream. It is never replaced: recorded graphs hold its
    address.
    """
    assert count <= COUNTERS
    return _counters(device)


@cache
def _counters(device: torch.device) -> Tensor:
    return torch.zeros(COUNTERS, dtype=torch.int32, device=device)
