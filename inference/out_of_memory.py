"""Recognising that a device, or the machine, had no memory left for a computation."""

from __future__ import annotations

import torch

# What torch, cuBLAS and the driver say where they raise a plain RuntimeError.
SIGNS = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "can't allocate memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` means that an allocation failed."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def release_unused() -> None:
    """Give the driver back what torch keeps for later: fragments may make up what was missing."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
