"""From a folder and options to a model that is loaded, warm and ready."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llama_hub.errors import UsageError
from llama_hub.hub.architecture import from_config
from llama_hub.inference.batch import Piece
from llama_hub.inference.config import PAGE, EngineOptions, physical_cores
from llama_hub.inference.engine import EngineInfo
from llama_hub.inference.executor import Executor, LocalExecutor
from llama_hub.inference.kv_cache import KVCache, PagePool
from llama_hub.inference.model import Llama
from llama_hub.inference.partition import Partition
from llama_hub.inference.rope import Rope
from llama_hub.inference.weights import Loader, TensorFiles, heads_of, read_config

DEFAULT_EOS = 2


@dataclass(frozen=True)
class Loaded:
    """What ``TorchEngine`` drives."""

    executor: Executor
    pool: PagePool
    info: EngineInfo
    eos: int
    memory_bytes: int


def load(folder: Path, options: EngineOptions) -> Loaded:
    """Read the weights, make the cache, run once; blocks."""
    config = read_config(folder)
    architecture = from_config(config)
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, config)
    if device.type == "cpu":
        torch.set_num_threads(options.threads or physical_cores())
    context = options.context or architecture.context
    partition = Partition(architecture)
    heads = heads_of(partition)
    with TensorFiles(folder) as files:
        weights = Loader(files, partition, dtype, device).load()
    pages = -(-context // PAGE) * options.max_batch
    cache = KVCache(architecture.n_layers, pages, heads.keys, heads.width, dtype, device)
    rope = Rope(heads.width, context, architecture.rope_theta, device)
    executor = LocalExecutor(Llama(architecture, heads, weights, rope), cache, device)
    executor.run([Piece((1,), 0, (0,))])
    return Loaded(
        executor=executor,
        pool=PagePool(pages),
        info=EngineInfo(
            engine="torch",
            device=str(device),
            dtype=str(dtype).removeprefix("torch."),
            quantization=None,
            context=context,
            vocab_size=architecture.vocab_size,
            max_batch=options.max_batch,
        ),
        eos=_eos(config),
        memory_bytes=weights.bytes + cache.bytes,
    )


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


def choose_dtype(name: str, config: dict[str, Any]) -> torch.dtype:
    """The type that weights and activations have; ``auto`` is the folder's."""
    if name == "auto":
        name = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    dtype = known.get(name.removeprefix("torch."))
    if dtype is None:
        raise UsageError(f"config.json states the type {name!r}", hint="--dtype bfloat16")
    return dtype


def _eos(config: dict[str, Any]) -> int:
    stated = config.get("eos_token_id", DEFAULT_EOS)
    return int(stated[0] if isinstance(stated, list) else stated)
