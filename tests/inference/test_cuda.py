"""Decode steps on fixed tensors, on the CPU; graphs and compiled layers where there is a GPU."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llama_hub.hub.model_config import read_config
from llama_hub.inference.batch import Piece, build
from llama_hub.inference.collective import Alone
from llama_hub.inference.config import PAGE
from llama_hub.inference.cuda_decode import DecodeStep, Inputs, gathered_attention
from llama_hub.inference.kv_cache import KVCache
from llama_hub.inference.model import Llama
from llama_hub.inference.partition import Partition
from llama_hub.inference.quantization import for_kernels
from llama_hub.inference.rope import Rope
from llama_hub.inference.weights import Loader, Target, TensorFiles, heads_of
from tests.inference.conftest import Serving
from tests.support.hf_models import ask, judged_greedy, prompt

Model = Callable[..., Path]
CPU = torch.device("cpu")
PAGES = 16


def loaded(folder: Path, bits: int | None) -> tuple[Llama, KVCache]:
    """The plain model in float32, with dense or plainly quantised weights, and its cache."""
    architecture = read_config(folder).architecture
    partition = Partition(architecture)
    heads = heads_of(partition)
    target = Target(torch.float32, CPU, for_kernels, bits)
    with TensorFiles(folder) as files:
        weights = Loader(files, partition, target, None).load()
    rope = Rope(heads.width, 256, architecture.rope_theta, CPU)
    cache = KVCache(architecture.n_layers, 40, heads.keys, heads.width, torch.float32, CPU)
    return Llama(architecture, heads, weights, rope, Alone()), cache


@pytest.mark.parametrize("bits", [None, 8, 4])
@torch.inference_mode()
def test_a_step_on_fixed_tensors_equals_the_plain_model(model: Model, bits: int | None) -> None:
    """Three sequences of different lengths on scattered pages, and a row that nobody uses."""
    llama, cache = loaded(model("grouped"), bits)
    pages = [(3, 9, 1), (7,), (20, 2, 30, 11)]
    lengths = (40, 5, 63)
    for own, length in zip(pages, lengths, strict=True):
        tokens = prompt(length, length)
        llama.forward(build([Piece(tokens, 0, own, prompt=length)], CPU), cache)
    step_pieces = [Piece((9 + n,), lengths[n], own) for n, own in enumerate(pages)]
    batch = build(step_pieces, CPU)
    before = cache.data.clone()
    expected = llama.forward(batch, cache)
    filled = cache.data.clone()
    cache.data.copy_(before)
    spare = 39 * PAGE
    inputs = Inputs.empty(4, PAGES, spare, CPU)
    inputs.fill(batch, spare)
    found = DecodeStep(llama, cache, gathered_attention, compiled=False)(inputs)
    assert (found[:3] - expected).abs().max() <= 1e-4
    assert torch.allclose(cache.data[:, :, :spare], filled[:, :, :spare], atol=1e-4)


def test_rows_that_were_used_before_are_emptied(model: Model) -> None:
    inputs = Inputs.empty(3, PAGES, 99 * PAGE, CPU)
    inputs.fill(build([Piece((4,), 17, (5, 6)), Piece((3,), 2, (7,))], CPU), 99 * PAGE)
    inputs.fill(build([Piece((8,), 3, (1,))], CPU), 99 * PAGE)
    assert inputs.slots.tolist() == [PAGE + 3, 99 * PAGE, 99 * PAGE]
    assert inputs.lengths.tolist() == [4, 1, 1]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestOnCuda:
    """What only a GPU can show."""

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_greedy_tokens(self, model: Model, serving: Serving, dtype: str) -> None:
        tokens = [prompt(n, n) for n in (1, 17, 60)]

        async def run() -> list[tuple[int, ...]]:
            async with serving(model("calm"), device="cuda", dtype=dtype, step_tokens=40) as engine:
                asked = (ask(engine, each, f"{n}", max_tokens=16) for n, each in enumerate(tokens))
                return [answer.tokens for answer in await asyncio.gather(*asked)]

        answers = asyncio.run(run())
        if dtype == "float32":
            expected = [judged_greedy(model("calm"), each, 16) for each in tokens]
            assert [list(each) for each in answers] == expected
        assert {len(each) for each in answers} == {16}

    @pytest.mark.parametrize("quantize", [None, "int8", "int4"])
    def test_decode_steps_are_replayed_and_agree(self, model: Model, quantize: Any) -> None:
        from llama_hub.inference.config import EngineOptions
        from llama_hub.inference.loading import load_shard, make_plan

        options = EngineOptions(device="cuda", quantize=quantize, dtype="bfloat16", max_batch=4)
        plan = make_plan(model("calm"), options)
        forward = load_shard(plan).executor._forward
        assert forward.way != "eager"  # type: ignore[union-attr]
        device = plan.device
        with torch.inference_mode():
            forward(build([Piece(prompt(40), 0, (0, 1, 2), prompt=40)], device))  # type: ignore[misc]
            batch = build([Piece((7,), 40, (0, 1, 2))], device)
            replayed = forward(batch)  # type: ignore[misc]
            plain = forward._model.forward(batch, forward._cache)  # type: ignore[union-attr]
        assert (replayed - plain).abs().max() <= 0.05 * plain.std()


def test_the_triton_kernel_in_its_interpreter() -> None:
    """Where Triton is installed: against torch, with grouped queries and uneven lengths."""
    pytest.importorskip("triton")
    script = """
import torch
from llama_hub.inference.cuda_decode import gathered_attention
from llama_hub.inference.paged_decode import paged_decode
torch.manual_seed(0)
for heads, kv_heads, width, rows, pages in ((4, 4, 32, 3, 5), (8, 2, 64, 2, 40), (6, 2, 16, 1, 17)):
    keys, values = torch.randn(2, 1600, kv_heads, width)
    table = torch.randperm(100)[: rows * pages].view(rows, pages).int()
    lengths = torch.randint(1, pages * 16 + 1, (rows,)).int()
    query = torch.randn(rows, heads, width)
    case = (query, keys, values, table, lengths)
    assert (paged_decode(*case) - gathered_attention(*case)).abs().max() < 1e-5
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, timeout=120)
