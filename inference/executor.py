"""Where the numbers are: weights, cache and the computation of one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from llama_hub.inference import batch
from llama_hub.inference.batch import Piece
from llama_hub.inference.kv_cache import KVCache
from llama_hub.inference.model import Llama


class Executor(Protocol):
    """What the engine's thread needs of the machinery below it."""

    def run(self, pieces: Sequence[Piece]) -> Tensor:
        """Compute a step; logits in float32 of the rows that the pieces ask for."""
        ...

    def close(self) -> None:
        """Give the memory back."""


class LocalExecutor:
    """One model in this process."""

    def __init__(self, model: Llama, cache: KVCache, device: torch.device) -> None:
        self._model: Llama | None = model
        self._cache: KVCache | None = cache
        self._device = device

    @torch.inference_mode()
    def run(self, pieces: Sequence[Piece]) -> Tensor:
        if self._model is None or self._cache is None:
            raise RuntimeError("the executor is closed")
        return self._model.forward(batch.build(pieces, self._device), self._cache)

    def close(self) -> None:
        self._model = self._cache = None
