"""Tensor parallelism: real processes that meet over gloo compute what one process computes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llama_hub.errors import UsageError
from llama_hub.hub.architecture import Architecture
from llama_hub.inference.partition import Partition
from tests.inference.conftest import Serving
from tests.support.hf_models import Answer, ask, embed, judged_embedding, judged_greedy, prompt
from tests.support.tiers import family

Model = Callable[..., Path]
PROMPTS = [prompt(n, n) for n in (1, 17, 40)]


def answers(serving: Serving, folder: Path, **options: Any) -> list[Answer]:
    async def run() -> list[Answer]:
        async with serving(folder, step_tokens=24, **options) as engine:
            asked = (
                ask(engine, tokens, f"{n}", max_tokens=12, logprobs=1)
                for n, tokens in enumerate(PROMPTS)
            )
            return await asyncio.gather(*asked)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("shape", "processes", "options"),
    family(
        [
            ("plain", 2, {"kernels": "on", "dtype": "float32"}),
            ("grouped", 4, {"kernels": "on", "dtype": "float32"}),  # more processes than kv heads
            (
                "odd",
                3,
                {"kernels": "off", "dtype": "float32"},
            ),  # nothing divides evenly but the heads
        ],
        everyday=1,
    ),
)
def test_tokens_equal_one_process_and_the_judge(
    model: Model,
    serving: Serving,
    kernels: None,
    shape: str,
    processes: int,
    options: dict[str, Any],
) -> None:
    several = answers(serving, model(shape), tensor_parallel=processes, **options)
    alone = answers(serving, model(shape), **options)
    expected = [judged_greedy(model(shape), tokens, 12) for tokens in PROMPTS]
    assert [list(each.tokens) for each in several] == expected
    assert [each.tokens for each in several] == [each.tokens for each in alone]
    for ours, theirs in zip(several, alone, strict=True):
        for a, b in zip(ours.logprobs, theirs.logprobs, strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=1e-4)


def test_quantised_weights_are_shared_too(model: Model, serving: Serving, kernels: None) -> None:
    options = {"kernels": "on", "quantize": "int8"}
    folder = model("calm", torch.bfloat16)
    several = answers(serving, folder, tensor_parallel=2, **options)
    alone = answers(serving, folder, **options)
    for ours, theirs in zip(several, alone, strict=True):
        assert ours.logprobs[0].logprob == pytest.approx(theirs.logprobs[0].logprob, abs=0.05)


def test_the_other_processes_inherit_no_secret_and_end_when_one_of_them_dies(
    model: Model, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")

    async def run() -> tuple[list[str], Any]:
        async with serving(model("odd"), tensor_parallel=3) as engine:
            await ask(engine, prompt(5))
            followers = engine._loaded.executor._followers  # type: ignore[union-attr, attr-defined]
            read = [Path(f"/proc/{follower.pid}/environ").read_text() for follower in followers]
            followers[0].kill()
            followers[0].wait()
            for _ in range(2):  # the second finds the engine's thread ended
                with pytest.raises(RuntimeError):
                    await ask(engine, prompt(5))
            assert engine.health() is not None
            return read, followers

    environments, followers = asyncio.run(run())
    assert len(environments) == 2
    for environment in environments:
        assert "canary" not in environment
        assert "PATH=" in environment
    for follower in followers:
        assert follower.returncode is not None  # none is left behind
        assert follower.stdin.closed
        assert follower.stdout.closed


LLAMA_70B = Architecture(8192, 80, 64, 8, 28672, 32000)
UNEVEN = Architecture(72, 2, 12, 4, 100, 50)


@pytest.mark.parametrize(
    ("model_size", "size"), [(LLAMA_70B, n) for n in (1, 2, 8, 16, 64)] + [(UNEVEN, 3), (UNEVEN, 6)]
)
def test_the_parts_make_up_the_whole(model_size: Architecture, size: int) -> None:
    parts = [Partition(model_size, rank, size, grain=16) for rank in range(size)]
    assert [q for part in parts for q in part.queries] == list(range(model_size.n_heads))
    assert [row for part in parts for row in part.ffn()] == list(range(model_size.ffn_dim))
    assert [row for part in parts for row in part.vocabulary()] == list(
        range(model_size.vocab_size)
    )
    group = model_size.n_heads // model_size.n_kv_heads
    for part in parts:
        share = len(part.queries) // len(part.keys)
        read = [part.keys[index // share] for index in range(len(part.queries))]
        assert read == [query // group for query in part.queries]


def test_a_number_that_does_not_divide_the_heads_is_refused_with_those_that_do() -> None:
    with pytest.raises(UsageError, match="64 attention heads") as caught:
        Partition(LLAMA_70B, 0, 3)
    assert "1, 2, 4, 8, 16, 32, 64" in caught.value.hint


def test_embeddings_equal_the_judge(model: Model, serving: Serving, kernels: None) -> None:
    async def run() -> tuple[torch.Tensor, Answer]:
        options = {"tensor_parallel": 2, "kernels": "on", "dtype": "float32", "step_tokens": 24}
        async with serving(model(), **options) as engine:
            return await asyncio.gather(
                embed(engine, PROMPTS[2]), ask(engine, PROMPTS[1], max_tokens=12)
            )

    vector, answer = asyncio.run(run())
    assert (vector - judged_embedding(model(), PROMPTS[2])).abs().max() <= 1e-5
    assert list(answer.tokens) == judged_greedy(model(), PROMPTS[1], 12)
