"""Where the numbers are: weights, cache and the computation of one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from llama_hub.inference import batch
from llama_hub.inference.batch import Batch, Piece


class Executor(Protocol):
    """What the engine's thread needs of the machinery below it."""

    def run(self, pieces: Sequence[Piece]) -> Tensor:
        """Compute a step; logits in float32 of the rows that the pieces ask for."""
        ...

    def close(self) -> None:
        """Give the memory back."""


Forward = Callable[[Batch], Tensor]


class LocalExecutor:
    """One model in this process; ``forward`` holds its weights and its cache."""

    def __init__(self, forward: Forward, device: torch.device) -> None:
        self._forward: Forward | None = forward
        self._device = device

    @torch.inference_mode()
    def run(self, pieces: Sequence[Piece]) -> Tensor:
        if self._forward is None:
            raise RuntimeError("the executor is closed")
        return self._forward(batch.build(pieces, self._device))

    def close(self) -> None:
        self._forward = None
