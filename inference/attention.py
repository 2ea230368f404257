"""Causal attention of a batch's rows over the cached keys and values of their own sequence."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_hub.inference.batch import Batch, Span
from llama_hub.inference.kv_cache import KVCache


def attend(query: Tensor, cache: KVCache, layer: int, batch: Batch) -> Tensor:
    """``query`` ``[T, heads, head_dim]`` → the same shape; each sequence by itself."""
    kv_heads, width = cache.data.shape[3:]
    assert query.shape[0] == len(batch.tokens)
    assert query.shape[1] % kv_heads == 0
    assert query.shape[2] == width
    out = torch.empty_like(query)
    for span in batch.spans:
        rows = slice(span.row, span.row + span.count)
        out[rows] = _attend_span(query[rows], *cache.read(layer, span.pages, span.length), span)
    return out


def _attend_span(query: Tensor, keys: Tensor, values: Tensor, span: Span) -> Tensor:
    """One sequence: ``query`` ``[count, heads, d]``, keys and values ``[length, kv_heads, d]``."""
    if query.device.type == "cpu" and span.count == 1:
        return _attend_one(query[0], keys, values).to(query.dtype).unsqueeze(0)
    q, k, v = (each.to(query.dtype).transpose(0, 1).unsqueeze(0) for each in (query, keys, values))
    whole = span.start == 0
    mask = None if whole or span.count == 1 else _lower_right(span, query.device)
    grouped = q.shape[1] != k.shape[1]
    causal = whole and span.count > 1
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped
    )
    return out.squeeze(0).transpose(0, 1)


def _attend_one(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """A single query ``[heads, d]`` in float32.

    ``scaled_dot_product_attention`` is slower here: 3 to 8 times on bfloat16 in torch 2.13.
    """
    kv_heads, width = keys.shape[1:]
    q = query.float().view(kv_heads, -1, width) * width**-0.5
    scores = torch.matmul(q, keys.float().permute(1, 2, 0))  # [kv_heads, group, length]
    mixed = torch.matmul(scores.softmax(-1), values.float().transpose(0, 1))
    return mixed.view(-1, width)


def _lower_right(span: Span, device: torch.device) -> Tensor:
    """True where row i (position start + i) may look: ``[count, length]``."""
    ones = torch.ones(span.count, span.length, dtype=torch.bool, device=device)
    return ones.tril(diagonal=span.start)
