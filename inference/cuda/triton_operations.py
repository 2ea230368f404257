"""A step's launches as Triton kernels: eight for a layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llama_hub.inference.batch import Span
from llama_hub.inference.cuda.inputs import MixedRows, PromptRows
from llama_hub.inference.cuda.operations import TorchOperations
from llama_hub.inference.kernels import elementwise
from llama_hub.inference.kernels.products import product
from llama_hub.inference.linear import Dense, Linear, Packed
from llama_hub.inference.paged_decode import can_prefill, paged_decode, paged_prefill

LONG = 1024  # rows of a prompt that repay laying its keys side by side for torch


class TritonOperations(TorchOperations):
    """See ``operations.Operations``; what no kernel can do stays torch's."""

    name = "triton"

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return elementwise.norm(x, weight, eps)

    def product(
        self, x: Tensor, linear: Linear, *, residual: Tensor | None = None, swiglu: bool = False
    ) -> Tensor:
        if isinstance(linear, Dense | Packed):
            return product(x, linear, residual=residual, swiglu=swiglu)
        return super().product(x, linear, residual=residual, swiglu=swiglu)

    def rotate_and_store(
        self,
        qkv: Tensor,
        cos: Tensor,
        sin: Tensor,
        positions: Tensor,
        slots: Tensor,
        keys: Tensor,
        values: Tensor,
    ) -> Tensor:
        return elementwise.rotate_and_store(qkv, cos, sin, positions, slots, keys, values)

    def attend_decode(
        self, query: Tensor, keys: Tensor, values: Tensor, table: Tensor, lengths: Tensor
    ) -> Tensor:
        return paged_decode(query, keys, values, table, lengths)

    def attend_spans(self, query: Tensor, keys: Tensor, values: Tensor, rows: MixedRows) -> Tensor:
        if not can_prefill(query) or flash_is_faster(query, keys, rows.spans):
            return super().attend_spans(query, keys, values, rows)
        first, starts, counts = rows.places
        longest = max(span.count for span in rows.spans)
        return paged_prefill(query, keys, values, rows.table, first, starts, counts, longest)

    def can_record_runs(self, query: Tensor) -> bool:
        return can_prefill(query)

    def attend_runs(
        self, query: Tensor, keys: Tensor, values: Tensor, rows: PromptRows, longest: int
    ) -> Tensor:
        first, starts, counts = rows.places
        out = torch.zeros_like(query)
        return paged_prefill(query, keys, values, rows.table, first, starts, counts, longest, out)


def flash_is_faster(query: Tensor, keys: Tensor, spans: Sequence[Span]) -> bool:
    """Whether torch's own flash attention beats ours, which reads pages: twice as fast at 2048 rows
    on an H200, less a copy of the keys; only as plainly causal, from the beginning of a sequence.
    """
    plain = query.shape[1] == keys.shape[1]
    return plain and all(span.start == 0 and span.count >= LONG for span in spans)
