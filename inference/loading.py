"""From a folder and options to a model that is loaded, warm and ready."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from llama_hub.errors import UsageError
from llama_hub.hub.architecture import Architecture
from llama_hub.hub.model_config import Config, read_config
from llama_hub.inference import memory_fit, native_model
from llama_hub.inference.batch import Piece
from llama_hub.inference.collective import Alone, Collective
from llama_hub.inference.config import EngineOptions, Quantization, physical_cores
from llama_hub.inference.executor import Executor, Forward, LocalExecutor
from llama_hub.inference.kv_cache import KVCache
from llama_hub.inference.memory_fit import Fit
from llama_hub.inference.model import Llama
from llama_hub.inference.native.library import library
from llama_hub.inference.partition import Partition
from llama_hub.inference.quantization import for_kernels, for_torch
from llama_hub.inference.rope import Rope
from llama_hub.inference.weights import (
    Loader,
    StoredForm,
    Target,
    TensorFiles,
    eos_of,
    heads_of,
    stored_form,
)

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
    pages: int
    max_batch: int
    threads: int
    processes: int
    kernels: bool  # whether our CPU kernels are wanted
    eos: int
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


def make_plan(folder: Path, options: EngineOptions) -> Plan:
    """Read ``config.json`` and decide; ``NotEnoughError`` if the model cannot fit."""
    config = read_config(folder)
    architecture, stored = config.architecture, stored_form(config)
    device, dtype = choose_device(options.device), choose_dtype(options.dtype, config)
    if stored and options.quantize not in (None, stored.name):
        raise UsageError(
            f"the folder is quantised to {stored.name} and cannot become {options.quantize}",
            hint="serve it as it is, or quantise the original model",
        )
    Partition(architecture, 0, options.tensor_parallel)  # refuses what does not divide the heads
    context = _context(options.context, architecture)
    free = memory_fit.free_memory(device)
    if free is not None and device.type == "cpu":
        free //= options.tensor_parallel
    fit = memory_fit.plan(
        architecture,
        _name(dtype),
        stored.name if stored else options.quantize,
        context,
        options.max_batch,
        free,
        step_tokens=options.step_tokens,
        devices=options.tensor_parallel,
    )
    if options.check_memory:
        fit.require()
    return Plan(
        folder=folder,
        architecture=architecture,
        device=device,
        dtype=dtype,
        quantize=None if stored else options.quantize,
        stored=stored,
        context=context,
        pages=fit.cache_pages(options.kv_cache_bytes),
        max_batch=options.max_batch,
        threads=options.threads or max(1, physical_cores() // options.tensor_parallel),
        processes=options.tensor_parallel,
        kernels=device.type == "cpu" and _kernels_pay(options, fit),
        eos=eos_of(config),
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
    make = for_kernels if kernels else for_torch(plan.dtype, device)
    target = Target(plan.dtype, device, make, BITS[plan.quantize] if plan.quantize else None)
    with TensorFiles(plan.folder) as files:
        weights = Loader(files, partition, target, plan.stored).load()
    rope = Rope(heads.width, plan.context, plan.architecture.rope_theta, device)
    layers = plan.architecture.n_layers
    forward: Forward
    cache: KVCache | native_model.PagedCache
    if kernels:
        paged = cache = native_model.PagedCache(layers, plan.pages, heads, plan.dtype)
        native = native_model.NativeLlama(
            kernels, plan.architecture, heads, weights, rope, collective, plan.threads
        )
        forward = partial(native.forward, cache=paged)
    else:
        spare = 1 if device.type == "cuda" else 0  # a page for rows of a graph that are not used
        flat = cache = KVCache(
            layers, plan.pages + spare, heads.keys, heads.width, plan.dtype, device
        )
        model = Llama(plan.architecture, heads, weights, rope, collective)
        forward = _torch_forward(plan, model, flat)
    return Shard(LocalExecutor(forward, device), weights.bytes + cache.bytes)


def _torch_forward(plan: Plan, model: Llama, cache: KVCache) -> Forward:
    if plan.device.type != "cuda":
        return partial(model.forward, cache=cache)
    from llama_hub.inference.cuda_decode import CudaForward

    forward = CudaForward(model, cache, plan.context, plan.max_batch)
    with torch.inference_mode():
        forward.prepare()
    return forward


def warm_up(executor: Executor) -> None:
    """A short prompt and one step of an answer, so that the first request meets nothing new."""
    executor.run([Piece(tuple(range(8)), 0, (0,), prompt=8)])
    executor.run([Piece((1,), 8, (0,))])


def _kernels_pay(options: EngineOptions, fit: Fit) -> bool:
    """Compiling them takes seconds, once a machine: not worth it for a very small model."""
    if options.kernels == "auto":
        return fit.weights_bytes >= KERNELS_FROM
    return options.kernels == "on"


def _grain(plan: Plan) -> int:
    """Feed-forward rows that one process must hold together."""
    if plan.processes == 1:
        return 1
    return max(native_model.LANES, plan.stored.grain if plan.stored else 64)


def _suits(partition: Partition) -> bool:
    return native_model.suits(partition.architecture, (len(partition.ffn()),))


def choose_device(name: str) -> torch.device:
    """The device that ``EngineOptions.device`` means; ``UsageError`` if it is not there."""
    cuda = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda:0" if cuda else "cpu")
    try:
        device = torch.device("cuda:0" if name == "cuda" else name)
    except RuntimeError as error:
        raise UsageError(f"device {name!r} is not known to torch") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is not supported", hint="--device cpu or --device cuda")
    if device.type == "cuda" and (not cuda or (device.index or 0) >= torch.cuda.device_count()):
        raise UsageError(
            f"device {name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices",
            hint="--device cpu, or install a torch build for your GPU",
        )
    return device


def choose_dtype(name: str, config: Config) -> torch.dtype:
    """The type that weights and activations have; ``auto`` is the folder's."""
    if name == "auto":
        name = config.weight_type
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    dtype = known.get(name.removeprefix("torch."))
    if dtype is None:
        raise UsageError(f"config.json states the type {name!r}", hint="--dtype bfloat16")
    return dtype


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
