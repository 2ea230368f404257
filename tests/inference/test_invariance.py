"""The same request gives the same answer, whatever happens around it.

On our kernels bit by bit, for every type of weights: the log-probabilities are
compared with ``==``. On torch's kernels in float32 only the tokens are: its
matrix products round differently for different numbers of rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llama_hub.inference.config import PAGE
from tests.inference.conftest import Serving
from tests.support.hf_models import Answer, ask, prompt

Model = Callable[..., Path]
TOKENS = prompt(75, seed=5)
COUNT = 30
KINDS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "float16": {"dtype": "float16"},
    "int8": {"dtype": "bfloat16", "quantize": "int8"},
    "int4": {"dtype": "bfloat16", "quantize": "int4"},
}


@pytest.fixture(params=[*KINDS, "torch float32"])
def kind(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Options of every way to compute."""
    if request.param == "torch float32":
        return {"dtype": "float32", "kernels": "off"}
    request.getfixturevalue("kernels")
    return KINDS[request.param] | {"kernels": "on"}


async def _answer(engine: Any, name: str = "it") -> Answer:
    return await ask(engine, TOKENS, name, max_tokens=COUNT, logprobs=1)


def _same(answer: Answer, reference: Answer, kind: dict[str, Any]) -> None:
    assert answer.tokens == reference.tokens
    if kind["kernels"] == "on":
        assert answer.logprobs == reference.logprobs


@pytest.fixture
def reference(model: Model, serving: Serving, kind: dict[str, Any]) -> Answer:
    async def run() -> Answer:
        async with serving(model("grouped"), **kind) as engine:
            return await _answer(engine)

    answer = asyncio.run(run())
    assert len(answer.tokens) == COUNT
    return answer


@pytest.mark.parametrize("step_tokens", [1, 7, 16, 33])
def test_a_prompt_in_chunks(
    model: Model, serving: Serving, kind: dict[str, Any], reference: Answer, step_tokens: int
) -> None:
    async def run() -> Answer:
        async with serving(model("grouped"), step_tokens=step_tokens, **kind) as engine:
            return await _answer(engine)

    _same(asyncio.run(run()), reference, kind)


def test_company(model: Model, serving: Serving, kind: dict[str, Any], reference: Answer) -> None:
    """Eleven others of all lengths that begin before, at the same time and later."""

    async def run() -> Answer:
        async with serving(model("grouped"), step_tokens=50, max_batch=9, **kind) as engine:
            others = [
                asyncio.create_task(
                    ask(engine, prompt(3 + 13 * n, n), f"{n}", max_tokens=5 * n + 1, temperature=1)
                )
                for n in range(11)
            ]
            await asyncio.sleep(0)
            answer = await _answer(engine)
            await asyncio.gather(*others)
            return answer

    _same(asyncio.run(run()), reference, kind)


def test_the_prefix_cache(
    model: Model, serving: Serving, kind: dict[str, Any], reference: Answer
) -> None:
    async def run() -> tuple[Answer, Answer]:
        async with serving(model("grouped"), **kind) as engine:
            return await _answer(engine, "first"), await _answer(engine, "second")

    first, second = asyncio.run(run())
    assert (first.cached_tokens, second.cached_tokens) == (0, len(TOKENS) // PAGE * PAGE)
    _same(first, reference, kind)
    _same(second, reference, kind)


def test_preemption(
    model: Model, serving: Serving, kind: dict[str, Any], reference: Answer
) -> None:
    """A cache with room for one context: three sequences keep displacing each other."""

    async def run() -> tuple[list[Answer], int]:
        options = kind | {"kv_cache_bytes": 1, "prefix_caching": False}
        async with serving(model("grouped"), **options) as engine:
            answers = await asyncio.gather(*(_answer(engine, f"{n}") for n in range(3)))
            return answers, engine.stats().preemptions

    answers, preemptions = asyncio.run(run())
    for answer in answers:
        _same(answer, reference, kind)
    assert preemptions > 0


def test_threads(model: Model, serving: Serving, kernels: None) -> None:
    async def run(threads: int) -> Answer:
        options = {"dtype": "bfloat16", "kernels": "on", "threads": threads}
        async with serving(model("grouped"), **options) as engine:
            return await _answer(engine)

    assert asyncio.run(run(1)) == asyncio.run(run(3))


@pytest.mark.parametrize("kernels_on", [True, False])
def test_a_seed_decides_a_sampled_answer(
    model: Model, serving: Serving, kernels_on: bool, request: pytest.FixtureRequest
) -> None:
    if kernels_on:
        request.getfixturevalue("kernels")

    async def run() -> list[Answer]:
        options = {"dtype": "float32", "kernels": "on" if kernels_on else "off"}
        async with serving(model(), **options) as engine:
            alone = await ask(engine, TOKENS, seed=7, temperature=1.0, max_tokens=20)
            crowd = [
                ask(engine, TOKENS, name, seed=seed, temperature=1.0, max_tokens=20)
                for name, seed in (("b", 7), ("c", 7), ("d", 8))
            ]
            return [alone, *await asyncio.gather(*crowd)]

    alone, same, again, other = [answer.tokens for answer in asyncio.run(run())]
    assert alone == same == again != other


def test_half_precision_on_torch_kernels_is_stable_alone(model: Model, serving: Serving) -> None:
    async def run() -> list[Answer]:
        async with serving(model("plain", torch.bfloat16), kernels="off") as engine:
            return [await _answer(engine, f"{n}") for n in range(2)]

    first, second = asyncio.run(run())
    assert first.tokens == second.tokens
