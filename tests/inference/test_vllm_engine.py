"""The vLLM adapter's translation, against the surface in ``tests.support.fake_vllm``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from llama_hub.errors import MissingExtraError, UsageError
from llama_hub.inference.config import EngineOptions
from llama_hub.inference.engine import GenerationRequest, SamplingParams
from llama_hub.inference.vllm_engine import VllmEngine, sampling_arguments
from tests.support import fake_vllm
from tests.support.hf_models import ask

Model = Callable[..., Path]


@pytest.fixture
def engine(model: Model, monkeypatch: pytest.MonkeyPatch) -> VllmEngine:
    fake_vllm.install(monkeypatch)
    options = EngineOptions(
        context=128, max_batch=3, tensor_parallel=2, vllm={"pipeline_parallel_size": 2}
    )
    return VllmEngine(model(), options)


def run(engine: VllmEngine, work: Callable[[], Any]) -> Any:
    async def main() -> Any:
        await engine.start()
        try:
            return await work()
        finally:
            await engine.shutdown()

    return asyncio.run(main())


def test_options_reach_vllm(engine: VllmEngine, model: Model) -> None:
    async def work() -> Any:
        return engine._engine.args, engine.info

    args, info = run(engine, work)
    assert args.model == str(model())
    assert (args.max_model_len, args.max_num_seqs) == (128, 3)
    assert (args.tensor_parallel_size, args.pipeline_parallel_size) == (2, 2)
    assert (info.engine, info.device, info.dtype, info.context) == ("vllm", "cpu", "bfloat16", 128)


def test_an_answer_with_its_scores(engine: VllmEngine) -> None:
    async def work() -> Any:
        return await ask(engine, (1, 40), max_tokens=3, logprobs=2, prompt_logprobs=0)

    answer = run(engine, work)
    assert answer.tokens == (41, 42, 43)
    assert (answer.finish_reason, answer.cached_tokens) == ("length", 16)
    assert [(each.token, each.logprob) for each in answer.logprobs] == [
        (41, -0.5),
        (42, -0.5),
        (43, -0.5),
    ]
    assert answer.logprobs[0].top == ((41, -0.5), (7, -1.5))
    assert answer.prompt_logprobs[0] is None
    assert answer.prompt_logprobs[1].token == 40


def test_the_end_token_is_not_part_of_the_answer(engine: VllmEngine) -> None:
    async def work() -> Any:
        free = await ask(engine, (1, 284), max_tokens=9, ignore_eos=False)
        stopped = await ask(engine, (1, 5), max_tokens=9, stop_token_ids=frozenset({8}), logprobs=0)
        return free, stopped

    free, stopped = run(engine, work)
    assert (free.tokens, free.finish_reason) == ((285, 286, 287, 0, 1), "stop")
    assert (stopped.tokens, stopped.finish_reason) == ((6, 7), "stop")
    assert len(stopped.logprobs) == 2


def test_sampling_parameters_are_translated(engine: VllmEngine) -> None:
    async def work() -> Any:
        await ask(
            engine, (1,), temperature=0.5, top_k=3, seed=11, logit_bias={4: 2.0}, grammar="{}"
        )
        return engine._engine.seen[-1]

    seen = run(engine, work)
    assert (seen.temperature, seen.top_k, seen.seed, seen.logit_bias) == (0.5, 3, 11, {4: 2.0})
    assert seen.structured_outputs.json == "{}"
    assert not seen.detokenize


def test_vllm_is_told_every_end_token_and_what_may_be_sampled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_vllm.install(monkeypatch)
    ends, asked = frozenset({2, 9}), SamplingParams(stop_token_ids=frozenset({5}))
    told = fake_vllm.SamplingParams(**sampling_arguments(asked, ends, [0, 1, 2]))
    assert told.stop_token_ids == [2, 5, 9]
    assert told.allowed_token_ids == [0, 1, 2]
    on = sampling_arguments(SamplingParams(ignore_eos=True), ends)
    assert on["stop_token_ids"] == []
    assert "allowed_token_ids" not in on


def test_a_reader_that_leaves_aborts(engine: VllmEngine) -> None:
    async def work() -> Any:
        params = SamplingParams(max_tokens=100, temperature=0, ignore_eos=True)
        stream = engine.generate(GenerationRequest("gone", (1, 30), params))
        async with aclosing(stream):
            async for _ in stream:
                break
        await ask(engine, (1,), "whole")
        return engine._engine.aborted, engine.stats()

    aborted, stats = run(engine, work)
    assert aborted == ["gone"]
    assert (stats.running, stats.prompt_tokens, stats.generated_tokens) == (0, 3, 9)


def test_the_same_requests_are_refused_as_by_our_engine(engine: VllmEngine) -> None:
    async def work() -> None:
        with pytest.raises(UsageError, match="context holds 128"):
            await ask(engine, (1,) * 100, max_tokens=100)
        with pytest.raises(UsageError, match="vocabulary"):
            await ask(engine, (999,))

    run(engine, work)


def test_health(engine: VllmEngine) -> None:
    assert "not been started" in str(engine.health())

    async def work() -> Any:
        well = engine.health()
        engine._engine.errored, engine._engine.dead_error = True, RuntimeError("gone")
        return well, engine.health()

    well, ill = run(engine, work)
    assert well is None
    assert "gone" in ill


def test_quantising_while_loading_is_refused(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.install(monkeypatch)
    with pytest.raises(UsageError, match="does not quantise") as caught:
        asyncio.run(VllmEngine(model(), EngineOptions(quantize="int4")).start())
    assert "convert" in caught.value.hint


def test_without_vllm_the_extra_is_named(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtraError) as caught:
        asyncio.run(VllmEngine(model()).start())
    assert "llama2-hub[vllm]" in caught.value.hint
