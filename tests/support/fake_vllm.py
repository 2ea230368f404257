"""The part of vLLM's surface that ``vllm_engine`` uses, over a toy model: next token = last + 1.

Shaped after the sources of vLLM 0.32 (``v1/engine/async_llm.py``, ``sampling_params.py``,
``outputs.py``): argument names, deltas, log-probability tables, the end token inside
``token_ids``. It cannot prove that vLLM computes right, that its arguments keep their names, or
anything about speed; ``bench/inference.py`` runs the real one where it is installed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


@dataclass
class AsyncEngineArgs:
    model: str
    dtype: str = "auto"
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    kv_cache_memory_bytes: int | None = None
    gpu_memory_utilization: float = 0.92
    enable_prefix_caching: bool | None = None
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1


class RequestOutputKind:
    CUMULATIVE = 0
    DELTA = 1


@dataclass
class StructuredOutputsParams:
    json: str


@dataclass
class SamplingParams:
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: dict[int, float] | None
    seed: int | None
    stop_token_ids: list[int]
    ignore_eos: bool
    min_tokens: int
    logprobs: int | None
    prompt_logprobs: int | None
    detokenize: bool
    output_kind: int
    structured_outputs: StructuredOutputsParams | None = None
    allowed_token_ids: list[int] | None = None


@dataclass
class Logprob:
    logprob: float


@dataclass
class AsyncLLM:
    args: AsyncEngineArgs
    errored: bool = False
    dead_error: Exception | None = None
    aborted: list[str] = field(default_factory=list)
    seen: list[SamplingParams] = field(default_factory=list)
    stopped: bool = False

    @classmethod
    def from_engine_args(cls, args: AsyncEngineArgs) -> AsyncLLM:
        return cls(args)

    @property
    def vllm_config(self) -> Any:
        model = SimpleNamespace(
            dtype="torch.bfloat16", max_model_len=self.args.max_model_len or 256
        )
        return SimpleNamespace(model_config=model, device_config=SimpleNamespace(device_type="cpu"))

    async def generate(
        self, prompt: dict[str, list[int]], params: SamplingParams, request_id: str
    ) -> AsyncGenerator[Any, None]:
        assert params.output_kind == RequestOutputKind.DELTA
        self.seen.append(params)
        ids = prompt["prompt_token_ids"]
        stops = {*params.stop_token_ids, *(() if params.ignore_eos else (2,))}
        token = ids[-1]
        for count in range(1, params.max_tokens + 1):
            await asyncio.sleep(0)
            token = (token + 1) % 288
            stopped = token in stops
            last = stopped or count == params.max_tokens
            yield self._output(
                ids, params, token, "stop" if stopped else "length" if last else None
            )
            if last:
                return

    def _output(
        self, ids: list[int], params: SamplingParams, token: int, reason: str | None
    ) -> Any:
        table = {token: Logprob(-0.5), 7: Logprob(-1.5), 9: Logprob(-2.5)}
        scores = None if params.logprobs is None else [table]
        answer = SimpleNamespace(token_ids=[token], logprobs=scores, finish_reason=reason)
        prompt_scores = None
        if params.prompt_logprobs is not None:
            prompt_scores = [None, *({each: Logprob(-1.0)} for each in ids[1:])]
        return SimpleNamespace(
            outputs=[answer], prompt_logprobs=prompt_scores, num_cached_tokens=16
        )

    async def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)

    def shutdown(self) -> None:
        self.stopped = True


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``import vllm`` find this."""
    root = ModuleType("vllm")
    root.AsyncEngineArgs = AsyncEngineArgs  # type: ignore[attr-defined]
    sampling = ModuleType("vllm.sampling_params")
    for name in ("RequestOutputKind", "SamplingParams", "StructuredOutputsParams"):
        setattr(sampling, name, globals()[name])
    engine = ModuleType("vllm.v1.engine.async_llm")
    engine.AsyncLLM = AsyncLLM  # type: ignore[attr-defined]
    modules = {"vllm": root, "vllm.sampling_params": sampling, "vllm.v1.engine.async_llm": engine}
    for name in ("vllm.v1", "vllm.v1.engine"):
        modules[name] = ModuleType(name)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
