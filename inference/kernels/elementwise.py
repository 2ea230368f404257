"""Kernels between the products of a decoder layer: norms, rotary positions, activation."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

HEADS = 4  # that one program turns


@triton.jit  # type: ignore[untyped-decorator]
def rms_norm(  # type: ignore[no-untyped-def]
    x,  # [rows, columns]
    weight,  # [columns]
    out,
    columns,
    eps,
    BLOCK: tl.constexpr,  # a power of two, at least ``columns``
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    real = at < columns
    wide = tl.load(x + row * columns + at, mask=real, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, axis=0) / columns + eps)
    dtype = out.dtype.element_ty
    # Rounded before it meets the weight, as the reference does.
    even = (wide * scale).to(dtype)
    tl.store(out + row * columns + at, even * tl.load(weight + at, mask=real), mask=real)


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize_on_alignment=["positions", "slots"]
)
def rotate_and_store_kernel(  # type: ignore[no-untyped-def]
    qkv,  # [rows, (queries + 2 * kv_heads) * WIDTH]
    cos,  # float32 [context, WIDTH / 2]
    sin,
    positions,  # int32 or int64 [rows]
    slots,  # the same
    query,  # [rows, queries, WIDTH]
    keys,  # [slots, kv_heads, WIDTH]
    values,
    queries,
    kv_heads,
    WIDTH: tl.constexpr,
    HALF: tl.constexpr,  # a power of two, at least WIDTH / 2
    HEADS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    total = queries + 2 * kv_heads
    half = tl.arange(0, HALF)
    inside = half < WIDTH // 2
    position = tl.load(positions + row).to(tl.int64)
    slot = tl.load(slots + row).to(tl.int64)
    c = tl.load(cos + position * (WIDTH // 2) + half, mask=inside, other=0.0)[None, :]
    s = tl.load(sin + position * (WIDTH // 2) + half, mask=inside, other=0.0)[None, :]
    real = (head < total)[:, None] & inside[None, :]
    at = qkv + (row * total + head[:, None]) * WIDTH + half[None, :]
    first = tl.load(at, mask=real, other=0.0)
    second = tl.load(at + WIDTH // 2, mask=real, other=0.0)
    a, b = first.to(tl.float32), second.to(tl.float32)
    low, high = a * c - b * s, b * c + a * s

    is_query = real & (head < queries)[:, None]
    place = query + (row * queries + head[:, None]) * WIDTH + half[None, :]
    tl.store(place, low.to(query.dtype.element_ty), mask=is_query)
    tl.store(place + WIDTH // 2, high.to(query.dtype.element_ty), mask=is_query)

    key = head - queries
    is_key = real & ((key >= 0) & (key < kv_heads))[:, None]
    place = keys + (slot * kv_heads + key[:, None]) * WIDTH + half[None, :]
    tl.store(place, low.to(keys.dtype.element_ty), mask=is_key)
    tl.store(place + WIDTH // 2, high.to(keys.dtype.element_ty), mask=is_key)

    value = key - kv_heads
    is_value = real & (value >= 0)[:, None]
    place = values + (slot * kv_heads + value[:, None]) * WIDTH + half[None, :]
    tl.store(place, first.to(values.dtype.element_ty), mask=is_value)
    tl.store(place + WIDTH // 2, second.to(values.dtype.element_ty), mask=is_value)


@triton.jit  # type: ignore[untyped-decorator]
def swiglu_kernel(gate_up, out, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    real = at < width
    gate = tl.load(gate_up + row * 2 * width + at, mask=real, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + at, mask=real, other=0.0)
    # silu is rounded before it meets the other half, as torch does.
    gate = (gate / (1.0 + tl.exp(-gate))).to(up.dtype)
    tl.store(out + row * width + at, gate * up, mask=real)


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of ``x`` ``[rows, columns]``, both contiguous; as ``model.Llama.norm``."""
    rows, columns = x.shape
    assert weight.shape == (columns,)
    assert x.is_contiguous()
    out = torch.empty_like(x)
    rms_norm[(rows,)](
        x, weight, out, columns, eps, BLOCK=triton.next_power_of_2(columns), num_warps=8
    )
    return out


def rotate_and_store(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
) -> Tensor:
    """Queries ``[rows, queries, width]`` turned to their positions; keys (turned) and values of
    ``qkv`` ``[rows, (queries + 2 kv_heads) * width]`` go to their ``slots`` of the cache.

    ``cos`` and ``sin`` float32 ``[context, width / 2]``; ``positions`` and ``slots``
    ``[rows]``, int32 or int64; ``keys`` and ``values`` ``[slots, kv_heads, width]``.
    """
    rows = len(qkv)
    _, kv_heads, width = keys.shape
    total = qkv.shape[1] // width
    queries = total - 2 * kv_heads
    assert qkv.is_contiguous()
    assert keys.is_contiguous()
    assert values.shape == keys.shape
    assert cos.shape[1] == width // 2
    assert positions.shape == slots.shape == (rows,)
    query = torch.empty(rows, queries, width, dtype=qkv.dtype, device=qkv.device)
    rotate_and_store_kernel[(rows, triton.cdiv(total, HEADS))](
        qkv, cos, sin, positions, slots, query, keys, values, queries, kv_heads,
        WIDTH=width, HALF=triton.next_power_of_2(width // 2), HEADS=HEADS, num_warps=2,
    )  # fmt: skip
    return query


def swiglu(gate_up: Tensor) -> Tensor:
    """``silu(gate) * up`` of ``[rows, 2 * width]``, gate first."""
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    assert gate_up.is_contiguous()
    out = gate_up.new_empty(rows, width)
    swiglu_kernel[(rows, triton.cdiv(width, 1024))](gate_up, out, width, BLOCK=1024)
    return out
