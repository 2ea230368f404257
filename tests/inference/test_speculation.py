"""Guessed tokens change nothing but the number of steps.

With our kernels bit by bit: the log-probabilities are compared with ``==``, also of sampled
answers, for each type of weights. The draws use the sequence's own random numbers in the same
order, so exactness in distribution needs no statistics.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_hub.errors import UsageError
from llama_hub.inference.config import EngineOptions
from llama_hub.inference.engine import EngineInfo, EngineStats
from llama_hub.inference.service.metrics import Metrics
from llama_hub.inference.speculation import NGRAM, PromptLookup, Speculation
from tests.inference import test_scheduling
from tests.inference.conftest import Serving
from tests.inference.test_invariance import KINDS
from tests.inference.test_scheduling import CONTEXT, VOCABULARY, Bench
from tests.support.hf_models import Answer, ask, prompt
from tests.support.tiers import examples, family

Model = Callable[..., Path]
REPEATING = (*prompt(40, seed=3), *prompt(40, seed=3)[1:], *prompt(20, seed=3)[1:])
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"logprobs": 2},
    "sampled": {"temperature": 0.7, "seed": 11, "logprobs": 2},
    "penalised": {"repetition_penalty": 1.1, "frequency_penalty": 0.3, "logprobs": 0},
    "biased": {"logit_bias": {7: 50.0}, "logprobs": 0},  # says one thing again and again
    "stopped": {"ignore_eos": False, "min_tokens": 20, "stop_token_ids": frozenset(range(3, 90))},
}


@pytest.mark.parametrize(
    "kind", family(["int4", "bfloat16", "int8", "float32", "float16"], everyday=3)
)
def test_answers_are_the_same_bit_by_bit(
    model: Model, serving: Serving, kernels: None, kind: str
) -> None:
    async def run(speculate: int | None) -> tuple[list[Answer], int, int]:
        options = KINDS[kind] | {"kernels": "on", "speculate": speculate}
        async with serving(model("grouped"), **options) as engine:
            found = [
                await ask(engine, REPEATING, name, **{"max_tokens": 70, **how})
                for name, how in WAYS.items()
            ]
            together = await asyncio.gather(
                *(ask(engine, REPEATING[n:], f"{n}", max_tokens=40, logprobs=0) for n in range(3))
            )
            stats = engine.stats()
            return [*found, *together], stats.draft_tokens, sum(stats.accepted_tokens)

    plain, none, _ = asyncio.run(run(0))
    guessed, proposed, accepted = asyncio.run(run(None))
    assert none == 0
    assert guessed == plain
    assert proposed >= accepted > 30


def test_torch_s_kernels_guess_only_when_told(model: Model, serving: Serving) -> None:
    async def run(speculate: int | None) -> tuple[Answer, int]:
        options = {"dtype": "float32", "kernels": "off", "speculate": speculate}
        async with serving(model("grouped"), **options) as engine:
            answer = await ask(engine, REPEATING, max_tokens=60, logit_bias={7: 50.0})
            return answer, engine.stats().draft_tokens

    plain, none = asyncio.run(run(None))
    guessed, some = asyncio.run(run(5))
    assert none == 0 < some
    assert guessed.tokens == plain.tokens


def periodic(context: Any) -> int:
    """A stand-in whose answers are cycles."""
    return 3 + (context[-1] * 5 + 1) % (VOCABULARY - 3)


@settings(max_examples=examples(20, 300), deadline=None)
@given(
    prompts=st.lists(st.lists(st.integers(3, 8), min_size=1, max_size=40), min_size=1, max_size=4),
    pages=st.integers(8, 12),
    most=st.integers(1, 9),
    cyclic=st.booleans(),
)
def test_pages_and_neighbours_never_show(
    prompts: list[list[int]], pages: int, most: int, cyclic: bool
) -> None:
    """Drafts that are right, wrong, cut off by the context, by the end and by want of pages."""
    with pytest.MonkeyPatch.context() as patch:
        if cyclic:
            patch.setattr(test_scheduling, "next_token", periodic)
        bench = Bench(pages=pages)
        bench.scheduler.speculation = Speculation(most, 12, CONTEXT)
        for index, tokens in enumerate(prompts):
            bench.submit(f"{index}", tokens, CONTEXT - len(tokens) - index)
        bench.finish()
        for index, tokens in enumerate(prompts):
            got = [
                token
                for name, delta in bench.events
                if name == f"{index}"
                for token in delta.tokens  # type: ignore[union-attr]
            ]
            assert got == test_scheduling.expected(tokens, CONTEXT - len(tokens) - index)
    assert bench.pool.usage == 0


def test_right_guesses_save_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_scheduling, "next_token", periodic)
    steps = []
    for most in (0, 7):
        bench = Bench()
        bench.scheduler.speculation = Speculation(most, 8, CONTEXT)
        bench.submit("a", [3], 100)
        count = 0
        while bench.scheduler.all() or not count:
            bench.step()
            count += 1
        steps.append(count)
    assert steps[0] == 100
    assert steps[1] < 60


def test_what_stood_after_the_same_tokens_is_guessed() -> None:
    lookup = PromptLookup()
    assert lookup.propose([5, 6, 7, 8, 9, 1, 5, 6, 7], 2) == (8, 9)
    assert lookup.propose([5, 6, 7, 8, 9, 1, 5, 6, 7, 8, 9, 1], 9) == (5, 6, 7)
    assert PromptLookup().propose([1, 2, 3, 4, 5], 9) == ()
    assert PromptLookup().propose([4] * (NGRAM + 1), 9) == (
        4,
        4,
        4,
    )  # past the end of what is known


def test_wrong_guesses_become_rare_and_right_ones_long() -> None:
    tokens = [7] * 50
    lookup = PromptLookup()
    lookup.judge(3, 3, 50)
    assert len(lookup.propose(tokens, 9)) == 7
    asked = []
    for length in range(50, 400):
        if lookup.propose([7] * length, 9):
            asked.append(length)
            lookup.judge(3, 0, length)
    assert len(asked) < 12
    assert max(b - a for a, b in zip(asked, asked[1:], strict=False)) <= 64


def test_the_metrics_have_vllm_s_names() -> None:
    stats = EngineStats(0, 0, 0.0, 0, 0, 0, 0, 0, 0)
    info = EngineInfo("torch", "cpu", "float32", None, 128, 40, 4)
    guessed = replace(stats, drafts=3, draft_tokens=9, accepted_tokens=(3, 2))
    page = Metrics().exposition(info, guessed, "m", "")
    assert 'vllm:spec_decode_num_drafts_total{model_name="m"} 3\n' in page
    assert 'vllm:spec_decode_num_draft_tokens_total{model_name="m"} 9\n' in page
    assert 'vllm:spec_decode_num_accepted_tokens_total{model_name="m"} 5\n' in page
    place = 'vllm:spec_decode_num_accepted_tokens_per_pos_total{model_name="m",position="1"} 2\n'
    assert place in page
    assert "spec_decode" not in Metrics().exposition(info, stats, "m", "")


def test_a_senseless_number_is_refused() -> None:
    with pytest.raises(UsageError, match="speculate"):
        EngineOptions(speculate=65)
