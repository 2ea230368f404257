"""The loading of a CUDA executor: a forward function and a cache of the size that is left.

How much a step needs beside weights and cache depends on kernels, libraries and the
driver. So the largest step is computed and all graphs are recorded with a small cache
first; what that took is subtracted from the share of the GPU that this process may have,
and the cache gets the rest.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

from llama_hub.errors import NotEnoughError
from llama_hub.inference.batch import Batch, Piece, build
from llama_hub.inference.config import PAGE
from llama_hub.inference.cuda.forward import CudaForward
from llama_hub.inference.cuda.graphs import Recorder
from llama_hub.inference.kv_cache import KVCache
from llama_hub.inference.memory import gpu_room
from llama_hub.inference.model import Llama
from llama_hub.inference.out_of_memory import is_out_of_memory

RESERVE = 64 << 20  # bytes that stay free for what differs from run to run
ATTEMPTS = 4  # to allocate the cache if another process took memory meanwhile
SHRINK = 32  # each attempt is smaller by a part of the first
GIB = 1 << 30


class MemoryMeter:
    """What this process takes of a GPU; begin before the first allocation."""

    def __init__(self, device: torch.device, utilization: float) -> None:
        self._device = device
        self._free, total = torch.cuda.mem_get_info(device)
        self.budget = gpu_room(self._free, total, utilization)
        torch.cuda.reset_peak_memory_stats(device)

    def peak(self) -> int:
        """Bytes at the highest point: torch's, and what libraries and graphs took beside it."""
        free, _ = torch.cuda.mem_get_info(self._device)
        beside = self._free - free - torch.cuda.memory_reserved(self._device)
        return torch.cuda.max_memory_reserved(self._device) + max(0, beside)

    def release(self) -> None:
        """Give back what is no longer used."""
        gc.collect()
        torch.cuda.empty_cache()


class SizedForward:
    """Makes the forward function of a model; see the module.

    ``pages``: how many are wanted at most; ``least``: without which no sequence has a full context.
    """

    def __init__(
        self,
        model: Llama,
        *,
        context: int,
        max_batch: int,
        step_tokens: int,
        pages: int,
        dtype: torch.dtype,
        device: torch.device,
        meter: MemoryMeter,
        recorder: Callable[[], Recorder] = Recorder,
    ) -> None:
        self._model = model
        self._context = context
        self._max_batch = max_batch
        self._step_tokens = step_tokens
        self._wanted = pages
        self._dtype = dtype
        self._device = device
        self._meter = meter
        self._recorder = recorder

    def build(self) -> tuple[CudaForward, KVCache]:
        """Measure, then the forward function over a cache of the size that is left.

        ``NotEnoughError`` if too little is left.
        """
        room = self._meter.budget - self._beside_the_cache() - RESERVE
        least = -(-self._context // PAGE)
        pages = min(self._wanted, room // self._page_bytes())
        # All processes of a tensor-parallel model have the same pages.
        pages = self._model.collective.least(pages)
        if pages < least:
            raise NotEnoughError(
                f"after weights and workspace the device leaves {max(0, room) / GIB:.2f} GiB for "
                f"the KV cache; a context of {self._context} tokens needs "
                f"{least * self._page_bytes() / GIB:.2f}",
                hint="--context, --quantize, a larger --gpu-memory-utilization, or another device",
            )
        cache = self._allocate(pages, least)
        return self._prepared(cache), cache

    def _beside_the_cache(self) -> int:
        """Bytes that weights, the largest step and the graphs take."""
        pages = max(-(-self._step_tokens // PAGE), self._max_batch)
        trial = self._cache(min(pages, self._wanted))
        forward = self._prepared(trial)
        logits = forward(self._largest_step(trial.pages - 1))
        logits.log_softmax(-1)  # as the log-probabilities of a prompt are computed
        taken = self._meter.peak() - trial.bytes
        forward.close()
        del forward, trial, logits
        self._meter.release()
        return taken

    def _largest_step(self, pages: int) -> Batch:
        """``step_tokens`` rows at the ends of full contexts, logits of all of them.

        Sequences share pages: it is the sizes that count.
        """
        pieces: list[Piece] = []
        left = self._step_tokens
        while left:
            singles = len(pieces) < self._max_batch - 1 and left <= self._max_batch
            count = 1 if singles else min(left, self._context)
            needed = -(-self._context // PAGE)
            own = tuple((page + len(pieces)) % pages for page in range(needed))
            pieces.append(Piece((1,) * count, self._context - count, own, count, count))
            left -= count
        return build(pieces)

    def _allocate(self, pages: int, least: int) -> KVCache:
        for attempt in range(ATTEMPTS):
            try:
                return self._cache(max(least, pages - attempt * pages // SHRINK))
            except Exception as error:
                if not is_out_of_memory(error) or self._model.collective.size > 1:
                    raise
            self._meter.release()
        raise NotEnoughError(
            f"the device has no room for a KV cache of {pages * self._page_bytes() / GIB:.2f} GiB: "
            "another process took memory meanwhile",
            hint="start services on one device after another, each with its own "
            "--gpu-memory-utilization",
        )

    def _prepared(self, cache: KVCache) -> CudaForward:
        forward = CudaForward(
            self._model, cache, self._context, self._max_batch, recorder=self._recorder
        )
        forward.prepare()
        return forward

    def _cache(self, pages: int) -> KVCache:
        """One page more than the scheduler knows: unused rows of graphs write there."""
        heads = self._model.heads
        shape = (self._model.architecture.n_layers, pages + 1, heads.keys, heads.width)
        return KVCache(*shape, self._dtype, self._device)

    def _page_bytes(self) -> int:
        heads = self._model.heads
        width = torch.finfo(self._dtype).bits // 8
        layers = self._model.architecture.n_layers
        return 2 * layers * heads.keys * heads.width * PAGE * width
