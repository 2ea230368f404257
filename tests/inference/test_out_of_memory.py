"""A step for which memory runs out costs the request that does not fit, and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llama_hub.errors import DeviceMemoryError
from llama_hub.inference import worker
from llama_hub.inference.batch import Piece
from llama_hub.inference.executor import LocalExecutor
from llama_hub.inference.out_of_memory import is_out_of_memory
from llama_hub.inference.service.problems import as_problem
from tests.inference.conftest import Serving
from tests.support.hf_models import ask, judged_greedy, prompt

Model = Callable[..., Path]


class SmallDevice:
    """A device that holds steps of at most ``room`` rows; larger ones run out of memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        self.failures = 0
        run = LocalExecutor.run

        def limited(executor: LocalExecutor, pieces: Sequence[Piece]) -> Tensor:
            if sum(len(piece.tokens) for piece in pieces) > self.room:
                self.failures += 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return run(executor, pieces)

        monkeypatch.setattr(LocalExecutor, "run", limited)


def test_a_long_prompt_fails_alone(
    model: Model, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = SmallDevice(monkeypatch, room=30)
    short = [prompt(n, n) for n in (3, 9, 20)]

    async def run() -> tuple[list[Any], Any]:
        async with serving(model(), dtype="float32", kernels="off") as engine:
            asked = [ask(engine, each, f"{n}", max_tokens=6) for n, each in enumerate(short)]
            long = ask(engine, prompt(90), "long", max_tokens=6)
            answers = await asyncio.gather(*asked, long, return_exceptions=True)
            assert engine.health() is None
            later = await ask(engine, prompt(5), "later", max_tokens=6)
            assert engine.stats().kv_usage == 0
            return answers, later

    answers, later = asyncio.run(run())
    expected = [judged_greedy(model(), each, 6) for each in [*short, prompt(5)]]
    assert [list(each.tokens) for each in [*answers[:3], later]] == expected
    assert isinstance(answers[3], DeviceMemoryError)
    assert device.failures >= 2  # the whole step, then what of it does not fit


@pytest.mark.parametrize("where", ["choose", "score_prompt"])
def test_memory_for_choosing_and_scoring(
    model: Model, serving: Serving, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    real, left = getattr(worker, where), [1]

    def failing(*arguments: Any) -> Any:
        if left:
            left.pop()
            raise MemoryError
        return real(*arguments)

    monkeypatch.setattr(worker, where, failing)

    async def run() -> None:
        async with serving(model(), kernels="off") as engine:
            with pytest.raises(DeviceMemoryError):
                await ask(engine, prompt(9), "a", prompt_logprobs=1)
            answer = await ask(engine, prompt(9), "b", prompt_logprobs=1)
            assert len(answer.tokens) == 8

    asyncio.run(run())


def test_another_failure_still_ends_the_engine(
    model: Model, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(executor: LocalExecutor, pieces: Sequence[Piece]) -> Tensor:
        raise RuntimeError("device-side assert triggered")

    async def run() -> None:
        async with serving(model(), kernels="off") as engine:
            monkeypatch.setattr(LocalExecutor, "run", broken)
            with pytest.raises(RuntimeError, match="assert"):
                await ask(engine, prompt(9))
            assert engine.health() is not None

    asyncio.run(run())


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("x"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shape '[2]' is invalid"), False),
        (ValueError("out of memory"), False),
    ],
)  # fmt: skip
def test_what_counts_as_out_of_memory(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_it_is_a_503_with_retry_after() -> None:
    problem = as_problem(DeviceMemoryError("the device has too little memory"))
    assert problem.status == 503
    assert "Retry-After" in problem.headers
