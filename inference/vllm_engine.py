"""The engine for users who outgrow ours: vLLM's asynchronous engine behind the same protocol.

vLLM owns scheduling, memory and parallelism; ``EngineOptions.vllm`` passes what
else its ``AsyncEngineArgs`` take (``pipeline_parallel_size``, ``nnodes``,
``node_rank``, ``master_addr``, …). Needs the extra ``[vllm]``.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

from llama_hub.errors import MissingExtraError, NotEnoughError, UsageError
from llama_hub.hub.model_config import read_config
from llama_hub.hub.tokenizer.reading import sampled_tokens
from llama_hub.inference import requests
from llama_hub.inference.config import EngineOptions
from llama_hub.inference.engine import (
    OR_TEXT,
    Delta,
    EngineInfo,
    EngineStats,
    FinishReason,
    GenerationRequest,
    SamplingParams,
    TokenLogprob,
)
from llama_hub.inference.weights import stored_form


class VllmEngine:
    """Serves one Hugging Face folder through vLLM; see ``engine.Engine``."""

    def __init__(self, folder: Path, options: EngineOptions | None = None) -> None:
        self._folder = folder
        self._options = options or EngineOptions()
        self._engine: Any = None
        self._info: EngineInfo | None = None
        self._ends: frozenset[int] = frozenset()
        self._named: list[int] | None = None  # what may be sampled; None: every row has a name
        self._running: set[str] = set()
        self._totals = {"prompt": 0, "generated": 0, "cached": 0}

    @property
    def info(self) -> EngineInfo:
        """See ``Engine``; ``UsageError`` before the engine has started."""
        if self._info is None:
            raise UsageError("the engine has not been started")
        return self._info

    async def start(self) -> None:
        config = read_config(self._folder)
        architecture = config.architecture
        rows = architecture.vocab_size
        self._ends, nameless = sampled_tokens(self._folder, rows)
        self._named = [t for t in range(rows) if t not in nameless] if nameless else None
        library = _library()
        arguments = library.AsyncEngineArgs(**engine_arguments(self._folder, self._options))
        self._engine = library.AsyncLLM.from_engine_args(arguments)
        settings = self._engine.vllm_config.model_config
        stored = stored_form(config)
        self._info = EngineInfo(
            engine="vllm",
            device=str(getattr(self._engine.vllm_config.device_config, "device_type", "cuda")),
            dtype=str(settings.dtype).removeprefix("torch."),
            quantization=stored.name if stored else None,
            context=int(settings.max_model_len),
            vocab_size=architecture.vocab_size,
            max_batch=self._options.max_batch,
        )

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """See ``Engine``.

        ``UsageError`` for an id that runs already, ``NotEnoughError`` if the queue is full.
        """
        requests.check(request, self.info)
        if request.id in self._running:
            raise UsageError(f"a request with the id {request.id!r} is running already")
        if len(self._running) >= self._options.max_batch + self._options.max_queue:
            raise NotEnoughError(
                f"the queue is full: {self._options.max_queue} requests are waiting",
                hint="try again later, or start the service with a larger queue",
            )
        return self._stream(request)

    async def _stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        arguments = sampling_arguments(request.sampling, self._ends, self._named)
        params = _library().SamplingParams(**arguments)
        prompt = {"prompt_token_ids": list(request.prompt)}
        self._running.add(request.id)
        self._totals["prompt"] += len(request.prompt)
        first = finished = True
        try:
            finished = False
            async for output in self._engine.generate(prompt, params, request.id):
                delta = self._delta(request, output, first=first)
                first, finished = False, delta.finish_reason is not None
                yield delta
        finally:
            self._running.discard(request.id)
            if not finished:
                await self._engine.abort(request.id)

    def _delta(self, request: GenerationRequest, output: Any, *, first: bool) -> Delta:
        """Ours from vLLM's; the token that ends an answer is not part of it."""
        answer = output.outputs[0]
        tokens, scores = list(answer.token_ids), list(answer.logprobs or [])
        reason: FinishReason | None = answer.finish_reason
        if reason == "stop" and tokens and tokens[-1] in self._stops(request.sampling):
            tokens, scores = tokens[:-1], scores[: len(tokens) - 1]
        cached = int(output.num_cached_tokens or 0) if first else 0
        self._totals["generated"] += len(tokens)
        self._totals["cached"] += cached
        wanted = request.sampling.prompt_logprobs
        return Delta(
            tokens=tuple(tokens),
            logprobs=tuple(
                token_logprob(token, table, request.sampling.logprobs or 0)
                for token, table in zip(tokens, scores, strict=False)
            ),
            prompt_logprobs=_prompt_scores(request, output)
            if first and wanted is not None
            else None,
            finish_reason=reason,
            cached_tokens=cached,
        )

    def _stops(self, sampling: SamplingParams) -> frozenset[int]:
        return sampling.stop_token_ids | (frozenset() if sampling.ignore_eos else self._ends)

    async def abort(self, request_id: str) -> None:
        if request_id in self._running:
            await self._engine.abort(request_id)

    def health(self) -> str | None:
        if self._engine is None:
            return "the engine has not been started"
        if self._engine.errored:
            return f"the engine failed: {self._engine.dead_error!r}"
        return None

    def stats(self) -> EngineStats:
        running = min(len(self._running), self._options.max_batch)
        return EngineStats(
            running=running,
            waiting=len(self._running) - running,
            kv_usage=0.0,  # vLLM keeps it in a process of its own and shows it on its metrics
            prompt_tokens=self._totals["prompt"],
            generated_tokens=self._totals["generated"],
            prefix_queries=self._totals["prompt"],
            prefix_hits=self._totals["cached"],
            preemptions=0,
            memory_bytes=0,
        )

    async def shutdown(self) -> None:
        if self._engine is not None:
            engine, self._engine = self._engine, None
            engine.shutdown()


def engine_arguments(folder: Path, options: EngineOptions) -> dict[str, Any]:
    """``AsyncEngineArgs`` for our options.

    ``UsageError`` for a form of quantisation that vLLM does not make.
    """
    if options.quantize is not None:
        raise UsageError(
            "vLLM does not quantise to this form while loading",
            hint=f"llama-hub convert MODEL --to hf --quantize {options.quantize}, and serve that",
        )
    return {
        "model": str(folder),
        "dtype": options.dtype,
        "max_model_len": options.context,
        "max_num_seqs": options.max_batch,
        "kv_cache_memory_bytes": options.kv_cache_bytes,
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "enable_prefix_caching": options.prefix_caching,
        "tensor_parallel_size": options.tensor_parallel,
        **options.vllm,
    }


def _is_optional(grammar: str) -> bool:
    schema = json.loads(grammar)
    return isinstance(schema, dict) and schema.get(OR_TEXT) is True


def sampling_arguments(
    params: SamplingParams,
    ends: frozenset[int] = frozenset(),
    named: list[int] | None = None,
) -> dict[str, Any]:
    """vLLM's ``SamplingParams`` for ours: deltas of ids, no text.

    ``ends``: the model's end tokens, of which vLLM knows one; ``named``: what may be sampled.
    """
    library = _library()
    arguments = {
        "max_tokens": max(1, params.max_tokens),
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "min_p": params.min_p,
        "repetition_penalty": params.repetition_penalty,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "logit_bias": dict(params.logit_bias) or None,
        "seed": params.seed,
        "stop_token_ids": sorted(
            params.stop_token_ids | (frozenset() if params.ignore_eos else ends)
        ),
        "ignore_eos": params.ignore_eos,
        "min_tokens": params.min_tokens,
        "logprobs": params.logprobs,
        "prompt_logprobs": params.prompt_logprobs,
        "detokenize": False,
        "output_kind": library.RequestOutputKind.DELTA,
    }
    if named is not None:
        arguments["allowed_token_ids"] = named
    if params.grammar is not None and not _is_optional(params.grammar):
        arguments["structured_outputs"] = library.StructuredOutputsParams(json=params.grammar)
    return arguments


def token_logprob(token: int, table: Mapping[int, Any], alternatives: int) -> TokenLogprob:
    """One token's entry of vLLM's table, which holds it and the best ``alternatives``."""
    best = sorted(table.items(), key=lambda entry: -entry[1].logprob)[:alternatives]
    top = tuple((other, float(found.logprob)) for other, found in best)
    return TokenLogprob(token, float(table[token].logprob), top)


def _prompt_scores(request: GenerationRequest, output: Any) -> tuple[TokenLogprob | None, ...]:
    alternatives = request.sampling.prompt_logprobs or 0
    return tuple(
        None if table is None else token_logprob(token, table, alternatives)
        for token, table in zip(request.prompt, output.prompt_logprobs, strict=True)
    )


class _Library:
    """The handful of vLLM's names that are used here."""

    def __init__(self) -> None:
        from vllm import AsyncEngineArgs
        from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
        from vllm.v1.engine.async_llm import AsyncLLM

        self.AsyncEngineArgs: Any = AsyncEngineArgs
        self.AsyncLLM: Any = AsyncLLM
        self.SamplingParams: Any = SamplingParams
        self.RequestOutputKind: Any = RequestOutputKind
        self.StructuredOutputsParams: Any = StructuredOutputsParams


def _library() -> _Library:
    try:
        return _Library()
    except ModuleNotFoundError as error:
        raise MissingExtraError("vllm", "vllm") from error
