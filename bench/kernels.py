"""Our Triton kernels on a CUDA device: what each reaches of the device's own bandwidth.

    python bench/kernels.py [--quick] [--sweep] [--out bench/results/kernels.json]

First every kernel is compared with torch on this device. Then: products of the 7B and 13B models'
shapes at 1, 8 and 32 rows for 16, 8 and 4 bits beside cuBLAS, decode attention, prefill attention
beside torch's flash attention, one whole decoder layer in a CUDA graph. ``--sweep`` tries other
tiles than the product's and names the best. Times are medians of replays of a graph with many
launches over weights that do not fit the cache; the device's bandwidth is what reading 4 GiB takes.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from llama_hub.inference import paged_decode
from llama_hub.inference.config import PAGE
from llama_hub.inference.kernels import elementwise, products
from llama_hub.inference.linear import Packed
from tests.support import kernel_cases

CUDA = torch.device("cuda:0")
DTYPE = torch.bfloat16
SHAPES = {  # rows of the weight, columns, whether gate above up
    "7b qkv": (12288, 4096, False),
    "7b out": (4096, 4096, False),
    "7b gate_up": (22016, 4096, True),
    "7b down": (4096, 11008, False),
}
CACHE = 256 << 20  # bytes that surely fit no cache


def timed(calls: list[Callable[[], Any]], rounds: int = 5) -> float:
    """Seconds of one call: all of them in a graph, the median of its replays."""
    for call in calls[:2]:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    times = []
    for _ in range(rounds + 1):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000 / len(calls))
    return statistics.median(times[1:])


def bandwidth() -> float:
    """Bytes that the device reads in a second."""
    data = torch.ones(1 << 30, dtype=torch.float32, device=CUDA)
    return data.numel() * 4 / timed([data.sum] * 3)


@functools.lru_cache(maxsize=1)
def weights(bits: int, width: int, columns: int) -> list[Packed]:
    """As many as surely do not fit the cache."""
    size = width * columns * bits // 8
    return [weight(bits, width, columns) for _ in range(max(2, -(-CACHE // size)))]


def weight(bits: int, width: int, columns: int) -> Packed:
    if bits == 16:
        dense = torch.randn(width, columns, dtype=DTYPE, device=CUDA) * 0.02
        return Packed(16, dense, dense[:1, :1], 0, 32)
    group = 64 if bits == 4 else columns
    values = torch.randint(0, 256, (width, columns * bits // 8), device=CUDA).to(torch.uint8)
    scales = torch.rand(width, columns // group, device=CUDA).to(DTYPE) * 0.01
    return Packed.of(bits, values if bits == 4 else values.view(torch.int8), scales)


Tiles = products.Tiling | products.RowTiling


def product(name: str, bits: int, rows: int, tiles: Tiles | None = None) -> dict[str, Any]:
    """Microseconds and bytes read in a second; for 16 bits cuBLAS beside it."""
    width, columns, pair = SHAPES[name]
    made = weights(bits, width, columns)
    x = torch.randn(rows, columns, dtype=DTYPE, device=CUDA)
    usual: Tiles = (
        products.row_tiling(made[0], swiglu=pair)
        if products.alone(made[0], x)
        else products.tiling(made[0], rows, swiglu=pair)
    )
    how = tiles or usual
    seconds = timed([_launch(x, each, pair, how) for each in made])
    read = made[0].values.nbytes + (made[0].scales.nbytes if bits < 16 else 0)
    result = {"kernel": name, "bits": bits, "rows": rows, "us": seconds * 1e6}
    result |= {"gb_s": read / seconds / 1e9, "tiles": asdict(how)}
    if bits == 16 and tiles is None:
        result["cublas_us"] = timed([_cublas(x, each, pair) for each in made]) * 1e6
    return result


def _launch(x: Tensor, made: Packed, pair: bool, how: Tiles) -> Callable[[], Tensor]:
    if isinstance(how, products.RowTiling):
        return lambda: products.by_one_row(x, made, None, pair, how)
    return lambda: products.by_few_rows(x, made, None, pair, how)


def _cublas(x: Tensor, made: Packed, pair: bool) -> Callable[[], Tensor]:
    if pair:
        return lambda: elementwise.swiglu(F.linear(x, made.values))
    return lambda: F.linear(x, made.values)


def candidates(name: str, bits: int, rows: int) -> list[Tiles]:
    """Tilings that read enough at once and keep the device busy."""
    width, columns, pair = SHAPES[name]
    made: list[Tiles] = []
    if rows == 1:
        for block_n, warps in itertools.product((2, 4, 8, 16), (1, 2, 4, 8)):
            if block_n * (2 if pair else 1) <= 16:
                made.append(products.RowTiling(block_n, warps))
        return made
    block_k = 64 if bits in (4, 16) else 128
    for (block_n, warps), parts, programs, stages in itertools.product(
        ((16, 1), (32, 2), (64, 4)), (1, 2, 4), (512, 1024), (3, 4)
    ):
        step = block_k * parts
        size = block_n * step * bits // 8 * (2 if pair else 1) * (stages - 1)
        tiles = -(-width // (2 if pair else 1) // block_n)
        splits = 1 << max(0, (programs // tiles).bit_length() - 1)
        if columns % step == 0 and 4096 <= size <= 16384 and columns // step >= splits:
            made.append(products.Tiling(block_n, block_k, parts, splits, warps, stages))
    return list(dict.fromkeys(made))


def _compile(task: tuple[str, int, int, Tiles]) -> None:
    """In a process of its own: Triton's cache then has it."""
    name, bits, rows, tiles = task
    _, columns, pair = SHAPES[name]
    x = torch.zeros(rows, columns, dtype=DTYPE, device=CUDA)
    with contextlib.suppress(Exception):  # the sweep meets it again and names it
        _launch(x, weight(bits, 512, columns), pair, tiles)()


def sweep(
    tasks: list[tuple[str, int, int]], warps: tuple[int, ...] = (1, 2, 4, 8)
) -> list[dict[str, Any]]:
    """The four fastest tilings of each of some products, and the usual one."""
    tried = {task: [tiles for tiles in candidates(*task) if tiles.warps in warps] for task in tasks}
    every = [(*task, tiles) for task in tasks for tiles in tried[task]]
    with ProcessPoolExecutor(min(14, os.cpu_count() or 1), get_context("spawn")) as pool:
        list(pool.map(_compile, every, chunksize=8))
    best = []
    for task in tasks:
        results = []
        for tiles in tried[task]:
            try:
                results.append(product(*task, tiles))
            except Exception as error:  # a tile that does not fit the device
                print("no", tiles, str(error)[:80], file=sys.stderr)
        best += [product(*task), *sorted(results, key=lambda each: float(each["us"]))[:4]]
    return best


def ways(query: Tensor, kv_heads: int, pages: int) -> list[paged_decode.Tiling]:
    """The usual way of attention first, then others."""
    usual = paged_decode.tiling(query, kv_heads, pages)
    made = [usual]
    for tensor, block, warps, stages in (
        (False, 16, 4, 4), (True, 64, 2, 3), (True, 64, 2, 4), (True, 64, 4, 3), (True, 32, 1, 3),
        (True, 32, 2, 3), (True, 128, 4, 3), (True, 128, 4, 2),
    ):  # fmt: skip
        if tensor or query.shape[1] == kv_heads:
            for splits in (usual.splits // 2, usual.splits, usual.splits * 2):
                made.append(paged_decode.Tiling(tensor, block, max(1, splits), warps, stages))
    return list(dict.fromkeys(made))


def _compile_attention(task: tuple[int, int, paged_decode.Tiling]) -> None:
    heads, kv_heads, way = task
    query = torch.zeros(1, heads, 128, dtype=DTYPE, device=CUDA)
    keys = torch.zeros(256, kv_heads, 128, dtype=DTYPE, device=CUDA)
    table = torch.zeros(1, 4096 // PAGE, dtype=torch.int32, device=CUDA)
    lengths = torch.ones(1, dtype=torch.int32, device=CUDA)
    with contextlib.suppress(Exception):
        paged_decode.paged_decode(query, keys, keys, table, lengths, way)


def attention(
    heads: int, kv_heads: int, rows: int, length: int, *, every: bool
) -> list[dict[str, Any]]:
    """Decode attention in its usual way, or in ``every`` way, the fastest first."""
    width, pages = 128, 4096 // PAGE
    layers = max(2, -(-CACHE // (rows * length * kv_heads * width * 4)))
    needed = -(-length // PAGE)
    caches = torch.randn(layers, 2, rows * needed * PAGE, kv_heads, width, dtype=DTYPE, device=CUDA)
    table = torch.zeros(rows, pages, dtype=torch.int32, device=CUDA)
    table[:, :needed] = torch.randperm(rows * needed, device=CUDA).view(rows, needed).int()
    lengths = torch.full((rows,), length, dtype=torch.int32, device=CUDA)
    query = torch.randn(rows, heads, width, dtype=DTYPE, device=CUDA)

    def call(layer: int, way: paged_decode.Tiling) -> Callable[[], Tensor]:
        keys, values = caches[layer]
        return lambda: paged_decode.paged_decode(query, keys, values, table, lengths, way)

    results = []
    read = rows * length * kv_heads * width * 2 * 2
    for way in ways(query, kv_heads, pages)[: None if every else 1]:
        seconds = timed([call(layer, way) for layer in range(layers)])
        result = {"kernel": "decode", "heads": heads, "kv_heads": kv_heads, "rows": rows}
        result |= {"length": length, "us": seconds * 1e6, "gb_s": read / seconds / 1e9}
        results.append(result | {"tiles": asdict(way)})
    return results[:1] + sorted(results[1:], key=lambda each: float(each["us"]))[:4]


def attentions(*, every: bool) -> list[dict[str, Any]]:
    """Decode attention at several sizes."""
    cases = ((32, 32, 1, 512), (32, 32, 8, 512), (32, 32, 8, 3968), (32, 32, 32, 512))
    cases += ((64, 8, 1, 2048), (64, 8, 16, 2048))
    if every:
        tasks = []
        for heads, kv_heads in {case[:2] for case in cases}:
            query = torch.empty(1, heads, 128, dtype=DTYPE, device=CUDA)
            tasks += [(heads, kv_heads, way) for way in ways(query, kv_heads, 4096 // PAGE)]
        with ProcessPoolExecutor(min(14, os.cpu_count() or 1), get_context("spawn")) as pool:
            list(pool.map(_compile_attention, tasks, chunksize=4))
    return [result for case in cases for result in attention(*case, every=every)]


def prefill(tokens: int, *, every: bool) -> list[dict[str, Any]]:
    """Of one prompt, beside torch's own flash attention on keys that lie together."""
    heads, width = 32, 128
    query = torch.randn(tokens, heads, width, dtype=DTYPE, device=CUDA)
    keys, values = torch.randn(2, tokens, heads, width, dtype=DTYPE, device=CUDA)
    table = torch.randperm(tokens // PAGE, device=CUDA).int().view(1, -1)
    first = torch.zeros(1, dtype=torch.int32, device=CUDA)
    counts = torch.full((1,), tokens, dtype=torch.int32, device=CUDA)
    flops = 4 * tokens * tokens * heads * width / 2

    def torchs() -> Tensor:
        q, k, v = (each.transpose(0, 1).unsqueeze(0) for each in (query, keys, values))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def ours(how: paged_decode.PrefillTiling) -> Callable[[], Tensor]:
        return lambda: paged_decode.paged_prefill(
            query, keys, values, table, first, first, counts, tokens, None, how
        )

    other = timed([torchs] * 10)
    tilings = [paged_decode.prefill_tiling(tokens)]
    if every:
        tilings += [
            paged_decode.PrefillTiling(*each)
            for each in ((128, 64, 8, 2), (128, 64, 8, 4), (128, 128, 8, 2), (128, 128, 8, 3),
                         (64, 64, 4, 3), (64, 128, 4, 2), (128, 32, 8, 4), (64, 32, 4, 3))
        ]  # fmt: skip
    results = []
    for how in tilings:
        own = timed([ours(how)] * 10)
        result = {"kernel": "prefill", "tokens": tokens, "us": own * 1e6, "torch_us": other * 1e6}
        result |= {"tflops": flops / own / 1e12, "torch_tflops": flops / other / 1e12}
        results.append(result | {"tiles": asdict(how)})
    return results


def layer(bits: int, rows: int, length: int = 512) -> dict[str, Any]:
    """The eight launches of a 7B layer's decode step, layer after layer."""
    layers = 8
    stacks = [
        [weight(bits, SHAPES[name][0], SHAPES[name][1]) for name in SHAPES] for _ in range(layers)
    ]
    needed = -(-length // PAGE)
    caches = torch.randn(layers, 2, rows * needed * PAGE, 32, 128, dtype=DTYPE, device=CUDA)
    table = torch.zeros(rows, 4096 // PAGE, dtype=torch.int32, device=CUDA)
    table[:, :needed] = torch.arange(rows * needed, device=CUDA).view(rows, needed).int()
    lengths = torch.full((rows,), length, dtype=torch.int32, device=CUDA)
    angles = torch.randn(4096, 64, device=CUDA)
    positions = torch.full((rows,), length - 1, device=CUDA)
    slots = positions + torch.arange(rows, device=CUDA) * needed * PAGE
    scale = torch.ones(4096, dtype=DTYPE, device=CUDA)

    def step() -> Tensor:
        x = torch.ones(rows, 4096, dtype=DTYPE, device=CUDA)
        for (qkv, out, gate_up, down), (keys, values) in zip(stacks, caches, strict=True):
            both = products.product(elementwise.norm(x, scale, 1e-5), qkv)
            query = elementwise.rotate_and_store(
                both, angles, angles, positions, slots, keys, values
            )
            mixed = paged_decode.paged_decode(query, keys, values, table, lengths)
            x = products.product(mixed.flatten(1), out, residual=x)
            wide = products.product(elementwise.norm(x, scale, 1e-5), gate_up, swiglu=True)
            x = products.product(wide, down, residual=x)
        return x

    seconds = timed([step] * 2) / layers
    read = sum(each.bytes if bits < 16 else each.values.nbytes for each in stacks[0])
    read += rows * length * 32 * 128 * 2 * 2
    result = {"kernel": "layer", "bits": bits, "rows": rows, "length": length}
    return result | {"us": seconds * 1e6, "gb_s": read / seconds / 1e9}


def check() -> None:
    """A case of each kernel against torch; the tests marked ``cuda`` are thorough."""
    start = time.monotonic()
    kernel_cases.few(CUDA, [DTYPE])
    print(f"the kernels agree with torch ({time.monotonic() - start:.0f} s)")


def show(result: dict[str, Any], full: float, results: list[dict[str, Any]]) -> None:
    results.append(result)
    if "gb_s" in result:
        result["share"] = result["gb_s"] * 1e9 / full
    shown = {k: round(v, 3) if isinstance(v, float) else v for k, v in result.items()}
    if "tiles" in shown:
        shown["tiles"] = "/".join(str(value) for value in shown["tiles"].values())
    print(*(f"{key} {value}" for key, value in shown.items()), flush=True)


def measure(options: argparse.Namespace, full: float) -> list[dict[str, Any]]:
    """All that was asked for, shown as it comes."""
    results: list[dict[str, Any]] = []
    if options.rows_sweep:
        for result in sweep(list(itertools.product(SHAPES, (4, 8), (1,))), warps=(1,)):
            show(result, full, results)
        return results
    rows = (1,) if options.quick else (1, 8, 16, 32)
    for bits, count in itertools.product((16, 8, 4), rows[:2]):
        show(layer(bits, count), full, results)
    for shape, bits, count in itertools.product(SHAPES, (4, 8, 16), rows):
        show(product(shape, bits, count), full, results)
    for result in attentions(every=options.sweep):
        show(result, full, results)
    for tokens in (512, 2048):
        for result in prefill(tokens, every=options.sweep):
            show(result, full, results)
    if options.sweep:
        one = list(itertools.product(SHAPES, (4, 8, 16), (1,)))
        for result in sweep(one + [("7b out", 4, 8), ("7b gate_up", 4, 8), ("7b down", 8, 8)]):
            show(result, full, results)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a case of each kind")
    parser.add_argument("--sweep", action="store_true", help="other tiles as well")
    parser.add_argument("--rows-sweep", action="store_true", help="only tiles of one row")
    parser.add_argument("--no-check", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not options.no_check and not options.rows_sweep:
        check()
    full = bandwidth()
    name = torch.cuda.get_device_name()
    print(f"{name}: reads {full / 1e9:.0f} GB/s; torch {torch.__version__}")
    results = measure(options, full)
    if options.out:
        document = {"device": name, "torch": torch.__version__, "gb_s": full / 1e9}
        options.out.write_text(json.dumps(document | {"results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
