"""Row i of a step's logits belongs to the i-th sequence, on every way to compute a step.

Whatever the sequences are: prompts whole or in chunks, with their beginning in the cache, of one
token, decodes, and answers that are computed again with their prompt. A row that went to the
wrong sequence would show one user another user's answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from llama_hub.inference import parallel
from llama_hub.inference.batch import Piece
from llama_hub.inference.config import PAGE, EngineOptions
from llama_hub.inference.executor import Executor
from llama_hub.inference.loading import load_shard, make_plan
from llama_hub.inference.vllm_engine import VllmEngine
from tests.inference.conftest import Serving
from tests.support import fake_vllm
from tests.support.hf_models import ask, judged_greedy, judged_logits, prompt
from tests.support.recording import replay_on_cpu
from tests.support.tiers import examples

Model = Callable[..., Path]
BATCH = 6
LONGEST = 3 * PAGE  # tokens of a sequence
OPTIONS: dict[str, Any] = {
    "device": "cpu",
    "dtype": "float32",
    "max_batch": BATCH,
    "threads": 1,
    "context": LONGEST,
}
WAYS = {
    "plain": {"kernels": "off"},
    "native": {"kernels": "on"},
    "replayed": {"kernels": "off"},
    "parallel": {"kernels": "off", "tensor_parallel": 2},
    "parallel native": {"kernels": "on", "tensor_parallel": 2},
}


@st.composite
def sequences(draw: st.DrawFn) -> tuple[int, int, int, int, int, int]:
    """Seed, prompt length, length, tokens in the cache, tokens of the step, rows wanted."""
    given_tokens = draw(st.integers(1, LONGEST - 4))
    length = given_tokens + draw(st.integers(0, 3))
    cached = draw(st.one_of(st.just(length - 1), st.integers(0, length - 1)))
    count = draw(st.one_of(st.just(length - cached), st.integers(1, length - cached)))
    wanted = draw(st.one_of(st.just(int(count == length - cached)), st.integers(0, count)))
    return draw(st.integers(0, 3)), given_tokens, length, cached, count, wanted


@pytest.fixture(scope="module", params=WAYS)
def executor(
    request: pytest.FixtureRequest, model: Model, kernels_home: Path
) -> Iterator[tuple[Executor, Path]]:
    way: dict[str, Any] = WAYS[request.param]
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("LLAMA_HUB_HOME", str(kernels_home))
        forwards = replay_on_cpu(patch) if request.param == "replayed" else []
        options = EngineOptions(**OPTIONS, **way)
        plan = make_plan(model("grouped"), options)
        made: Executor
        if plan.processes > 1:
            made, _ = parallel.start(plan, options)
        else:
            made = load_shard(plan).executor
        stack.callback(made.close)
        yield made, model("grouped")
        for forward in forwards[-1:]:
            assert {mode for size, mode in forward.modes.items() if size != "mixed"} == {
                "graph, torch"
            }


@cache
def expected(folder: Path, tokens: tuple[int, ...]) -> Tensor:
    return judged_logits(folder, tokens)


def tokens_of(seed: int, length: int) -> tuple[int, ...]:
    return (1 + seed, *prompt(LONGEST + 1, seed)[1:])[:length]


@settings(max_examples=examples(15, 300), deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn=st.lists(sequences(), min_size=1, max_size=BATCH), shift=st.integers(0, 2))
def test_row_i_is_sequence_i(
    executor: tuple[Executor, Path], drawn: list[tuple[int, int, int, int, int, int]], shift: int
) -> None:
    engine, folder = executor
    pieces, rows = [], []
    per_sequence = -(-LONGEST // PAGE)
    for index, (seed, given_tokens, length, cached, count, wanted) in enumerate(drawn):
        tokens = tokens_of(seed, length)
        pages = [index * per_sequence + (n + shift) % per_sequence for n in range(per_sequence)]
        if cached:
            early = min(cached, given_tokens)
            engine.run([Piece(tokens[:cached], 0, tuple(pages), 0, early)])
        end = cached + count
        asked = max(0, min(count, given_tokens - cached))
        pieces.append(Piece(tokens[cached:end], cached, tuple(pages), wanted, asked))
        rows.append(expected(folder, tokens)[end - wanted : end])
    found = engine.run(pieces)
    right = torch.cat(rows)
    assert found.shape == right.shape
    torch.testing.assert_close(found, right, atol=2e-3, rtol=0)


PROMPTS = [prompt(n, n) for n in (1, 40, 2 * PAGE + 1, 1, 17, 33, 1, 40)]


def test_every_user_gets_his_own_answer(
    model: Model, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real scheduler and worker over replayed steps: late prompts join while others decode."""
    forwards = replay_on_cpu(monkeypatch)

    async def run() -> list[Any]:
        options = OPTIONS | {"context": 128, "step_tokens": 24, "kernels": "off"}
        async with serving(model("grouped"), **options) as engine:
            running = []
            for number, tokens in enumerate(PROMPTS * 2):  # the second time they are cached
                running.append(asyncio.create_task(ask(engine, tokens, f"{number}", max_tokens=9)))
                await asyncio.sleep(0.004)
            return await asyncio.gather(*running)

    answers = asyncio.run(run())
    right = [tuple(judged_greedy(model("grouped"), tokens, 9)) for tokens in PROMPTS]
    assert [answer.tokens for answer in answers] == right * 2
    assert forwards[-1].modes == {
        **{f"decode {size}": "graph, torch" for size in (1, 2, 4, BATCH)},
        **{f"prompt {size}": "graph, torch" for size in (16, 64, 256)},
        "mixed": "torch",
    }


def test_vllm_answers_by_request(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM names the request of each output; the adapter keeps answers apart by it."""
    fake_vllm.install(monkeypatch)

    async def run() -> list[Any]:
        engine = VllmEngine(model(), EngineOptions(context=128, max_batch=BATCH))
        await engine.start()
        asked = (ask(engine, (1, 10 * n), f"{n}", max_tokens=n) for n in range(1, 9))
        answers = await asyncio.gather(*asked)
        await engine.shutdown()
        return answers

    for n, answer in enumerate(asyncio.run(run()), 1):
        assert answer.tokens == tuple(range(10 * n + 1, 11 * n + 1))
