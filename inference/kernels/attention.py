"""Attention over the pages of the key/value cache: one new token each, or many.

``decode``: flash decoding. A long sequence is shared by several programs; the last of them to end
puts their parts together. Lengths are read on the device, so that one CUDA graph serves all; how a
sequence is shared depends on its own length.

``prefill``: causal attention of many tokens of several sequences over all that came before them.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def _slots(table, first, token, valid, PAGE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Places in the cache of a sequence's tokens; ``first``: of its row of the page table."""
    page = tl.load(table + first + token // PAGE, mask=valid, other=0).to(tl.int64)
    return page * PAGE + token % PAGE


# Numbers of a step lie in one buffer, at any offset: alignment must not compile a kernel again.
@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize_on_alignment=["table", "lengths"]
)
def decode(  # type: ignore[no-untyped-def]
    query,  # [rows, kv_heads * GROUP, WIDTH]
    keys,  # [slots, kv_heads, WIDTH]
    values,
    table,  # int32 [rows, table_width]
    lengths,  # int32 [rows]
    out,  # as query
    mixed,  # float32 [rows, kv_heads, SPLITS, GROUP, WIDTH]
    stats,  # float32 [rows, kv_heads, SPLITS, 2, GROUP]: largest score, mass
    counters,  # int32 [rows * kv_heads], zero before and after
    kv_heads,
    table_width,
    scale,  # of the scores, times log2(e)
    GROUP: tl.constexpr,  # queries of a key/value head
    HEADS: tl.constexpr,  # a power of two, at least GROUP
    QUERIES: tl.constexpr,  # the same; 16 with tensor cores
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,  # a power of two, at least WIDTH
    PAGE: tl.constexpr,
    BLOCK: tl.constexpr,  # tokens at a time
    SPLITS: tl.constexpr,
    TOGETHER: tl.constexpr,  # splits that are put together at a time
    TENSOR: tl.constexpr,  # whether to multiply with tl.dot
    STAGES: tl.constexpr,  # blocks that are on their way at once
):
    row, head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + row)
    blocks = (length + BLOCK - 1) // BLOCK
    used = tl.minimum(blocks, SPLITS)
    if split >= used:
        return
    group, width, token = tl.arange(0, QUERIES), tl.arange(0, PADDED), tl.arange(0, BLOCK)
    asked = (group < GROUP)[:, None] & (width < WIDTH)[None, :]
    base = (row * kv_heads + head) * GROUP
    q = tl.load(query + (base + group[:, None]) * WIDTH + width[None, :], mask=asked, other=0.0)
    best = tl.full((QUERIES,), -1e30, tl.float32)
    mass = tl.zeros((QUERIES,), tl.float32)
    total = tl.zeros((QUERIES, PADDED), tl.float32)
    # Every SPLITS-th block: where the first one is does not wait for the length.
    for block in tl.range(split, blocks, SPLITS, num_stages=STAGES):
        at = block * BLOCK + token
        valid = at < length
        page = tl.load(table + row * table_width + tl.minimum(at // PAGE, table_width - 1))
        slot = page.to(tl.int64) * PAGE + token % PAGE
        place = (slot[:, None] * kv_heads + head) * WIDTH + width[None, :]
        # Stale pages may hold anything, NaN too: what is masked is never read.
        seen = valid[:, None] & (width < WIDTH)[None, :]
        k = tl.load(keys + place, mask=seen, other=0.0)
        v = tl.load(values + place, mask=seen, other=0.0)
        if TENSOR:
            score = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        else:
            wide = q.to(tl.float32)[:, None, :] * k.to(tl.float32)[None, :, :]
            score = tl.sum(wide, axis=2) * scale
        score = tl.where(valid[None, :], score, -1e30)
        higher = tl.maximum(best, tl.max(score, axis=1))
        shrink = tl.exp2(best - higher)
        weight = tl.where(valid[None, :], tl.exp2(score - higher[:, None]), 0.0)
        mass = mass * shrink + tl.sum(weight, axis=1)
        total = total * shrink[:, None]
        if TENSOR:
            total = tl.dot(weight.to(v.dtype), v, total, input_precision="ieee")
        else:
            total += tl.sum(weight[:, :, None] * v.to(tl.float32)[None, :, :], axis=1)
        best = higher
    to = out + (base + group[:, None]) * WIDTH + width[None, :]
    if used == 1:
        tl.store(to, (total / mass[:, None]).to(out.dtype.element_ty), mask=asked)
        return
    part = (row * kv_heads + head) * SPLITS
    own = stats + (part + split) * 2 * GROUP + group
    tl.store(own, best, mask=group < GROUP)
    tl.store(own + GROUP, mass, mask=group < GROUP)
    own_mixed = mixed + ((part + split) * GROUP + group[:, None]) * WIDTH + width[None, :]
    tl.store(own_mixed, total, mask=asked)
    tl.debug_barrier()  # every thread's part is written before the counter says so
    counter = counters + row * kv_heads + head
    if tl.atomic_add(counter, 1, sem="acq_rel") == used - 1:
        tl.store(counter, 0)
        _together(
            out, mixed, stats, part, base, used, GROUP, HEADS, WIDTH, PADDED, SPLITS, TOGETHER
        )


@triton.jit  # type: ignore[untyped-decorator]
def _together(  # type: ignore[no-untyped-def]
    out,
    mixed,
    stats,
    part,
    base,
    used,
    GROUP: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    SPLITS: tl.constexpr,
    TOGETHER: tl.constexpr,
):
    """The result from the parts of all programs, always in the same order."""
    width, split, group = tl.arange(0, PADDED), tl.arange(0, SPLITS), tl.arange(0, HEADS)
    asked = group < GROUP
    at = stats + (part + split[:, None]) * 2 * GROUP + group[None, :]
    valid = (split < used)[:, None] & asked[None, :]
    bests = tl.load(at, mask=valid, other=-1e30, cache_modifier=".cg")
    masses = tl.load(at + GROUP, mask=valid, other=0.0, cache_modifier=".cg")
    highest = tl.max(bests, axis=0)
    mass = tl.sum(masses * tl.exp2(bests - highest[None, :]), axis=0)
    mass = tl.where(asked, mass, 1.0)
    total = tl.zeros((HEADS, PADDED), tl.float32)
    for begin in range(0, used, TOGETHER):
        s = begin + tl.arange(0, TOGETHER)
        there = (s < used)[:, None] & asked[None, :]
        first = (part + s[:, None]) * GROUP + group[None, :]
        theirs = tl.load(
            mixed + first[:, :, None] * WIDTH + width[None, None, :],
            mask=there[:, :, None] & (width < WIDTH)[None, None, :],
            other=0.0,
            cache_modifier=".cg",
        )
        first += (part + s[:, None]) * GROUP  # two numbers for each query
        best = tl.load(stats + first, mask=there, other=-1e30, cache_modifier=".cg")
        total += tl.sum(theirs * tl.exp2(best - highest[None, :])[:, :, None], axis=0)
    to = out + (base + group[:, None]) * WIDTH + width[None, :]
    inside = asked[:, None] & (width < WIDTH)[None, :]
    tl.store(to, (total / mass[:, None]).to(out.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _visit(  # type: ignore[no-untyped-def]
    q,
    keys,
    values,
    table,
    first,
    begin,
    position,  # [BLOCK_M]
    length,
    kv_head,
    kv_heads,
    scale,
    best,
    mass,
    total,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    EDGE: tl.constexpr,  # whether some of the tokens must not be seen
):
    """One step of the online softmax over BLOCK_N tokens from ``begin``."""
    at = begin + tl.arange(0, BLOCK_N)
    width = tl.arange(0, PADDED)
    valid = at < length
    slot = _slots(table, first, at, valid, PAGE)
    place = (slot[:, None] * kv_heads + kv_head) * WIDTH + width[None, :]
    if EDGE:
        seen = valid[:, None] & (width < WIDTH)[None, :]
        k = tl.load(keys + place, mask=seen, other=0.0)
        v = tl.load(values + place, mask=seen, other=0.0)
    elif PADDED == WIDTH:
        k = tl.load(keys + place)
        v = tl.load(values + place)
    else:
        k = tl.load(keys + place, mask=(width < WIDTH)[None, :], other=0.0)
        v = tl.load(values + place, mask=(width < WIDTH)[None, :], other=0.0)
    score = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    if EDGE:
        score = tl.where(at[None, :] <= position[:, None], score, -1e30)
    higher = tl.maximum(best, tl.max(score, axis=1))
    shrink = tl.exp2(best - higher)
    weight = tl.exp2(score - higher[:, None])
    mass = mass * shrink + tl.sum(weight, axis=1)
    total = tl.dot(weight.to(v.dtype), v, total * shrink[:, None], input_precision="ieee")
    return higher, mass, total


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize_on_alignment=["table", "rows", "starts", "counts"]
)
def prefill(  # type: ignore[no-untyped-def]
    query,  # [tokens, heads, WIDTH]
    keys,  # [slots, kv_heads, WIDTH]
    values,
    table,  # int32 [spans, table_width]
    rows,  # int32 [spans]: of each span's first token in query
    starts,  # int32 [spans]: position of that token in its sequence
    counts,  # int32 [spans]: tokens
    out,  # as query
    heads,
    kv_heads,
    table_width,
    scale,  # of the scores, times log2(e)
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # The last queries see the most: they are begun first.
    tile, head, span = tl.num_programs(0) - 1 - tl.program_id(0), tl.program_id(1), tl.program_id(2)
    count = tl.load(counts + span)
    if tile * BLOCK_M >= count:
        return
    start = tl.load(starts + span)
    m = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    width = tl.arange(0, PADDED)
    row = (tl.load(rows + span) + m).to(tl.int64)
    place = (row[:, None] * heads + head) * WIDTH + width[None, :]
    real = (m < count)[:, None] & (width < WIDTH)[None, :]
    q = tl.load(query + place, mask=real, other=0.0)
    position = start + m
    kv_head = head // (heads // kv_heads)
    first = span.to(tl.int64) * table_width
    length = start + tl.minimum(tile * BLOCK_M + BLOCK_M, count)
    best = tl.full((BLOCK_M,), -1e30, tl.float32)
    mass = tl.zeros((BLOCK_M,), tl.float32)
    total = tl.zeros((BLOCK_M, PADDED), tl.float32)
    edge = (start + tile * BLOCK_M) // BLOCK_N * BLOCK_N  # below it every query sees every token
    for begin in range(0, edge, BLOCK_N):
        best, mass, total = _visit(
            q, keys, values, table, first, begin, position, length, kv_head, kv_heads, scale,
            best, mass, total, WIDTH, PADDED, PAGE, BLOCK_N, False,
        )  # fmt: skip
    for begin in range(edge, length, BLOCK_N):
        best, mass, total = _visit(
            q, keys, values, table, first, begin, position, length, kv_head, kv_heads, scale,
            best, mass, total, WIDTH, PADDED, PAGE, BLOCK_N, True,
        )  # fmt: skip
    tl.store(out + place, (total / mass[:, None]).to(out.dtype.element_ty), mask=real)
