"""The loading of a model, from a folder and options to one that is warm and ready."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from ctypes import CDLL
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from llama_hub.errors import UsageError
from llama_hub.hub.architecture import Architecture
from llama_hub.hub.model_config import read_config
from llama_hub.hub.tokenizer.reading import sampled_tokens
from llama_hub.inference import memory, native_model
from llama_hub.inference.batch import Piece
from llama_hub.inference.collective import Alone, Collective
from llama_hub.inference.config import (
    CPU_STEP_TOKENS,
    GPU_STEP_TOKENS,
    EngineOptions,
    Quantization,
    physical_cores,
)
from llama_hub.inference.devices import choose_device, choose_dtype
from llama_hub.inference.executor import Executor, LocalExecutor, device_scope
from llama_hub.inference.kv_cache import KVCache
from llama_hub.inference.memory import Fit
from llama_hub.inference.model import Heads, Llama, Weights
from llama_hub.inference.native.library import KERNELS, library
from llama_hub.inference.partition import Partition
from llama_hub.inference.quantization import for_kernels, for_torch
from llama_hub.inference.rope import Rope
from llama_hub.inference.weights import (
    Loader,
    StoredForm,
    Target,
    TensorFiles,
    heads_of,
    stored_form,
)
from llama_hub.kernels import NO_KERNELS

if TYPE_CHECKING:
    from llama_hub.inference.cuda.loading import MemoryMeter

_log = logging.getLogger(__name__)
KERNELS_FROM = 256 << 20  # bytes of weights
BITS = {"int8": 8, "int4": 4}


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before loading; equal in all processes of an engine."""

    folder: Path
    architecture: Architecture
    device: torch.device
    dtype: torch.dtype
    quantize: Quantization | None  # at load
    stored: StoredForm | None  # in the folder
    context: int
    pages: int  # of the KV cache; on a GPU at most, see ``Shard.pages``
    max_batch: int
    step_tokens: int
    gpu_memory_utilization: float
    threads: int
    processes: int
    kernels: bool  # whether our CPU kernels are wanted
    ends: frozenset[int]  # tokens that end an answer
    nameless: frozenset[int]  # rows of the vocabulary that no token names: never sampled
    fit: Fit

    @property
    def quantization(self) -> Quantization | None:
        """How the weights are quantised, wherever that happened."""
        return self.stored.name if self.stored else self.quantize


@dataclass(frozen=True)
class Shard:
    """One process's part of a model, ready to compute."""

    executor: LocalExecutor
    bytes: int  # weights and cache
    pages: int  # of the KV cache
    modes: Mapping[str, str]  # how each kind of step is computed


def make_plan(folder: Path, options: EngineOptions) -> Plan:
    """Read ``config.json`` and decide; ``NotEnoughError`` if the model cannot fit.

    ``UsageError`` if the folder is quantised otherwise than ``options`` say.
    """
    config = read_config(folder)
    architecture, stored = config.architecture, stored_form(config)
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, config, device)
    if stored and options.quantize not in (None, stored.name):
        raise UsageError(
            f"the folder is quantised to {stored.name} and cannot become {options.quantize}",
            hint="serve it as it is, or quantise the original model",
        )
    Partition(architecture, 0, options.tensor_parallel)  # refuses what does not divide the heads
    context = _context(options.context, architecture)
    on_gpu = device.type == "cuda"
    step_tokens = options.step_tokens or (
        min(GPU_STEP_TOKENS, context) if on_gpu else CPU_STEP_TOKENS
    )
    free = memory.free_memory(device, options.gpu_memory_utilization)
    if free is not None and device.type == "cpu":
        free //= options.tensor_parallel
    fit = memory.plan(
        architecture,
        _name(dtype),
        stored.name if stored else options.quantize,
        context,
        options.max_batch,
        free,
        step_tokens=step_tokens,
        devices=options.tensor_parallel,
        overhead=memory.PROCESS if on_gpu else memory.FIXED,
    )
    if options.check_memory:
        fit.require()
    ends, nameless = sampled_tokens(folder, architecture.vocab_size)
    return Plan(
        folder=folder,
        architecture=architecture,
        device=device,
        dtype=dtype,
        quantize=None if stored else options.quantize,
        stored=stored,
        context=context,
        pages=fit.cache_pages(options.kv_cache_bytes, limit=not on_gpu),
        max_batch=options.max_batch,
        step_tokens=step_tokens,
        gpu_memory_utilization=options.gpu_memory_utilization,
        threads=options.threads or max(1, physical_cores() // options.tensor_parallel),
        processes=options.tensor_parallel,
        kernels=device.type == "cpu" and _kernels_pay(options, fit),
        ends=ends,
        nameless=nameless,
        fit=fit,
    )


def load_shard(plan: Plan, rank: int = 0, collective: Collective | None = None) -> Shard:
    """Load one process's weights and make its cache; blocks."""
    collective = collective or Alone()
    device = plan.device
    if device.type == "cpu":
        torch.set_num_threads(plan.threads)
    partition = Partition(plan.architecture, rank, plan.processes, _grain(plan))
    heads = heads_of(partition)
    kernels = library() if plan.kernels and _suits(partition) else None
    if plan.kernels and kernels is None and plan.fit.weights_bytes >= KERNELS_FROM:
        _log.warning(
            "computing with torch, which is several times slower than llama-hub's kernels: %s",
            "they do not suit this model" if library() else NO_KERNELS,
        )
    make = for_kernels if kernels else for_torch(plan.dtype, device)
    target = Target(plan.dtype, device, make, BITS[plan.quantize] if plan.quantize else None)
    with device_scope(device):
        meter = _meter(plan)
        with TensorFiles(plan.folder) as files:
            weights = Loader(files, partition, target, plan.stored).load()
        described = plan.architecture
        rope = Rope(heads.width, plan.context, described.rope_theta, device, described.rope_scaling)
        if kernels:
            return _native_shard(plan, kernels, heads, weights, rope, collective)
        model = Llama(plan.architecture, heads, weights, rope, collective)
        return _cpu_shard(plan, model) if meter is None else _cuda_shard(plan, model, meter)


def _native_shard(
    plan: Plan,
    kernels: CDLL,
    heads: Heads,
    weights: Weights,
    rope: Rope,
    collective: Collective,
) -> Shard:
    cache = native_model.PagedCache(plan.architecture.n_layers, plan.pages, heads, plan.dtype)
    native = native_model.NativeLlama(
        kernels, plan.architecture, heads, weights, rope, collective, plan.threads
    )
    executor = LocalExecutor(
        partial(native.forward, cache=cache),
        partial(native.hidden, cache=cache),
        plan.device,
        give_back=cache.give_back,
    )
    modes = {"all": f"native ({KERNELS.describe()})"}
    return Shard(executor, weights.bytes + cache.bytes, plan.pages, modes)


def _cpu_shard(plan: Plan, model: Llama) -> Shard:
    layers, heads = plan.architecture.n_layers, model.heads
    cache = KVCache(layers, plan.pages, heads.keys, heads.width, plan.dtype, plan.device)
    executor = LocalExecutor(
        partial(model.forward, cache=cache),
        partial(model.hidden, cache=cache),
        plan.device,
        give_back=cache.give_back,
    )
    return Shard(executor, model.weights.bytes + cache.bytes, plan.pages, {"all": "torch"})


def _meter(plan: Plan) -> MemoryMeter | None:
    """Begins to count what this process takes of its GPU; ``None`` on a CPU."""
    if plan.device.type != "cuda":
        return None
    from llama_hub.inference.cuda.loading import MemoryMeter

    return MemoryMeter(plan.device, plan.gpu_memory_utilization)


def _cuda_shard(plan: Plan, model: Llama, meter: MemoryMeter) -> Shard:
    from llama_hub.inference.cuda.loading import SizedForward

    sized = SizedForward(
        model,
        context=plan.context,
        max_batch=plan.max_batch,
        step_tokens=plan.step_tokens,
        pages=plan.pages,
        dtype=plan.dtype,
        device=plan.device,
        meter=meter,
    )
    with torch.inference_mode():
        forward, cache = sized.build()
    executor = LocalExecutor(forward, forward.hidden, plan.device, forward.close)
    bytes_held = model.weights.bytes + cache.bytes
    return Shard(executor, bytes_held, cache.pages - 1, forward.modes)


def warm_up(executor: Executor) -> None:
    """A short prompt and one step of an answer, so that the first request meets nothing new."""
    executor.run([Piece(tuple(range(8)), 0, (0,), prompt=8)])
    executor.run([Piece((1,), 8, (0,))])


def _kernels_pay(options: EngineOptions, fit: Fit) -> bool:
    """Compiling takes seconds, once a machine: not worth it for a very small model."""
    if options.kernels == "auto":
        return fit.weights_bytes >= KERNELS_FROM or any(KERNELS.prebuilt())
    return options.kernels == "on"


def _grain(plan: Plan) -> int:
    """Feed-forward rows that one process must hold together."""
    if plan.processes == 1:
        return 1
    return max(native_model.LANES, plan.stored.grain if plan.stored else 64)


def _suits(partition: Partition) -> bool:
    return native_model.suits(partition.architecture, (len(partition.ffn()),))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _context(asked: int | None, architecture: Architecture) -> int:
    if asked is not None and asked > architecture.context:
        raise UsageError(
            f"a context of {asked} tokens is more than the {architecture.context} that the model "
            "was trained for",
            hint=f"--context {architecture.context}",
        )
    return asked or architecture.context
