"""Attention over pages on CUDA, through our Triton kernels (``kernels.attention``).

Every sequence's result is the same whatever else is in the batch: how its tokens are shared by
programs depends on its own length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from llama_hub.inference.config import PAGE
from llama_hub.inference.kernels import attention
from llama_hub.inference.kernels.products import tensor_cores
from llama_hub.inference.kernels.runtime import counters

PROGRAMS = 256  # that keep a large GPU busy with one sequence
LOG2E = math.log2(math.e)


@dataclass(frozen=True)
class Tiling:
    """How ``attention.decode`` shares its work."""

    tensor: bool  # whether tensor cores multiply
    block: int  # tokens at a time
    splits: int  # programs for a sequence and a key/value head at most
    warps: int
    stages: int


def tiling(query: Tensor, kv_heads: int, pages: int) -> Tiling:
    """The usual way for queries ``[rows, heads, width]`` and a table of ``pages`` pages."""
    group = query.shape[1] // kv_heads
    halves = query.dtype in (torch.float16, torch.bfloat16)
    # More programs for a sequence where there are few heads, but not many parts to put together.
    splits = min(PROGRAMS // kv_heads, max(16, PROGRAMS // 2 // kv_heads), 64)
    splits = min(splits, triton.cdiv(pages * PAGE, 64))
    splits = 1 << max(0, splits.bit_length() - 1)
    if halves and group <= 16 and tensor_cores(query.device):
        # Also for a single query: they have nothing else to do, and take fewer registers.
        return Tiling(tensor=True, block=32, splits=splits, warps=1, stages=3)
    if group == 1:
        return Tiling(tensor=False, block=16, splits=splits, warps=4, stages=4)
    return Tiling(tensor=False, block=16, splits=splits, warps=8, stages=1)


def paged_decode(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    table: Tensor,
    lengths: Tensor,
    tiles: Tiling | None = None,
) -> Tensor:
    """One query of each sequence: ``query`` ``[rows, heads, width]`` → the same shape.

    ``keys`` and ``values`` ``[slots, kv_heads, width]``, ``table`` int32 ``[rows, pages]``,
    ``lengths`` int32 ``[rows]``, each at least 1, the new token's key included.
    """
    rows, heads, width = query.shape
    kv_heads = keys.shape[1]
    _check(query, keys, values, table)
    assert lengths.shape == (rows,)
    assert lengths.dtype == torch.int32
    group = heads // kv_heads
    how = tiles or tiling(query, kv_heads, table.shape[1])
    out = torch.empty_like(query)
    shape = (rows, kv_heads, how.splits, group)
    mixed = torch.empty((*shape, width), dtype=torch.float32, device=query.device)
    stats = torch.empty((2, *shape), dtype=torch.float32, device=query.device)
    attention.decode[(rows, kv_heads, how.splits)](
        query,
        keys,
        values,
        table,
        lengths,
        out,
        mixed,
        stats,
        counters(query.device, rows * kv_heads),
        kv_heads,
        table.shape[1],
        width**-0.5 * LOG2E,
        GROUP=group,
        HEADS=triton.next_power_of_2(group),
        QUERIES=16 if how.tensor else triton.next_power_of_2(group),
        WIDTH=width,
        PADDED=max(16, triton.next_power_of_2(width)),
        PAGE=PAGE,
        BLOCK=how.block,
        SPLITS=how.splits,
        TOGETHER=min(how.splits, max(1, 16 // triton.next_power_of_2(group))),
        TENSOR=how.tensor,
        STAGES=how.stages,
        num_warps=how.warps,
        num_stages=how.stages,
    )
    return out


@dataclass(frozen=True)
class PrefillTiling:
    """How ``attention.prefill`` shares its work: queries and tokens at a time."""

    block_m: int
    block_n: int
    warps: int
    stages: int


def prefill_tiling(longest: int) -> PrefillTiling:
    """The usual way for runs of at most ``longest`` tokens."""
    if longest <= 64:
        return PrefillTiling(64, 32, warps=4, stages=3)
    return PrefillTiling(128, 64, warps=8, stages=2)


def can_prefill(query: Tensor) -> bool:
    """Whether ``paged_prefill`` has tensor cores to multiply on."""
    return query.dtype in (torch.float16, torch.bfloat16) and tensor_cores(query.device)


def paged_prefill(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    table: Tensor,
    rows: Tensor,
    starts: Tensor,
    counts: Tensor,
    longest: int,
    out: Tensor | None = None,
    tiles: PrefillTiling | None = None,
) -> Tensor:
    """Causal attention of runs of tokens: ``query`` ``[tokens, heads, width]`` → the same shape.

    Run i: ``counts[i]`` rows of ``query`` from ``rows[i]``, at the positions from ``starts[i]`` of
    the sequence whose pages are ``table[i]``; ``longest`` is the largest count. Keys and values of
    these tokens are in the cache. int32 ``[runs]`` each, ``table`` ``[runs, pages]``. Rows of
    ``query`` in no run are left as they are in ``out``.
    """
    _, heads, width = query.shape
    kv_heads, runs = keys.shape[1], len(table)
    _check(query, keys, values, table)
    assert rows.shape == starts.shape == counts.shape == (runs,)
    assert rows.dtype == starts.dtype == counts.dtype == torch.int32
    result = torch.empty_like(query) if out is None else out
    assert result.shape == query.shape
    assert result.is_contiguous()
    how = tiles or prefill_tiling(longest)
    attention.prefill[(triton.cdiv(longest, how.block_m), heads, runs)](
        query,
        keys,
        values,
        table,
        rows,
        starts,
        counts,
        result,
        heads,
        kv_heads,
        table.shape[1],
        width**-0.5 * LOG2E,
        WIDTH=width,
        PADDED=max(16, triton.next_power_of_2(width)),
        PAGE=PAGE,
        BLOCK_M=how.block_m,
        BLOCK_N=how.block_n,
        num_warps=how.warps,
        num_stages=how.stages,
    )
    return result


def _check(query: Tensor, keys: Tensor, values: Tensor, table: Tensor) -> None:
    """``AssertionError`` for shapes that the kernels would misread."""
    assert keys.shape == values.shape
    assert query.shape[2] == keys.shape[2]
    assert query.shape[1] % keys.shape[1] == 0
    assert table.dtype == torch.int32
    assert all(each.is_contiguous() for each in (query, keys, values, table))
