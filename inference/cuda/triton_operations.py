"""A step's launches as Triton kernels: eight for a layer."""

from __future__ import annotations

import torch
from torch import Tensor

from llama_hub.inference.cuda.inputs import MixedRows, PromptRows
from llama_hub.inference.cuda.operations import TorchOperations
from llama_hub.inference.kernels import elementwise
from llama_hub.inference.kernels.products import product
from llama_hub.inference.linear import Dense, Linear, Packed
from llama_hub.inference.paged_decode import can_prefill, paged_decode, paged_prefill


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
        if not can_prefill(query):
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
