"""The numbers are right: transformers, computing by itself from the same files, is the judge."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from llama_hub.hub.conversion.convert import convert
from llama_hub.inference.config import EngineOptions
from llama_hub.inference.loading import make_plan
from llama_hub.inference.torch_engine import TorchEngine
from tests.inference.conftest import Serving
from tests.support.demo_model import demo_folder
from tests.support.hf_models import (
    Answer,
    ask,
    judged_greedy,
    judged_logits,
    our_logits,
    prompt,
)
from tests.support.make_checkpoint import Recipe, make_checkpoint

Model = Callable[..., Path]
TOKENS = prompt(90)


@pytest.mark.parametrize("shape", ["plain", "grouped", "odd"])
def test_float32_logits_equal_transformers(model: Model, path: str, shape: str) -> None:
    ours = our_logits(model(shape), TOKENS, dtype="float32", kernels=path)
    assert (ours - judged_logits(model(shape), TOKENS)).abs().max() <= 1e-4


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.04), (torch.float16, 0.005)])
@pytest.mark.parametrize("shape", ["plain", "grouped"])
def test_half_precision_is_as_near_the_truth_as_transformers(
    model: Model, path: str, shape: str, dtype: torch.dtype, tolerance: float
) -> None:
    """The truth: the same rounded weights computed in float32. Errors relative to the spread."""
    folder = model(shape, dtype)
    truth = judged_logits(folder, TOKENS)
    ours = (our_logits(folder, TOKENS, kernels=path) - truth).square().mean().sqrt()
    theirs = (judged_logits(folder, TOKENS, dtype) - truth).square().mean().sqrt()
    assert ours <= tolerance * truth.std()
    assert ours <= 1.25 * theirs


@pytest.mark.parametrize("shape", ["plain", "grouped", "odd"])
def test_greedy_tokens_equal_transformers(
    model: Model, path: str, shape: str, serving: Serving
) -> None:
    async def run() -> list[tuple[int, ...]]:
        async with serving(model(shape), dtype="float32", kernels=path) as engine:
            asked = (ask(engine, prompt(n, n), f"{n}", max_tokens=24) for n in (1, 15, 16, 40))
            return [answer.tokens for answer in await asyncio.gather(*asked)]

    expected = [judged_greedy(model(shape), prompt(n, n), 24) for n in (1, 15, 16, 40)]
    assert [list(tokens) for tokens in asyncio.run(run())] == expected


def test_logprobs_equal_transformers(model: Model, path: str, serving: Serving) -> None:
    tokens = prompt(40)

    async def run():  # type: ignore[no-untyped-def]
        async with serving(model(), dtype="float32", kernels=path, step_tokens=16) as engine:
            return await ask(engine, tokens, logprobs=3, prompt_logprobs=2)

    answer = asyncio.run(run())
    table = judged_logits(model(), [*tokens, *answer.tokens]).log_softmax(-1)
    assert answer.prompt_logprobs[0] is None
    everything = [*answer.prompt_logprobs[1:], *answer.logprobs]
    assert [each.token for each in everything] == [*tokens[1:], *answer.tokens]
    for row, each in zip(table, everything, strict=False):
        best = row.topk(len(each.top))
        assert each.logprob == pytest.approx(row[each.token].item(), abs=1e-4)
        assert [token for token, _ in each.top] == best.indices.tolist()
        assert [value for _, value in each.top] == pytest.approx(best.values.tolist(), abs=1e-4)
    assert {len(each.top) for each in answer.logprobs} == {3}


@pytest.mark.parametrize(("kind", "loss"), [("int8", 0.04), ("int4", 0.35)])
def test_quantising_at_load_costs_little(model: Model, path: str, kind: str, loss: float) -> None:
    folder = model("calm", torch.bfloat16)
    truth = judged_logits(folder, TOKENS)
    ours = our_logits(folder, TOKENS, kernels=path, quantize=kind)
    assert (ours - truth).square().mean().sqrt() <= loss * truth.std()


@pytest.mark.parametrize(
    ("kind", "group", "tolerance"),
    [("int8", None, 0.04), ("int8", 32, 0.04), ("int4", 32, 0.04), ("int4", 64, 0.04)],
)
def test_a_quantised_folder_computes_its_own_weights(
    tmp_path: Path, path: str, kind: str, group: int | None, tolerance: float
) -> None:
    """The judge gets the stored integers times their scales as ordinary weights."""
    shape = Recipe(dim=128, n_heads=4, n_kv_heads=2, ffn_dim=320, n_layers=2, dtype=torch.float32)
    original = make_checkpoint(tmp_path / "meta", shape)
    folder = tmp_path / "quantised"
    convert(original, folder, to="hf", quantize=kind, group_size=group, license="other-open")
    plain = tmp_path / "plain"
    convert(original, plain, to="hf", license="other-open")
    _overwrite_with_dequantised(folder, plain)
    truth = judged_logits(plain, TOKENS)
    ours = our_logits(folder, TOKENS, kernels=path)
    assert (ours - truth).square().mean().sqrt() <= tolerance * truth.std()


def _overwrite_with_dequantised(quantised: Path, plain: Path) -> None:
    from safetensors.torch import load_file, save_file

    stored = {k: v for f in quantised.glob("*.safetensors") for k, v in load_file(f).items()}
    (target,) = plain.glob("*.safetensors")
    dense = load_file(target)
    for name in [name for name in stored if name.endswith(".weight_packed")]:
        stem = name.removesuffix("_packed")
        rows, columns = stored[stem + "_shape"].tolist()
        bits = 32 * stored[name].shape[1] // columns
        shifts = torch.arange(0, 32, bits)
        values = (stored[name].unsqueeze(-1) >> shifts) & ((1 << bits) - 1)
        values = values.reshape(rows, columns) - (1 << (bits - 1))
        scale = stored[stem + "_scale"].float()
        dense[stem] = values * scale.repeat_interleave(columns // scale.shape[1], dim=1)
    save_file(dense, target, metadata={"format": "pt"})


def test_torch_without_our_kernels_quantises_to_the_same_model(model: Model, kernels: None) -> None:
    """Inputs are rounded to int8 by our kernels and not by torch's: close, not equal."""
    folder = model("calm", torch.bfloat16)
    ours = our_logits(folder, TOKENS, kernels="on", quantize="int4")
    torchs = our_logits(folder, TOKENS, kernels="off", quantize="int4")
    assert (ours - torchs).square().mean().sqrt() <= 0.05 * torchs.std()


def test_a_small_model_does_without_compiling(model: Model) -> None:
    plan = make_plan(model(), EngineOptions())
    assert not plan.kernels


def test_a_context_at_its_very_end(model: Model, path: str, serving: Serving) -> None:
    """The last position of the context is computed as any other."""
    tokens = prompt(250)

    async def run() -> tuple[int, ...]:
        async with serving(model(), dtype="float32", kernels=path) as engine:
            return (await ask(engine, tokens, max_tokens=6)).tokens

    assert list(asyncio.run(run())) == judged_greedy(model(), tokens, 6)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """The demo model, and a text that it finds likely: its own."""
    folder = demo_folder(tmp_path_factory.mktemp("demo"), "llama-demo").path
    return folder, _sampled(folder, 350, seeds=(1, 2))


def test_perplexity_in_bfloat16_equals_transformers(
    sampled: tuple[Path, list[int]], path: str
) -> None:
    folder, text = sampled
    ours, theirs = (
        _perplexity(text, logits)
        for logits in (
            lambda tokens: our_logits(folder, tokens, kernels=path),
            lambda tokens: judged_logits(folder, tokens, torch.bfloat16),
        )
    )
    assert 1 < theirs < 100
    assert ours == pytest.approx(theirs, rel=1e-3)


def _sampled(folder: Path, length: int, seeds: Sequence[int]) -> list[int]:
    """One text for each of ``seeds``, drawn side by side, behind each other."""

    async def run() -> list[Answer]:
        engine = TorchEngine(folder, EngineOptions(threads=1))
        await engine.start()
        try:
            options = {"temperature": 1.0, "max_tokens": length}
            asked = (ask(engine, [1], f"{seed}", seed=seed, **options) for seed in seeds)
            return await asyncio.gather(*asked)
        finally:
            await engine.shutdown()

    return [token for answer in asyncio.run(run()) for token in answer.tokens]


def _perplexity(text: list[int], logits: Callable[[list[int]], torch.Tensor]) -> float:
    total = 0.0
    for at in range(0, len(text), 200):
        tokens = [1, *text[at : at + 200]]
        table = logits(tokens)[:-1].double().log_softmax(-1)
        total -= table.gather(1, torch.tensor(tokens[1:]).unsqueeze(1)).sum().item()
    return math.exp(total / len(text))
