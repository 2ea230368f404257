"""Steps that are recorded once and replayed: CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Recording:
    """A step that can be computed again on the tensors that it was recorded with."""

    replay: Callable[[], object]
    logits: Tensor  # [B, vocab]; a replay overwrites it


class Recorder:
    """Records steps as CUDA graphs, which share their memory."""

    def __init__(self) -> None:
        self._pool: Any = None

    def record(self, step: Callable[[], Tensor]) -> Recording:
        """Run ``step`` once, so that everything is compiled, then record it."""
        step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            logits = step()
        self._pool = self._pool or graph.pool()
        return Recording(graph.replay, logits)


def sizes(limit: int) -> list[int]:
    """Numbers of rows that are recorded, up to ``limit``: fewer where a row more costs little."""
    found = [1, 2, 4, 8]
    while found[-1] < limit:
        found.append(found[-1] + max(8, found[-1] // 2 // 8 * 8))
    return [*(size for size in found if size < limit), limit]
