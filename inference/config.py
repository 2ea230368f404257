"""Options of an engine that a user may choose, checked once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llama_hub.errors import UsageError

Quantization = Literal["int8", "int4"]
DTYPES = ("auto", "bfloat16", "float16", "float32")
GPU_MEMORY_UTILIZATION = 0.92  # of a GPU's memory; the rest is the driver's and fragmentation
GPU_STEP_TOKENS = 2048  # a GPU computes them at once; a CPU would hold answers up with so many
CPU_STEP_TOKENS = 512
SPECULATE = 7  # guessed tokens of a sequence: eight rows cost our kernels 2.3 to 2.7 steps
SPECULATIVE_ROWS = 8  # of a step, guessed ones included; with more sequences there are no guesses
PAGE = 16  # tokens per page of the KV cache; also the grain of the prefix cache


@dataclass(frozen=True)
class EngineOptions:
    """Options of an engine; every default is meant to be right for one user on one machine."""

    device: str = "auto"  # auto (CUDA if there is one), cpu, cuda, cuda:N
    dtype: str = "auto"  # auto (the folder's own), bfloat16, float16, float32
    quantize: Quantization | None = None  # weight-only, at load; a quantised folder needs nothing
    context: int | None = None  # tokens of prompt and answer together; None: the model's
    max_batch: int = 16  # sequences that are in the cache together
    max_queue: int = 1024  # requests that may wait for a place in the batch
    step_tokens: int | None = None  # of prompt and answers in one step; None: the device's own
    speculate: int | None = None  # guessed tokens a step; None: some where answers stay the same
    kv_cache_bytes: int | None = None  # None: as much as context × max_batch needs or memory has
    gpu_memory_utilization: float = GPU_MEMORY_UTILIZATION  # share of each GPU that it may take
    prefix_caching: bool = True  # reuse the KV pages of equal prompt beginnings
    tensor_parallel: int = 1  # processes (CPU) or devices (CUDA) that share every layer
    threads: int | None = None  # CPU threads per process; None: the physical cores
    kernels: Literal["auto", "on", "off"] = "auto"  # our CPU kernels; auto: for large models
    check_memory: bool = True  # refuse before loading when the model cannot fit
    vllm: Mapping[str, Any] = field(default_factory=dict)  # more of vLLM's AsyncEngineArgs

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UsageError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        if self.quantize not in (None, "int8", "int4"):
            raise UsageError(f"quantize {self.quantize!r} is not int8 or int4")
        if self.kernels not in ("auto", "on", "off"):
            raise UsageError(f"kernels {self.kernels!r} is not auto, on or off")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise UsageError(
                f"gpu_memory_utilization must be above 0 and at most 1, not "
                f"{self.gpu_memory_utilization}"
            )
        for name in ("max_batch", "max_queue", "tensor_parallel"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.speculate is not None and not 0 <= self.speculate <= 64:
            raise UsageError(f"speculate must be from 0 to 64, not {self.speculate}")
        for name in ("context", "kv_cache_bytes", "threads", "step_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be positive, not {value}")


def physical_cores() -> int:
    """Cores that this process may use, hyper-threads counted once; at least 1."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if allowed is None:
        return max(1, (os.cpu_count() or 2) // 2)
    cores = {_siblings(cpu) for cpu in allowed}
    return max(1, min(len(cores), _cpu_quota()))


def _siblings(cpu: int) -> str:
    path = f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    try:
        with open(path, encoding="ascii") as file:  # noqa: PTH123 - sysfs, read in a loop
            return file.read().strip()
    except OSError:
        return str(cpu)


def _cpu_quota() -> int:
    """Whole CPUs that a container's quota (cgroup v2) allows; many if there is none."""
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:  # noqa: PTH123
            quota, period = file.read().split()
        return max(1, round(int(quota) / int(period)))
    except (OSError, ValueError):
        return 1 << 16
