"""Decode steps on CUDA: compiled layers, replayed as one CUDA graph for each size of batch.

A step in which every sequence has one token has the same shape each time; so its
thousand small launches are recorded once and replayed as one. What changes
(tokens, places, page table, lengths) lies in fixed tensors. Prompts, and
whatever cannot be compiled or recorded on a machine, take ``model.Llama``; each
way is compared with it before it is used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_hub.inference.batch import Batch, Piece, build
from llama_hub.inference.config import PAGE
from llama_hub.inference.kv_cache import KVCache
from llama_hub.inference.linear import Dense, Linear, Quantized
from llama_hub.inference.model import Layer, Llama

logger = logging.getLogger(__name__)

# query, keys, values, page table, lengths → mixed values; see ``paged_decode.paged_decode``
Attention = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
TOLERANCE = 0.05  # of the spread of the logits, between two ways to compute the same step


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
        """Run ``step`` twice, so that everything is compiled, then record it."""
        for _ in range(2):
            step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            logits = step()
        self._pool = self._pool or graph.pool()
        return Recording(graph.replay, logits)


@dataclass(frozen=True)
class Inputs:
    """A decode step's tensors, of fixed size ``[B]``; rows without a sequence compute nothing."""

    tokens: Tensor  # int64
    positions: Tensor  # int64
    slots: Tensor  # int64
    table: Tensor  # int32 [B, pages]
    lengths: Tensor  # int32

    @classmethod
    def empty(cls, rows: int, pages: int, spare: int, device: torch.device) -> Inputs:
        """``spare``: the slot of a page that no sequence has, where unused rows write."""
        numbers = torch.zeros(2, rows, dtype=torch.int64, device=device)
        return cls(
            tokens=numbers[0],
            positions=numbers[1],
            slots=torch.full((rows,), spare, dtype=torch.int64, device=device),
            table=torch.full((rows, pages), spare // PAGE, dtype=torch.int32, device=device),
            lengths=torch.ones(rows, dtype=torch.int32, device=device),
        )

    def fill(self, batch: Batch, spare: int) -> None:
        """Put a batch in; the rows after it go back to nothing."""
        rows = len(batch.spans)
        self.tokens[:rows] = batch.tokens
        self.positions[:rows] = batch.positions
        self.slots[:rows] = batch.slots
        self.slots[rows:] = spare
        lengths = [span.length for span in batch.spans]
        self.lengths[:rows] = torch.tensor(lengths, dtype=torch.int32)
        self.lengths[rows:] = 1
        width = max(len(span.pages) for span in batch.spans)
        padded = [[*span.pages, *[0] * (width - len(span.pages))] for span in batch.spans]
        self.table[:rows, :width] = torch.tensor(padded, dtype=torch.int32).to(self.table.device)


def gathered_attention(
    query: Tensor, keys: Tensor, values: Tensor, table: Tensor, lengths: Tensor
) -> Tensor:
    """The same as ``paged_decode`` in torch's own operations; reads every page of the table."""
    rows, pages = table.shape
    kv_heads, width = keys.shape[1:]

    def lay_out(cached: Tensor) -> Tensor:
        paged = cached.view(-1, PAGE, kv_heads, width)[table.long()]
        return paged.view(rows, pages * PAGE, kv_heads, width).transpose(1, 2)

    seen = torch.arange(pages * PAGE, device=table.device) < lengths.unsqueeze(1)
    out = F.scaled_dot_product_attention(
        query.unsqueeze(2),
        lay_out(keys).to(query.dtype),
        lay_out(values).to(query.dtype),
        attn_mask=seen[:, None, None, :],
        enable_gqa=query.shape[1] != kv_heads,
    )
    return out.squeeze(2)


def _parts(linear: Linear) -> tuple[int, Tensor, Tensor | None]:
    """Bits (0: dense), values and scales, as ``_product`` takes them."""
    if isinstance(linear, Quantized):
        return linear.bits, linear.values, linear.scales
    if isinstance(linear, Dense):
        return 0, linear.weight, None
    raise TypeError(f"no decode step for {type(linear).__name__}")


def _product(x: Tensor, bits: int, values: Tensor, scales: Tensor | None) -> Tensor:
    """``x Wᵀ`` in a form that the compiler fuses for few rows."""
    if scales is None:
        return F.linear(x, values)
    if bits == 8 and scales.shape[1] == 1:
        return F.linear(x, values.to(x.dtype)) * scales[:, 0].to(x.dtype)
    return F.linear(x, Quantized(bits, values, scales).dense(x.dtype))


class DecodeStep:
    """``Llama.forward`` for one token of each sequence, on fixed tensors."""

    def __init__(
        self, model: Llama, cache: KVCache, attention: Attention, *, compiled: bool
    ) -> None:
        self._model = model
        self._cache = cache
        self._attention = attention
        # Weights are arguments, so that one compilation serves all layers.
        self._before: Any = torch.compile(self._enter, dynamic=False) if compiled else self._enter
        self._after: Any = torch.compile(self._leave, dynamic=False) if compiled else self._leave

    def __call__(self, inputs: Inputs) -> Tensor:
        """Logits ``[B, vocab]`` in float32."""
        model = self._model
        x = model.weights.embedding[inputs.tokens]
        for index, layer in enumerate(model.weights.layers):
            keys, values = self._cache.data[index]
            query = self._before(
                x, layer.attention_norm, *_parts(layer.qkv), keys, values, inputs.slots,
                inputs.positions,
            )  # fmt: skip
            mixed = self._attention(query, keys, values, inputs.table, inputs.lengths)
            x = self._finish_layer(x, mixed.flatten(1), layer)
        logits = model.weights.head(model.norm(x, model.weights.norm))
        return model.collective.gather(logits.float())

    def _finish_layer(self, x: Tensor, mixed: Tensor, layer: Layer) -> Tensor:
        sums = self._model.collective.sum
        if self._model.collective.size == 1:
            out, gate_up, down = (_parts(each) for each in (layer.out, layer.gate_up, layer.down))
            return self._after(x, mixed, layer.ffn_norm, *out, *gate_up, *down)  # type: ignore[no-any-return]
        x = x + sums(layer.out(mixed))
        return x + self._model.feed_forward(layer, self._model.norm(x, layer.ffn_norm))

    def _enter(
        self,
        x: Tensor,
        norm: Tensor,
        bits: int,
        weight: Tensor,
        scales: Tensor | None,
        keys: Tensor,
        values: Tensor,
        slots: Tensor,
        positions: Tensor,
    ) -> Tensor:
        """Up to attention: stores keys and values, gives the rotated queries."""
        model = self._model
        qkv = _product(model.norm(x, norm), bits, weight, scales)
        split = torch.split(qkv, model.heads.split, dim=-1)
        q, k, v = (each.view(len(x), -1, model.heads.width) for each in split)
        keys.index_copy_(0, slots, model.rope.rotate(k, positions).to(keys.dtype))
        values.index_copy_(0, slots, v.to(values.dtype))
        return model.rope.rotate(q, positions)

    def _leave(self, x: Tensor, mixed: Tensor, norm: Tensor, *weights: Any) -> Tensor:
        """From attention to the layer's end."""
        out, gate_up, down = weights[0:3], weights[3:6], weights[6:9]
        x = x + _product(mixed, *out)
        gate, up = _product(self._model.norm(x, norm), *gate_up).chunk(2, dim=-1)
        return x + _product(F.silu(gate) * up, *down)


class CudaForward:
    """``Executor``'s forward function on CUDA: decode steps replayed, the rest computed."""

    def __init__(
        self,
        model: Llama,
        cache: KVCache,
        context: int,
        max_batch: int,
        recorder: Callable[[], Recorder] = Recorder,
    ) -> None:
        self._model = model
        self._cache = cache
        self._recorder = recorder
        self._spare = (cache.pages - 1) * PAGE  # the page that the scheduler does not know of
        self._pages = -(-context // PAGE)
        self._sizes = sorted({1, 2, 4, *range(8, max_batch + 8, 8)})
        self._graphs: dict[int, tuple[Recording, Inputs]] = {}
        self.way = "eager"  # how decode steps are computed

    def __call__(self, batch: Batch) -> Tensor:
        """Logits of the wanted rows ``[R, vocab]``, in the order of ``batch.wanted``."""
        rows = len(batch.spans)
        single = len(batch.tokens) == rows
        size = next((size for size in self._sizes if size >= rows), None)
        if not single or size not in self._graphs:
            return self._model.forward(batch, self._cache)
        recording, inputs = self._graphs[size]
        inputs.fill(batch, self._spare)
        recording.replay()
        # The batch's order is not the caller's: rows of prompts stand first.
        return recording.logits[batch.wanted]

    def prepare(self) -> None:
        """Compile and record; takes the first way that works and agrees with the plain model."""
        ways: list[tuple[str, bool, Attention]] = []
        on_cuda = self._cache.data.device.type == "cuda"
        attention = _triton_attention(self._model.heads.width) if on_cuda else None
        if attention is not None:
            ways += [("compiled, triton", True, attention), ("triton", False, attention)]
        ways.append(("gathered", False, gathered_attention))
        for way, compiled, form in ways:
            step = DecodeStep(self._model, self._cache, form, compiled=compiled)
            try:
                self._record(step)
            except Exception as error:  # a compiler's or driver's failure must not stop serving
                logger.warning("decode steps cannot be %s: %s", way, error)
                self._graphs.clear()
                continue
            self.way = way
            return

    def _record(self, step: DecodeStep) -> None:
        """One graph for each size, the largest first, so that they share its memory."""
        self._compare(step)
        recorder = self._recorder()
        for size in reversed(self._sizes):
            inputs = Inputs.empty(size, self._pages, self._spare, self._cache.data.device)
            self._graphs[size] = (recorder.record(partial(step, inputs)), inputs)

    def _compare(self, step: DecodeStep) -> None:
        """``RuntimeError`` unless a step agrees with the plain model."""
        device = self._cache.data.device
        self._model.forward(build([Piece((1, 5, 9), 0, (0,), prompt=3)], device), self._cache)
        batch = build([Piece((7,), 3, (0,))], device)
        expected = self._model.forward(batch, self._cache)
        inputs = Inputs.empty(1, self._pages, self._spare, device)
        inputs.fill(batch, self._spare)
        difference = (step(inputs) - expected).abs().max()
        if not difference <= TOLERANCE * expected.std():
            raise RuntimeError(f"its logits differ by {float(difference):.3g}")


def _triton_attention(width: int) -> Attention | None:
    """The Triton kernel, where Triton is installed and the width suits it."""
    if width & (width - 1):
        return None
    try:
        from llama_hub.inference.paged_decode import paged_decode
    except ModuleNotFoundError:
        return None
    return paged_decode
