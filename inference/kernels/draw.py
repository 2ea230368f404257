"""A draw from each row's most likely tokens in one launch; see ``sampling``."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LOW = tl.constexpr((1 << 31) - 1)


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["rows"],
    do_not_specialize_on_alignment=["numbers"],
)
def draw_kernel(  # type: ignore[no-untyped-def]
    keys,  # int64 [rows, count], largest first: bits of a probability above, LOW - token below
    everything,  # float64 [rows]: mass of all tokens
    numbers,  # float64 [6, rows]: fraction, limit, whole, top-p, min-p, open
    tokens,  # int64 [rows], the answer
    found,  # float64 [5, rows]: listed, last, least, wanted, kept
    rows,
    count,
    BLOCK: tl.constexpr,  # a power of two, at least ``count``
):
    row = tl.program_id(0)
    place = tl.arange(0, BLOCK)
    key = tl.load(keys + row * count + place, mask=place < count, other=LOW)
    value = (key >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    token = LOW - (key & LOW)
    fraction = tl.load(numbers + row)
    limit = tl.load(numbers + rows + row)
    whole = tl.load(numbers + 2 * rows + row)
    top_p = tl.load(numbers + 3 * rows + row).to(tl.float32)
    min_p = tl.load(numbers + 4 * rows + row).to(tl.float32)
    opened = tl.load(numbers + 5 * rows + row)
    listed = tl.sum(value, axis=0)
    within = (place < limit) & (place < count)
    value = tl.where(within, value, 0.0)
    value = value / tl.where(whole > 0, 1.0, tl.sum(value, axis=0))
    least = min_p * tl.max(value, axis=0)
    before = tl.cumsum(value, axis=0) - value
    keep = (within & (before <= top_p) & (value >= least)) | (place == 0)
    mass = tl.where(keep, value, 0.0).to(tl.float64)
    cumulative = tl.cumsum(mass, axis=0)
    kept = tl.max(cumulative, axis=0)
    wanted = fraction * tl.where(opened > 0, tl.load(everything + row), kept)
    index = tl.sum((cumulative <= wanted).to(tl.int32), axis=0)
    index = tl.minimum(index, tl.max(tl.where(keep, place, 0), axis=0))
    tl.store(tokens + row, tl.sum(tl.where(place == index, token, 0), axis=0))
    tl.store(found + row, listed.to(tl.float64))
    last = tl.sum(tl.where(place == count - 1, value, 0.0), axis=0)
    tl.store(found + rows + row, last.to(tl.float64))
    tl.store(found + 2 * rows + row, least.to(tl.float64))
    tl.store(found + 3 * rows + row, wanted)
    tl.store(found + 4 * rows + row, kept)


def draw(keys: Tensor, everything: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens int64 ``[rows]`` and what tells whether the list sufficed, float64 ``[5, rows]``.

    ``keys`` int64 ``[rows, count]``, ``everything`` float64 ``[rows]``, ``numbers`` float64
    ``[6, rows]``; see the kernel.
    """
    rows, count = keys.shape
    assert keys.is_contiguous()
    assert numbers.is_contiguous()
    assert numbers.shape == (6, rows)
    assert keys.dtype == torch.int64
    assert everything.dtype == numbers.dtype == torch.float64
    tokens = torch.empty(rows, dtype=torch.int64, device=keys.device)
    found = torch.empty(5, rows, dtype=torch.float64, device=keys.device)
    block = triton.next_power_of_2(count)
    draw_kernel[(rows,)](keys, everything, numbers, tokens, found, rows, count, BLOCK=block)
    return tokens, found
