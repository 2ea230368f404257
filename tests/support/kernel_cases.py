"""The Triton kernels against torch: run in the interpreter, and on a GPU where there is one.

The interpreter has no bfloat16 product and rounds conversions to it towards zero: there the cases
run in float16 and float32. Its programs run one after another: races show on a GPU only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_hub.inference.config import PAGE
from llama_hub.inference.linear import Dense, Packed, Quantized
from llama_hub.inference.quantization import for_kernels, quantize
from llama_hub.inference.rope import Rope

# Relative to the norm of the reference, which is float64 on the same rounded inputs.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 6e-3}


def close(result: Tensor, reference: Tensor) -> None:
    """``AssertionError`` unless they agree as well as the type of ``result`` allows."""
    error = (result.double() - reference).norm() / reference.norm()
    assert error <= TOLERANCE[result.dtype], f"relative error {float(error):.2g}"


def random(*shape: int, like: torch.dtype, device: torch.device, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator).to(like).to(device)


def packed(weight: Tensor, bits: int, group: int | None = None) -> tuple[Dense | Packed, Tensor]:
    """A weight as kernels read it, and its exact values in float64."""
    if bits == 16:
        return Dense(weight), weight.double()
    if group is not None:
        made: Quantized | object = grouped(weight, bits, group)
    else:
        made = quantize(weight, bits, for_kernels, weight.dtype)
    assert isinstance(made, Quantized)
    scales = made.scales.to(weight.dtype)
    exact = Quantized(bits, made.values, scales).dense(torch.float64)
    return Packed.of(bits, made.values, scales), exact


def grouped(weight: Tensor, bits: int, group: int) -> Quantized:
    """Random integers and scales with other groups than ours, as other writers make them."""
    rows, columns = weight.shape
    generator = torch.Generator().manual_seed(rows + columns)
    width = columns * bits // 8
    values = torch.randint(0, 256, (rows, width), generator=generator).to(torch.uint8)
    values = values if bits == 4 else values.view(torch.int8)
    scales = torch.rand(rows, columns // group, generator=generator) * 0.01 - 0.002
    scales = scales.to(weight.dtype)
    return Quantized(bits, values.to(weight.device), scales.to(weight.device))


def product(
    device: torch.device,
    dtype: torch.dtype,
    bits: int,
    shape: tuple[int, int, int],
    *,
    swiglu: bool = False,
    residual: bool = False,
    group: int | None = None,
) -> None:
    """``shape``: rows of x, width of the result, columns."""
    from llama_hub.inference.kernels import products
    from llama_hub.inference.kernels.runtime import counters

    rows, width, columns = shape
    weight = random(width * (2 if swiglu else 1), columns, like=dtype, device=device)
    linear, exact = packed(weight, bits, group)
    x = random(rows, columns, like=dtype, device=device, seed=1)
    reference = x.double() @ exact.T
    if swiglu:
        gate, up = reference.chunk(2, dim=-1)
        reference = F.silu(gate) * up
    more = random(rows, width, like=dtype, device=device, seed=2) if residual else None
    if more is not None:
        reference = reference + more.double()
    kept = None if more is None else more.clone()
    result = products.by_few_rows(x, products.packed(linear), more, swiglu)
    close(result, reference)
    assert more is None or (kept is not None and torch.equal(more, kept))
    assert torch.equal(products.by_few_rows(x, products.packed(linear), more, swiglu), result)
    assert not counters(device, 1).any()
    if rows == 1:
        close(products.by_one_row(x, products.packed(linear), more, swiglu), reference)
    if rows > 1:  # a row is the same alone and in company of the same padded height
        alone = products.by_few_rows(x[:1], products.packed(linear), _first(more), swiglu)
        if products.padded(rows) == products.padded(1):
            assert torch.equal(alone, result[:1])


def _first(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor[:1].contiguous()


def many_rows(device: torch.device, dtype: torch.dtype, bits: int, group: int | None) -> None:
    """A whole matrix made dense in one launch; bit by bit what torch makes of it."""
    from llama_hub.inference.kernels import products

    linear, _ = packed(random(70, 512, like=dtype, device=device), bits, group)
    assert isinstance(linear, Packed)
    assert torch.equal(products.dense(linear, dtype), linear.dense(dtype))
    x = random(products.FEW + 1, 512, like=dtype, device=device)
    assert torch.allclose(
        products.product(x, linear), F.linear(x, linear.dense(dtype)), atol=0.02, rtol=0.02
    )


def cache(
    device: torch.device, dtype: torch.dtype, kv_heads: int, width: int, sequences: int, pages: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, values and a table of scattered pages; what no sequence holds is NaN."""
    total = sequences * pages + 3
    shape = (total * PAGE, kv_heads, width)
    keys = random(*shape, like=dtype, device=device, seed=3)
    values = random(*shape, like=dtype, device=device, seed=4)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(pages))
    table = order[: sequences * pages].view(sequences, pages).int().to(device)
    return keys, values, table


def spoil(keys: Tensor, values: Tensor, table: Tensor, lengths: list[int]) -> None:
    """NaN wherever no token of a sequence is."""
    free = torch.ones(len(keys), dtype=torch.bool, device=keys.device)
    for row, length in enumerate(lengths):
        token = torch.arange(length, device=keys.device)
        free[table[row].long()[token // PAGE] * PAGE + token % PAGE] = False
    keys[free] = values[free] = torch.nan


def attended(query: Tensor, keys: Tensor, values: Tensor, table: Tensor, start: int) -> Tensor:
    """Reference in float64: ``query`` ``[count, heads, width]`` at positions from ``start``."""
    count, heads, width = query.shape
    token = torch.arange(start + count, device=query.device)
    slot = table.long()[token // PAGE] * PAGE + token % PAGE
    group = heads // keys.shape[1]
    k, v = (each[slot].double().repeat_interleave(group, dim=1) for each in (keys, values))
    scores = torch.einsum("qhd,khd->hqk", query.double(), k) * width**-0.5
    position = start + torch.arange(count, device=query.device)
    scores = scores.masked_fill(token[None, :] > position[:, None], -torch.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)


def decode(
    device: torch.device,
    dtype: torch.dtype,
    heads: tuple[int, int, int],
    lengths: list[int],
    pages: int,
) -> None:
    """``heads``: of queries, of keys, their width."""
    from llama_hub.inference.kernels.runtime import counters
    from llama_hub.inference.paged_decode import paged_decode

    queries, kv_heads, width = heads
    keys, values, table = cache(device, dtype, kv_heads, width, len(lengths), pages)
    spoil(keys, values, table, lengths)
    query = random(len(lengths), queries, width, like=dtype, device=device)
    numbers = torch.tensor(lengths, dtype=torch.int32, device=device)
    result = paged_decode(query, keys, values, table, numbers)
    for row, length in enumerate(lengths):
        reference = attended(query[row : row + 1], keys, values, table[row], length - 1)
        close(result[row : row + 1], reference)
        part = slice(row, row + 1)
        alone = paged_decode(
            query[part].contiguous(), keys, values, table[part].contiguous(), numbers[part]
        )
        assert torch.equal(alone, result[part])
    assert not counters(device, 1).any()


def prefill(
    device: torch.device,
    dtype: torch.dtype,
    heads: tuple[int, int, int],
    runs: list[tuple[int, int]],
    pages: int,
) -> None:
    """``runs``: first position and count of each; rows between them belong to nobody."""
    from llama_hub.inference.paged_decode import paged_prefill

    queries, kv_heads, width = heads
    keys, values, table = cache(device, dtype, kv_heads, width, len(runs), pages)
    spoil(keys, values, table, [start + count for start, count in runs])
    gap = 2
    firsts = [sum(count + gap for _, count in runs[:index]) for index in range(len(runs))]
    total = firsts[-1] + runs[-1][1] + gap
    query = random(total, queries, width, like=dtype, device=device)

    def numbers(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    counts = [count for _, count in runs]
    out = torch.full_like(query, 7.0)
    paged_prefill(
        query, keys, values, table, numbers(firsts), numbers([start for start, _ in runs]),
        numbers(counts), max(counts), out,
    )  # fmt: skip
    for index, (first, (start, count)) in enumerate(zip(firsts, runs, strict=True)):
        part = slice(first, first + count)
        close(out[part], attended(query[part], keys, values, table[index], start))
        assert (out[first + count : first + count + gap] == 7.0).all()


def between(device: torch.device, dtype: torch.dtype, heads: tuple[int, int, int]) -> None:
    """Norm, rotation with the stores to the cache, and activation."""
    from llama_hub.inference.kernels import elementwise

    queries, kv_heads, width = heads
    rope = Rope(width, 64, 1e4, device)
    qkv = random(3, (queries + 2 * kv_heads) * width, like=dtype, device=device)
    positions = torch.tensor([0, 63, 17], dtype=torch.int32, device=device)
    slots = torch.tensor([7, 2, 40], dtype=torch.int32, device=device)
    keys, values = torch.full((2, 50, kv_heads, width), 5.0, dtype=dtype, device=device)
    query = elementwise.rotate_and_store(qkv, rope.cos, rope.sin, positions, slots, keys, values)
    sizes = [queries * width, kv_heads * width, kv_heads * width]
    q, k, v = (each.view(3, -1, width) for each in qkv.split(sizes, dim=-1))
    close(query, rope.rotate(q, positions).double())
    close(keys[slots], rope.rotate(k, positions).double())
    assert torch.equal(values[slots], v)
    others = torch.ones(50, dtype=torch.bool, device=device)
    others[slots] = False
    assert (keys[others] == 5.0).all()
    assert (values[others] == 5.0).all()

    x = random(3, 200, like=dtype, device=device)
    weight = random(200, like=dtype, device=device)
    wide = x.double()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)
    close(elementwise.norm(x, weight, 1e-5), wide * scale * weight.double())
    both = random(2, 3000, like=dtype, device=device)
    gate, up = both.double().chunk(2, dim=-1)
    close(elementwise.swiglu(both), F.silu(gate) * up)


Check = Callable[[torch.device, list[torch.dtype]], None]
HEADS = ((4, 4, 32), (8, 2, 64), (6, 2, 16), (4, 4, 24), (8, 1, 128))


def draws(device: torch.device, dtypes: list[torch.dtype]) -> None:
    """The same tokens as torch's operations draw, and the same numbers beside them."""
    from llama_hub.inference.draws import Draws, Upload, _keys
    from llama_hub.inference.engine import SamplingParams
    from llama_hub.inference.kernels.draw import draw

    kinds = [
        SamplingParams(temperature=1.0, top_p=top_p, top_k=top_k, min_p=min_p)
        for top_p in (0.05, 0.9, 1.0)
        for top_k in (0, 1, 7, 300)
        for min_p in (0.0, 0.1)
    ]
    for size, count in ((700, 512), (90, 90)):
        logits = random(len(kinds), size, like=torch.float32, device=device) * 3
        upload = Upload()
        asked = {n: (params, (n * 0.37) % 1) for n, params in enumerate(kinds)}
        plain = Draws(asked, upload)
        sent = upload.send(device)
        probabilities = logits.softmax(-1)
        tokens, *found = plain._draw(probabilities, sent, count)
        numbers = sent.exact[plain._fraction.start : plain._open.stop].view(6, -1)
        everything = probabilities.sum(-1, dtype=torch.float64)
        drawn, mine = draw(_keys(probabilities, count), everything, numbers)
        assert torch.equal(drawn, tokens)
        for row, other in zip(mine, found, strict=True):
            assert torch.allclose(row, other.double().flatten(), rtol=1e-4, atol=1e-7)


def few(device: torch.device, dtypes: list[torch.dtype]) -> None:
    """A case of each kind, for every run of the tests."""
    half = dtypes[0]
    product(device, half, 4, (2, 70, 1024), swiglu=True)
    product(device, half, 4, (1, 30, 5504), swiglu=True)
    product(device, half, 8, (1, 64, 512), residual=True)
    many_rows(device, half, 4, None)
    decode(device, half, (8, 2, 64), [1, 270], 40)
    decode(device, dtypes[-1], (4, 4, 32), [17, 65, 40], 5)
    prefill(device, half, (4, 2, 32), [(21, 37), (4, 1)], 5)
    between(device, half, (4, 2, 32))
    draws(device, dtypes)


def all_products(bits: int) -> Check:
    def check(device: torch.device, dtypes: list[torch.dtype]) -> None:
        for dtype in (each for each in dtypes if each != torch.float32):
            for shape in (
                (1, 96, 256),
                (1, 66, 5504),
                (5, 70, 512),
                (9, 128, 1024),
                (64, 64, 352),
                (2, 64, 2048),
            ):
                product(device, dtype, bits, shape)
                product(device, dtype, bits, shape, swiglu=True)
                product(device, dtype, bits, shape, residual=True)

    return check


def all_groups(device: torch.device, dtypes: list[torch.dtype]) -> None:
    for dtype in (each for each in dtypes if each != torch.float32):
        for bits, group in ((4, 32), (4, 64), (4, 96), (4, 128), (4, 384), (8, 64), (8, 384)):
            for rows in (1, 3):
                product(device, dtype, bits, (rows, 40, 384), group=group)
            many_rows(device, dtype, bits, {96: 32, 384: 512}.get(group, group))


def all_attention(heads: tuple[int, int, int]) -> Check:
    def check(device: torch.device, dtypes: list[torch.dtype]) -> None:
        for dtype in dtypes:
            decode(device, dtype, heads, [1], 1)
            decode(device, dtype, heads, [16, 17, 15, 33], 3)
            decode(device, dtype, heads, [1, 640, 257, 64, 65], 40)
            if dtype != torch.float32:
                prefill(device, dtype, heads, [(0, 1)], 1)
                prefill(device, dtype, heads, [(0, 64), (16, 16), (5, 130), (127, 1)], 10)

    return check


def all_between(device: torch.device, dtypes: list[torch.dtype]) -> None:
    for dtype in dtypes:
        for heads in HEADS:
            between(device, dtype, heads)


CASES: dict[str, Check] = {
    "few": few,
    "groups": all_groups,
    "between": all_between,
    **{f"products_{bits}": all_products(bits) for bits in (4, 8, 16)},
    **{f"attention_{'_'.join(map(str, heads))}": all_attention(heads) for heads in HEADS},
}

if __name__ == "__main__":  # in the interpreter: kernels learn of it when they are defined
    assert os.environ["TRITON_INTERPRET"] == "1"
    torch.set_num_threads(1)
    CASES[sys.argv[1]](torch.device("cpu"), [torch.float16, torch.float32])
