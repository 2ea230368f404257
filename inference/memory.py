"""The memory that a model needs: one arithmetic for serving and for planning deployments.

=============  =================================================================
weights        parameters x bytes of the type; quantised: projections at 8 or 4 bits
               plus a scale for each row (int8) or group of columns (int4), the
               output matrix at 8 bits; the embedding keeps its type, and every device
               of a tensor-parallel model holds all of it
KV cache       2 x layers x key/value heads x head width x bytes of the type, for each
               token of ``max_batch`` sequences of ``context`` tokens
workspace      activations of a step and its logits in float32, and what a process with
               the framework loaded takes by itself
=============  =================================================================

It is used before anything is loaded. On a GPU the cache's size is measured afterwards
(``inference.cuda.loading``).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llama_hub.errors import NotEnoughError
from llama_hub.hub.architecture import DTYPE_BYTES, Architecture
from llama_hub.inference.config import PAGE, Quantization

if TYPE_CHECKING:
    import torch

GIB = 1 << 30
GROUP = 64  # columns for each scale of int4; another group changes the sum by a few per cent
SCALE = 4  # bytes of a scale: float32 on CPUs; GPUs keep 16 bits, at most 6 % less in all
FIXED = 64 << 20  # bytes: rotation tables, packing buffers, the allocator's slack
PROCESS = 1 << 29  # bytes of a device that a process takes: context, libraries, their kernels
OF_FREE = 0.97  # of what others leave of a GPU: the driver needs a little, and they may grow
SHORTER = (2048, 1024, 512)  # contexts that are proposed when the asked one does not fit


@dataclass(frozen=True)
class Fit:
    """What one device needs; sizes in bytes, per process under tensor parallelism."""

    architecture: Architecture
    dtype: str
    quantization: Quantization | None
    context: int
    max_batch: int
    step_tokens: int
    devices: int
    device_memory: int | None  # to be used on each device; None: unknown, nothing is refused
    overhead: int = FIXED  # bytes that a process takes whatever it computes

    @property
    def weights_bytes(self) -> int:
        """All weights that one device holds."""
        model, full = self.architecture, DTYPE_BYTES[self.dtype]
        table = model.vocab_size * model.dim
        norms = (2 * model.n_layers + 1) * model.dim
        projections = model.parameters - 2 * table - norms
        shared = projections * _bytes_per_weight(self.quantization, model.dim, full)
        # The output matrix is a small part of the bytes and a large part of the error.
        shared += table * _bytes_per_weight("int8" if self.quantization else None, model.dim, full)
        return int(shared / self.devices) + (table + norms) * full

    @property
    def page_bytes(self) -> int:
        """One page of the KV cache over all layers."""
        per_token = self.architecture.kv_bytes_per_token(DTYPE_BYTES[self.dtype])
        shared = min(self.devices, self.architecture.n_kv_heads)
        return per_token * PAGE // shared

    @property
    def context_pages(self) -> int:
        """Pages of one sequence of full length: the least that a cache must have."""
        return -(-self.context // PAGE)

    @property
    def kv_bytes(self) -> int:
        """The cache for ``max_batch`` sequences of full length."""
        return self.context_pages * self.max_batch * self.page_bytes

    @property
    def least_kv_bytes(self) -> int:
        """The cache for one sequence of full length; others wait or are computed again."""
        return self.context_pages * self.page_bytes

    @property
    def workspace_bytes(self) -> int:
        """Activations of a step and logits, in float32, and the process itself."""
        model = self.architecture
        per_token = 6 * model.dim + 3 * model.ffn_dim + 2 * model.kv_dim
        rows = max(self.max_batch, self.step_tokens)
        return (
            4 * (rows * per_token + (2 * self.step_tokens + 2) * model.vocab_size) + self.overhead
        )

    @property
    def total_bytes(self) -> int:
        """Everything, with the whole cache."""
        return self.weights_bytes + self.kv_bytes + self.workspace_bytes

    @property
    def least_bytes(self) -> int:
        """Everything, with the smallest cache that can work."""
        return self.weights_bytes + self.least_kv_bytes + self.workspace_bytes

    @property
    def fits(self) -> bool:
        """Whether the least that is needed is there."""
        return self.device_memory is None or self.least_bytes <= self.device_memory

    def cache_pages(self, kv_cache_bytes: int | None = None, *, limit: bool = True) -> int:
        """Pages to allocate: what is asked for, as far as memory goes; at least one context.

        Without ``limit`` what is asked for: where memory is measured later.
        """
        wanted = self.context_pages * self.max_batch
        if kv_cache_bytes is not None:
            return max(self.context_pages, min(wanted, kv_cache_bytes // self.page_bytes))
        if self.device_memory is None or not limit:
            return wanted
        room = self.device_memory - self.weights_bytes - self.workspace_bytes
        return max(self.context_pages, min(wanted, room // self.page_bytes))

    def alternatives(self) -> list[str]:
        """Options that would fit, the mildest change first; empty if none does."""
        ways: list[str] = []
        for label, other in self._candidates():
            if other.fits:
                ways.append(label)
        return ways

    def _candidates(self) -> list[tuple[str, Fit]]:
        shorter = [n for n in SHORTER if n < self.context]
        out = [(f"--context {n}", replace(self, context=n)) for n in shorter]
        if self.dtype == "float32" and self.quantization is None:
            out.append(("--dtype bfloat16", replace(self, dtype="bfloat16")))
        kinds: list[Quantization] = ["int8", "int4"]
        for kind in kinds:
            if self.quantization not in (kind, "int4"):
                out.append((f"--quantize {kind}", replace(self, quantization=kind)))
        for devices in (2, 4, 8):
            if devices > self.devices and self.architecture.n_heads % devices == 0:
                label = f"{devices} such devices (--tensor-parallel {devices})"
                out.append((label, replace(self, devices=devices)))
        return out

    def explain(self) -> str:
        """The arithmetic in one line."""
        have = "unknown" if self.device_memory is None else _gib(self.device_memory)
        return (
            f"weights {_gib(self.weights_bytes)} ({self.quantization or self.dtype}) + KV cache "
            f"{_gib(self.least_kv_bytes)} to {_gib(self.kv_bytes)} (context {self.context}, 1 to "
            f"{self.max_batch} sequences) + workspace {_gib(self.workspace_bytes)} = at least "
            f"{_gib(self.least_bytes)}; free: {have}"
        )

    def require(self) -> None:
        """``NotEnoughError`` with the numbers and what would fit, unless it fits."""
        if self.fits:
            return
        ways = self.alternatives()
        raise NotEnoughError(
            f"the model does not fit: {self.explain()}",
            hint=("any of these fits: " + "; ".join(ways))
            if ways
            else "no smaller setting fits this device; use a larger one",
        )


def plan(
    architecture: Architecture,
    dtype: str,
    quantization: Quantization | None,
    context: int,
    max_batch: int,
    device_memory: int | None,
    *,
    step_tokens: int = 512,
    devices: int = 1,
    overhead: int = FIXED,
) -> Fit:
    """The arithmetic for one setting; ``device_memory``: bytes that each device may give."""
    settings = (dtype, quantization, context, max_batch, step_tokens, devices)
    return Fit(architecture, *settings, device_memory, overhead)


def _bytes_per_weight(quantization: Quantization | None, columns: int, full: int) -> float:
    """Of a matrix, its scales included."""
    return {None: float(full), "int8": 1 + SCALE / columns, "int4": 0.5 + SCALE / GROUP}[
        quantization
    ]


def gpu_room(free: int, total: int, utilization: float) -> int:
    """Bytes that a service may take of a GPU: its share, as far as others leave it."""
    return int(min(total * utilization, free * OF_FREE))


def free_memory(device: torch.device, utilization: float = 1.0) -> int | None:
    """Bytes that may be used on ``device`` now; ``None`` if that cannot be told.

    ``utilization``: the share of a GPU's whole memory that is meant for this process. A MIG
    instance counts as the device that it is.
    """
    if device.type == "cuda":
        import torch

        return gpu_room(*torch.cuda.mem_get_info(device), utilization)
    limits = [each for each in (_available(), _container_room()) if each is not None]
    return min(limits, default=None)


def _available() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def _container_room() -> int | None:
    """What a container's limit (cgroup v2) leaves; page cache does not count as used."""
    base = Path("/sys/fs/cgroup")
    try:
        limit = int((base / "memory.max").read_text(encoding="ascii"))
        used = int((base / "memory.current").read_text(encoding="ascii"))
        stat = (base / "memory.stat").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    cached = sum(int(line.split()[1]) for line in stat if line.startswith("inactive_file "))
    return max(0, limit - used + cached)


def _gib(count: int) -> str:
    return f"{count / GIB:.2f} GiB"
