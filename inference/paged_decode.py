"""Attention of one new token of each sequence over its pages, as a Triton kernel for CUDA.

Long sequences are split over several programs, whose partial results are put
together afterwards (flash decoding); lengths are read on the device, so that one
CUDA graph serves all lengths. Every program does the same work in the same order
whatever the batch is.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from llama_hub.inference.config import PAGE

SPLIT = 16  # pages that one program visits


@triton.jit  # type: ignore[untyped-decorator]
def _partial(
    q: Any,
    keys: Any,
    values: Any,
    table: Any,
    lengths: Any,
    mixed: Any,
    best: Any,
    mass: Any,
    kv_heads: Any,
    table_width: Any,
    splits: Any,
    scale: Any,
    GROUP: tl.constexpr,  # queries of a key/value head
    PADDED: tl.constexpr,  # the next power of two
    WIDTH: tl.constexpr,
    TOKENS: tl.constexpr,  # of a page
    PAGES: tl.constexpr,
) -> None:
    """mixed [B, kv_heads, splits, GROUP, WIDTH]; best and mass [B, kv_heads, splits, GROUP]."""
    row, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + row)
    group, width, token = tl.arange(0, PADDED), tl.arange(0, WIDTH), tl.arange(0, TOKENS)
    real = group < GROUP
    first = (row * kv_heads + head) * GROUP
    query = tl.load(
        q + (first + group[:, None]) * WIDTH + width[None, :], mask=real[:, None], other=0.0
    ).to(tl.float32)
    query = query * scale
    top = tl.full((PADDED,), -1e30, tl.float32)
    total = tl.zeros((PADDED,), tl.float32)
    out = tl.zeros((PADDED, WIDTH), tl.float32)
    for step in range(PAGES):
        at = split * PAGES + step
        if at * TOKENS < length:
            page = tl.load(table + row * table_width + at).to(tl.int64)
            place = ((page * TOKENS + token[:, None]) * kv_heads + head) * WIDTH + width[None, :]
            seen = at * TOKENS + token < length
            k = tl.load(keys + place, mask=seen[:, None], other=0.0).to(tl.float32)
            v = tl.load(values + place, mask=seen[:, None], other=0.0).to(tl.float32)
            score = tl.sum(query[:, None, :] * k[None, :, :], axis=2)
            score = tl.where(seen[None, :], score, -1e30)
            higher = tl.maximum(top, tl.max(score, axis=1))
            shrink = tl.exp(top - higher)
            weight = tl.where(seen[None, :], tl.exp(score - higher[:, None]), 0.0)
            total = total * shrink + tl.sum(weight, axis=1)
            out = out * shrink[:, None] + tl.sum(weight[:, :, None] * v[None, :, :], axis=1)
            top = higher
    place = ((row * kv_heads + head) * splits + split) * GROUP + group
    tl.store(best + place, top, mask=real)
    tl.store(mass + place, total, mask=real)
    tl.store(mixed + place[:, None] * WIDTH + width[None, :], out, mask=real[:, None])


def paged_decode(
    query: Tensor, keys: Tensor, values: Tensor, table: Tensor, lengths: Tensor
) -> Tensor:
    """``query`` ``[B, heads, width]`` → the same shape.

    ``keys`` and ``values`` ``[slots, kv_heads, width]``, ``table`` int32 ``[B, pages]``,
    ``lengths`` int32 ``[B]``, each at least 1. ``width`` must be a power of two.
    """
    rows, heads, width = query.shape
    kv_heads = keys.shape[1]
    group, splits = heads // kv_heads, -(-table.shape[1] // SPLIT)
    shape = (rows, kv_heads, splits, group)
    best, mass = (torch.empty(shape, dtype=torch.float32, device=query.device) for _ in range(2))
    mixed = torch.empty((*shape, width), dtype=torch.float32, device=query.device)
    _partial[(rows, kv_heads, splits)](
        query.contiguous(),
        keys,
        values,
        table,
        lengths,
        mixed,
        best,
        mass,
        kv_heads,
        table.shape[1],
        splits,
        width**-0.5,
        GROUP=group,
        PADDED=triton.next_power_of_2(group),
        WIDTH=width,
        TOKENS=PAGE,
        PAGES=SPLIT,
    )
    share = torch.exp(best - best.amax(2, keepdim=True))
    out = (mixed * share.unsqueeze(-1)).sum(2) / (mass * share).sum(2).unsqueeze(-1)
    return out.view(rows, heads, width).to(query.dtype)
