"""A stand-in for CUDA graphs on the CPU: a replay runs the recorded step again.

Like a graph it sees only the tensors that it was recorded with, and writes its logits to the same
place each time; the rest of ``CudaForward`` (order of rows, sizes, fallbacks) is the real one. It
cannot prove that a step can be captured, that the kernels compile, or anything about speed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from llama_hub.inference import loading
from llama_hub.inference.batch import Span
from llama_hub.inference.cuda import forward
from llama_hub.inference.cuda import loading as cuda_loading
from llama_hub.inference.cuda.forward import CudaForward
from llama_hub.inference.cuda.graphs import Recorder, Recording
from llama_hub.inference.cuda.inputs import PromptRows
from llama_hub.inference.cuda.operations import TorchOperations, span_attention
from llama_hub.inference.loading import Plan


class Rerun(Recorder):
    """Records a step as the function itself."""

    def record(self, step: Callable[[], Tensor]) -> Recording:
        logits = step().clone()

        def replay() -> None:
            logits.copy_(step())

        return Recording(replay, logits)


class PlacedOperations(TorchOperations):
    """Torch's operations, with runs of rows read from their tensors as the Triton kernel does."""

    def can_record_runs(self, query: Tensor) -> bool:
        return True

    def attend_runs(
        self, query: Tensor, keys: Tensor, values: Tensor, rows: PromptRows, longest: int
    ) -> Tensor:
        out = torch.zeros_like(query)
        for index, (row, start, count) in enumerate(rows.places.T.tolist()):
            assert count <= longest
            if count:
                span = Span(row, count, start, ())
                part = slice(row, row + count)
                table = rows.table[index]
                out[part] = span_attention(query[part], keys, values, span, table)
        return out


class CountedMemory:
    """A device of ``total`` bytes on which only what a test says is taken."""

    def __init__(self, total: int, utilization: float, beside: int) -> None:
        self.budget = int(total * utilization)
        self.beside = beside  # weights, largest step and graphs
        self.trial = 0  # bytes of the small cache, counted in
        self.released = 0

    def peak(self) -> int:
        return self.beside + self.trial

    def release(self) -> None:
        self.released += 1


def replay_on_cpu(
    monkeypatch: pytest.MonkeyPatch, total: int = 1 << 40, beside: int = 0
) -> list[CudaForward]:
    """Engines that are loaded from now on compute as on CUDA; gives their forwards.

    ``total`` and ``beside``: see ``CountedMemory``.
    """
    made: list[CudaForward] = []
    meters: list[CountedMemory] = []

    class Watched(CudaForward):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "recorder": Rerun})
            made.append(self)
            meters[-1].trial = self._cache.bytes

    def meter(plan: Plan) -> CountedMemory:
        meters.append(CountedMemory(total, plan.gpu_memory_utilization, beside))
        return meters[-1]

    monkeypatch.setattr(forward, "available", lambda *_: [PlacedOperations()])
    monkeypatch.setattr(loading, "_meter", meter)
    monkeypatch.setattr(cuda_loading, "CudaForward", Watched)
    return made
