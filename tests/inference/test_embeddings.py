"""Vectors of texts are what transformers' hidden states give, in pieces and in company too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llama_hub.inference.torch_engine import TorchEngine
from tests.inference.conftest import Serving
from tests.support.hf_models import Answer, ask, embed, judged_embedding, prompt
from tests.support.tiers import family

Model = Callable[..., Path]
TEXTS = [prompt(n, n) for n in (1, 2, 16, 61)]


def near(vector: Tensor, expected: Tensor) -> bool:
    return bool((vector - expected).abs().max() <= 1e-5)


@pytest.mark.parametrize("shape", family(["grouped", "plain", "odd"], everyday=1))
def test_vectors_equal_transformers(model: Model, path: str, shape: str, serving: Serving) -> None:
    """Steps of 24 tokens, of which the longest text takes three."""
    folder = model(shape)

    async def run() -> list[Tensor]:
        async with serving(folder, dtype="float32", kernels=path, step_tokens=24) as engine:
            assert engine.info.embedding_size == len(judged_embedding(folder, TEXTS[0]))
            asked = (embed(engine, text, f"{n}") for n, text in enumerate(TEXTS))
            return await asyncio.gather(*asked)

    for text, vector in zip(TEXTS, asyncio.run(run()), strict=True):
        assert near(vector, judged_embedding(folder, text))
        assert vector.norm().item() == pytest.approx(1, abs=1e-6)


def test_answers_beside_them_are_the_same(model: Model, path: str, serving: Serving) -> None:
    """Pages are few: some are taken away and computed again, of answers and of texts."""
    folder = model()
    questions = [prompt(20, 50 + n) for n in range(3)]

    async def run(engine: TorchEngine, *, crowd: bool) -> tuple[list[Answer], list[Tensor]]:
        asked = [ask(engine, each, f"a{n}", max_tokens=40) for n, each in enumerate(questions)]
        texts = TEXTS * 3 if crowd else []
        wanted = [embed(engine, text, f"e{n}") for n, text in enumerate(texts)]
        answers, vectors = await asyncio.gather(asyncio.gather(*asked), asyncio.gather(*wanted))
        return answers, vectors

    async def both() -> tuple[list[Answer], list[Answer], list[Tensor]]:
        options = {"dtype": "float32", "kernels": path, "step_tokens": 24}
        async with serving(folder, **options) as engine:
            alone, _ = await run(engine, crowd=False)
        async with serving(folder, **options, kv_cache_bytes=1, context=100) as engine:
            among, vectors = await run(engine, crowd=True)
            assert engine.stats().preemptions > 0
            assert engine.stats().running == engine.stats().waiting == 0
            assert engine.stats().kv_usage == 0
        return alone, among, vectors

    alone, among, vectors = asyncio.run(both())
    assert [each.tokens for each in among] == [each.tokens for each in alone]
    for text, vector in zip(TEXTS * 3, vectors, strict=True):
        assert near(vector, judged_embedding(folder, text))


def test_a_text_is_read_whole_though_its_beginning_is_cached(
    model: Model, serving: Serving
) -> None:
    text = prompt(60)

    async def run() -> tuple[Tensor, int]:
        async with serving(model(), dtype="float32", kernels="off") as engine:
            await ask(engine, text, "first")
            vector = await embed(engine, text)
            await embed(engine, prompt(60, 7), "other")
            again = await ask(engine, prompt(60, 7), "again")
            return vector, again.cached_tokens

    vector, cached = asyncio.run(run())
    assert near(vector, judged_embedding(model(), text))
    assert cached == 0, "a text that became a vector took pages of the prefix cache"


def test_a_text_may_fill_the_context(model: Model, serving: Serving) -> None:
    async def run() -> int:
        async with serving(model(), dtype="float32", kernels="off", context=64) as engine:
            return int(torch.isfinite(await embed(engine, prompt(64))).sum())

    assert asyncio.run(run()) > 0


def test_one_that_is_aborted_leaves_nothing(model: Model, serving: Serving) -> None:
    async def run() -> float:
        async with serving(model(), dtype="float32", kernels="off", step_tokens=4) as engine:
            task = asyncio.create_task(embed(engine, prompt(100)))
            while not engine.stats().running:
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await ask(engine, prompt(3), "after")  # has its turn, so the abort had
            return engine.stats().kv_usage

    assert asyncio.run(run()) == 0
