"""The executor: weights, cache and the computation of one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
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

    def hidden(self, pieces: Sequence[Piece]) -> Tensor:
        """The same, but the last hidden states ``[rows, dim]`` in float32 instead of logits."""
        ...

    def device_scope(self) -> AbstractContextManager[object]:
        """Makes the executor's device the current one of a thread that computes with its logits."""
        ...

    def give_back(self, pages: Sequence[int]) -> None:
        """Let the memory of these pages of the cache go, where that can be done."""
        ...

    def close(self) -> None:
        """Give the memory back."""


Forward = Callable[[Batch], Tensor]


class LocalExecutor:
    """One model in this process; ``forward`` and ``hidden`` hold its weights and its cache.

    ``release`` is called before the memory goes: what has to end in order. ``give_back`` lets the
    memory of some pages of the cache go.
    """

    def __init__(
        self,
        forward: Forward,
        hidden: Forward,
        device: torch.device,
        release: Callable[[], None] | None = None,
        give_back: Callable[[Sequence[int]], None] | None = None,
    ) -> None:
        self._forward = forward
        self._hidden = hidden
        self._device = device
        self._release = release
        self._give_back = give_back

    @torch.inference_mode()
    def run(self, pieces: Sequence[Piece]) -> Tensor:
        """Logits of one step; ``RuntimeError`` once the executor is closed."""
        with self.device_scope():
            return self._forward(batch.build(pieces))

    @torch.inference_mode()
    def hidden(self, pieces: Sequence[Piece]) -> Tensor:
        """Last hidden states of one step; ``RuntimeError`` once the executor is closed."""
        with self.device_scope():
            return self._hidden(batch.build(pieces)).float()

    def device_scope(self) -> AbstractContextManager[object]:
        return device_scope(self._device)

    def give_back(self, pages: Sequence[int]) -> None:
        if self._give_back is not None:
            self._give_back(pages)

    def close(self) -> None:
        if self._release is not None:
            with self.device_scope():
                self._release()
        self._forward = self._hidden = _closed
        self._release = self._give_back = None


def _closed(_: Batch) -> Tensor:
    raise RuntimeError("the executor is closed")


def device_scope(device: torch.device) -> AbstractContextManager[object]:
    """Launches of this thread go to ``device``: each thread begins with the first one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
