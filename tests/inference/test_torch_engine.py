"""The engine's contract: limits, aborts, faults, counters; what a service relies on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import torch

from llama_hub.errors import IntegrityError, NotEnoughError, NotFoundError, UsageError
from llama_hub.inference.config import EngineOptions
from llama_hub.inference.engine import GenerationRequest, SamplingParams
from llama_hub.inference.torch_engine import TorchEngine
from tests.inference.conftest import Serving
from tests.support.hf_models import CONTEXT, VOCABULARY, ask, prompt, save

Model = Callable[..., Path]


async def until(condition: Callable[[], bool]) -> None:
    """Give the loop and the engine's thread time until ``condition`` holds."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def test_what_runs(model: Model, serving: Serving) -> None:
    async def run() -> Any:
        async with serving(model("plain", torch.bfloat16), max_batch=3, context=64) as engine:
            return engine.info

    info = asyncio.run(run())
    assert (info.engine, info.device, info.dtype) == ("torch", "cpu", "bfloat16")
    assert (info.context, info.vocab_size, info.max_batch) == (64, VOCABULARY, 3)


def test_tokens_are_streamed_one_by_one(model: Model, serving: Serving) -> None:
    async def run() -> list[int]:
        async with serving(model()) as engine:
            params = SamplingParams(max_tokens=5, temperature=0, ignore_eos=True)
            stream = engine.generate(GenerationRequest("a", prompt(4), params))
            return [len(delta.tokens) async for delta in stream]

    assert asyncio.run(run()) == [1] * 5


def test_ends_of_an_answer(model: Model, serving: Serving) -> None:
    async def run() -> None:
        async with serving(model()) as engine:
            free = await ask(engine, prompt(4), max_tokens=12)
            assert free.finish_reason == "length"
            end = free.tokens[5]
            stopped = await ask(engine, prompt(4), stop_token_ids=frozenset({end}), max_tokens=12)
            before = free.tokens[: free.tokens.index(end)]
            assert (stopped.tokens, stopped.finish_reason) == (before, "stop")
            late = await ask(
                engine, prompt(4), stop_token_ids=frozenset({end}), max_tokens=12, min_tokens=9
            )
            assert end not in late.tokens
            assert len(late.tokens) >= 9
            nothing = await ask(engine, prompt(4), max_tokens=0, prompt_logprobs=0)
            assert (nothing.tokens, nothing.finish_reason) == ((), "length")
            assert nothing.prompt_logprobs is not None
            assert len(nothing.prompt_logprobs) == 4

    asyncio.run(run())


@pytest.mark.parametrize(
    ("tokens", "sampling", "problem"),
    [
        ((), {}, "prompt is empty"),
        ((1, VOCABULARY), {}, "not in the vocabulary"),
        ((1, -1), {}, "not in the vocabulary"),
        (prompt(CONTEXT), {"max_tokens": 1}, f"together {CONTEXT + 1}, and the context holds"),
        ((1,), {"max_tokens": CONTEXT}, "the prompt has 1 tokens"),
        ((1,), {"top_p": 2.0}, "top_p"),
    ],
)
def test_what_cannot_work_is_refused_by_the_call(
    model: Model, serving: Serving, tokens: tuple[int, ...], sampling: dict[str, Any], problem: str
) -> None:
    async def run() -> None:
        async with serving(model()) as engine:
            with pytest.raises(UsageError, match=problem):
                engine.generate(GenerationRequest("a", tokens, SamplingParams(**sampling)))

    asyncio.run(run())


def test_a_reader_that_leaves_frees_its_place(model: Model, serving: Serving) -> None:
    async def run() -> None:
        async with serving(model(), max_batch=2) as engine:
            params = SamplingParams(max_tokens=200, temperature=0, ignore_eos=True)
            for name in ("a", "b", "c"):
                stream = engine.generate(GenerationRequest(name, prompt(9), params))
                async with aclosing(stream):
                    async for _ in stream:
                        break
            await until(lambda: engine.stats().running + engine.stats().waiting == 0)
            assert engine.stats().kv_usage == 0
            assert len((await ask(engine, prompt(9))).tokens) == 8

    asyncio.run(run())


def test_abort_ends_the_readers_stream(model: Model, serving: Serving) -> None:
    async def run() -> None:
        async with serving(model()) as engine:
            asked = asyncio.create_task(ask(engine, prompt(9), "it", max_tokens=240))
            await until(lambda: engine.stats().generated_tokens > 2)
            await engine.abort("it")
            await engine.abort("unknown")
            assert (await asked).finish_reason == "abort"
            await until(lambda: engine.stats().running == 0)

    asyncio.run(run())


def test_a_full_queue_refuses(model: Model, serving: Serving) -> None:
    async def run() -> None:
        async with serving(model(), max_batch=1, max_queue=2) as engine:
            busy = [
                asyncio.create_task(ask(engine, prompt(5), f"{n}", max_tokens=100))
                for n in range(3)
            ]
            await until(lambda: engine.stats().waiting == 2)
            with pytest.raises(NotEnoughError, match="queue is full"):
                await ask(engine, prompt(5), "late")
            with pytest.raises(UsageError, match="running already"):
                await ask(engine, prompt(5), "1")
            assert {len((await each).tokens) for each in busy} == {100}

    asyncio.run(run())


def test_counters(model: Model, serving: Serving) -> None:
    async def run() -> None:
        async with serving(model()) as engine:
            await ask(engine, prompt(40), "a", max_tokens=3)
            await ask(engine, prompt(40), "b", max_tokens=3)
            stats = engine.stats()
            assert (stats.prompt_tokens, stats.generated_tokens) == (80, 6)
            assert (stats.prefix_queries, stats.prefix_hits) == (80, 32)
            assert stats.memory_bytes > sum(f.stat().st_size for f in model().glob("*.safetensors"))

    asyncio.run(run())


def test_a_failed_step_is_told_and_makes_the_engine_unwell(
    model: Model, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with serving(model()) as engine:
            assert engine.health() is None

            def fail(*_: object) -> None:
                raise RuntimeError("the device fell off")

            monkeypatch.setattr(engine._loaded.executor, "run", fail)  # type: ignore[union-attr]
            with pytest.raises(RuntimeError, match="fell off"):
                await ask(engine, prompt(5))
            await until(lambda: engine.health() is not None)
            assert "fell off" in str(engine.health())
            with pytest.raises(RuntimeError, match="fell off"):
                await ask(engine, prompt(5), "later")

    asyncio.run(run())


def test_shutdown_tells_readers_and_can_be_repeated(model: Model) -> None:
    async def run() -> None:
        engine = TorchEngine(model(), EngineOptions(threads=1))
        assert engine.health() is not None
        await engine.shutdown()
        await engine.start()
        asked = asyncio.create_task(ask(engine, prompt(9), max_tokens=240))
        await until(lambda: engine.stats().running == 1)
        await engine.shutdown()
        await engine.shutdown()
        assert (await asked).finish_reason == "abort"
        assert "shut down" in str(engine.health())

    asyncio.run(run())


def edited(tmp_path: Path, **changes: Any) -> Path:
    """A model whose ``config.json`` was changed."""
    folder = save(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_hidden_layers": 4}, r"no tensor model\.layers\.3"),
        ({"intermediate_size": 352}, "config.json implies"),
        ({"intermediate_size": 288}, "config.json implies"),
        ({"num_key_value_heads": 4}, "config.json implies"),
        ({"vocab_size": 290}, "config.json implies"),
        ({"model_type": "gpt2"}, "model_type: 'gpt2' is another family"),
        ({"quantization_config": {"quant_method": "gptq"}}, "cannot read"),
    ],
)
def test_a_folder_that_contradicts_itself(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    engine = TorchEngine(edited(tmp_path, **changes), EngineOptions(threads=1))
    with pytest.raises(IntegrityError, match=problem):
        asyncio.run(engine.start())


def test_a_folder_without_weights_or_with_damaged_ones(tmp_path: Path) -> None:
    engine = TorchEngine(tmp_path / "nothing", EngineOptions(threads=1))
    with pytest.raises(NotFoundError, match=r"config\.json"):
        asyncio.run(engine.start())
    folder = save(tmp_path / "model")
    (weights,) = folder.glob("*.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IntegrityError, match="cannot be read"):
        asyncio.run(TorchEngine(folder, EngineOptions(threads=1)).start())
    weights.unlink()
    with pytest.raises(NotFoundError, match="no \\*.safetensors"):
        asyncio.run(TorchEngine(folder, EngineOptions(threads=1)).start())


@pytest.mark.parametrize(
    "options",
    [
        {"device": "tpu9"},
        {"device": "meta"},
        {"dtype": "float8"},
        {"quantize": "int3"},
        {"max_batch": 0},
        {"context": 0},
        {"context": CONTEXT + 1},
        {"kernels": "maybe"},
        {"tensor_parallel": 3},
    ],
)
def test_options_that_make_no_sense(model: Model, options: dict[str, Any]) -> None:
    async def run() -> None:
        await TorchEngine(model(), EngineOptions(**options)).start()

    with pytest.raises(UsageError):
        asyncio.run(run())
