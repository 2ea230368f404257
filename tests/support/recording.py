"""A stand-in for CUDA graphs on the CPU: a replay runs the recorded step again.

Like a graph it sees only the tensors that it was recorded with, and writes its logits to the same
place each time; the rest of ``CudaForward`` (order of rows, sizes, fallbacks) is the real one. It
cannot prove that a step can be captured, that the kernels compile, or anything about speed.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from llama_hub.inference import loading
from llama_hub.inference.cuda_decode import CudaForward, Recorder, Recording
from llama_hub.inference.executor import Forward
from llama_hub.inference.kv_cache import KVCache
from llama_hub.inference.loading import Plan
from llama_hub.inference.model import Llama


class Rerun(Recorder):
    """Records a step as the function itself."""

    def record(self, step: Callable[[], Tensor]) -> Recording:
        logits = step().clone()

        def replay() -> None:
            logits.copy_(step())

        return Recording(replay, logits)


def replay_on_cpu(monkeypatch: pytest.MonkeyPatch) -> list[CudaForward]:
    """Engines that are loaded from now on decode as on CUDA; gives their forwards."""
    made: list[CudaForward] = []

    def forward(plan: Plan, model: Llama, cache: KVCache) -> Forward:
        spare = KVCache(
            len(cache.data),
            cache.pages + 1,
            cache.data.shape[3],
            cache.data.shape[4],
            cache.data.dtype,
            plan.device,
        )
        made.append(CudaForward(model, spare, plan.context, plan.max_batch, recorder=Rerun))
        with torch.inference_mode():
            made[-1].prepare()
        return made[-1]

    monkeypatch.setattr(loading, "_torch_forward", forward)
    return made
