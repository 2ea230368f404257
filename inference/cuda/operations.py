"""Operations that a step is made of: torch's own, and Triton kernels.

``TorchOperations`` works everywhere and is the measure; ``TritonOperations`` needs a few
launches where torch needs dozens.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from llama_hub.inference.batch import Span
from llama_hub.inference.config import PAGE
from llama_hub.inference.cuda.inputs import MixedRows, PromptRows
from llama_hub.inference.linear import Linear
from llama_hub.inference.model import rms_norm
from llama_hub.inference.rope import rotate


class Operations(Protocol):
    """The launches of a step; none waits for the device or copies to it."""

    name: str

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """RMSNorm of ``x`` ``[T, dim]``."""
        ...

    def product(
        self, x: Tensor, linear: Linear, *, residual: Tensor | None = None, swiglu: bool = False
    ) -> Tensor:
        """``x Wᵀ`` ``[T, out]``, plus ``residual``; or ``silu(gate) * up`` of a fused weight."""
        ...

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
        """Rotated queries ``[T, heads, width]``; keys and values go to their ``slots``.

        ``cos`` and ``sin`` of all positions ``[context, width / 2]``; ``positions`` and ``slots``
        int32 ``[T]``; ``keys`` and ``values`` ``[all slots, kv_heads, width]``.
        """
        ...

    def attend_decode(
        self, query: Tensor, keys: Tensor, values: Tensor, table: Tensor, lengths: Tensor
    ) -> Tensor:
        """One row of each sequence ``[B, heads, width]``; int32 ``[B, pages]`` and ``[B]``."""
        ...

    def attend_spans(self, query: Tensor, keys: Tensor, values: Tensor, rows: MixedRows) -> Tensor:
        """The rows of ``rows.spans``, in a tensor like ``query``; other rows hold anything."""
        ...

    def can_record_runs(self, query: Tensor) -> bool:
        """Whether ``attend_runs`` is there for queries of this type and device."""
        ...

    def attend_runs(
        self, query: Tensor, keys: Tensor, values: Tensor, rows: PromptRows, longest: int
    ) -> Tensor:
        """As ``attend_spans``, with the runs read on the device, each of ``longest`` rows at most.

        Rows in no run are zero: what stands in unused memory, NaN perhaps, must not get into the
        cache.
        """
        ...


class TorchOperations:
    """Everything in torch's own operations."""

    name = "torch"

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return rms_norm(x, weight, eps)

    def product(
        self, x: Tensor, linear: Linear, *, residual: Tensor | None = None, swiglu: bool = False
    ) -> Tensor:
        out = linear(x)
        if swiglu:
            gates, up = out.chunk(2, dim=-1)
            out = F.silu(gates) * up
        return out if residual is None else residual + out

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
        kv_heads, width = keys.shape[1:]
        assert keys.shape == values.shape
        assert positions.shape == slots.shape == (len(qkv),)
        split = qkv.view(len(qkv), -1, width)
        heads = split.shape[1] - 2 * kv_heads
        angles = (cos.index_select(0, positions), sin.index_select(0, positions))
        turned = rotate(split[:, : heads + kv_heads], *angles)
        places = slots.long()
        keys.index_copy_(0, places, turned[:, heads:].to(keys.dtype))
        values.index_copy_(0, places, split[:, heads + kv_heads :].to(values.dtype))
        return turned[:, :heads]

    def attend_decode(
        self, query: Tensor, keys: Tensor, values: Tensor, table: Tensor, lengths: Tensor
    ) -> Tensor:
        return gathered_attention(query, keys, values, table, lengths)

    def attend_spans(self, query: Tensor, keys: Tensor, values: Tensor, rows: MixedRows) -> Tensor:
        out = torch.empty_like(query)
        for index, span in enumerate(rows.spans):
            part = slice(span.row, span.row + span.count)
            out[part] = span_attention(query[part], keys, values, span, rows.table[index])
        return out

    def can_record_runs(self, query: Tensor) -> bool:
        return False

    def attend_runs(
        self, query: Tensor, keys: Tensor, values: Tensor, rows: PromptRows, longest: int
    ) -> Tensor:
        raise NotImplementedError("torch's attention needs the sizes of runs on the host")


def gathered_attention(
    query: Tensor, keys: Tensor, values: Tensor, table: Tensor, lengths: Tensor
) -> Tensor:
    """One row of each sequence over all pages of its table, read or not."""
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


def span_attention(query: Tensor, keys: Tensor, values: Tensor, span: Span, row: Tensor) -> Tensor:
    """Rows of one sequence ``[count, heads, width]`` over its pages; ``row`` of the table."""
    used = row[: -(-span.length // PAGE)].long()

    def lay_out(cached: Tensor) -> Tensor:
        paged = cached.view(-1, PAGE, *cached.shape[1:]).index_select(0, used)
        return paged.flatten(0, 1)[: span.length].to(query.dtype).transpose(0, 1).unsqueeze(0)

    q, k, v = query.transpose(0, 1).unsqueeze(0), lay_out(keys), lay_out(values)
    attend = partial(F.scaled_dot_product_attention, enable_gqa=query.shape[1] != keys.shape[1])
    if span.start == 0:
        out = attend(q, k, v, is_causal=True)
    else:
        mask = causal_lower_right(span.count, span.length)  # flash attention where it can be
        out = attend(q, k, v, attn_mask=mask)
    return out.squeeze(0).transpose(0, 1)
