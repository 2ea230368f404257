"""How much memory a replica needs, from the model's dimensions, and which machine is enough.

=============  =================================================================
weights        parameters x bytes of the type; quantised: the linear layers at 8
               or 4 bits plus 16-bit scales (one per output row, or per 128
               inputs for int4); embeddings, head and norms keep 16 bits
KV cache       2 x layers x key/value heads x head width x 2 bytes per token, for
               ``concurrency`` sequences of ``context`` tokens
workspace      activations of one prefill chunk and its logits in float32, and
               what a process with the framework loaded takes by itself
=============  =================================================================
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_hub.errors import NotEnoughError, QuotaError
from llama_hub.hub.architecture import DTYPE_BYTES, Architecture

if TYPE_CHECKING:
    from llama_hub.deploy.backend import Offer
    from llama_hub.deploy.spec import DeploymentSpec

HOURS_PER_MONTH = 730
PREFILL_CHUNK = 2048  # tokens that the engine reads at once
PROCESS_BYTES = 1 << 29  # framework, kernels and allocator of one process
INT4_GROUP = 128  # inputs that share a scale
USABLE = 0.92  # of an accelerator's memory; the rest is the driver's and fragmentation
USABLE_HOST = 0.85  # of a host's memory; the rest is the operating system's


@dataclass(frozen=True)
class Need:
    """Memory of one replica, in bytes, and what it was computed from."""

    weights_bytes: int
    kv_bytes: int
    workspace_bytes: int
    architecture: Architecture
    dtype: str  # of activations and unquantised weights
    quantization: str | None
    context: int  # tokens
    concurrency: int  # sequences

    @property
    def total_bytes(self) -> int:
        """What one replica needs in all."""
        return self.weights_bytes + self.kv_bytes + self.workspace_bytes

    def to_json(self) -> dict[str, Any]:
        """For plans: the three parts and their sum."""
        return {
            "weights_bytes": self.weights_bytes,
            "kv_bytes": self.kv_bytes,
            "workspace_bytes": self.workspace_bytes,
            "total_bytes": self.total_bytes,
            "dtype": self.dtype,
            "quantization": self.quantization,
            "context": self.context,
            "concurrency": self.concurrency,
            "parameters": self.architecture.parameters,
        }

    def text(self) -> str:
        """The arithmetic in one line."""
        kind = self.quantization or self.dtype
        return (
            f"{gib(self.total_bytes)} = weights {gib(self.weights_bytes)} "
            f"({self.architecture.parameters / 1e9:.3g} billion in {kind}) "
            f"+ KV cache {gib(self.kv_bytes)} ({self.concurrency} x {self.context} tokens) "
            f"+ workspace {gib(self.workspace_bytes)}"
        )


def gib(amount: int) -> str:
    """Bytes as GiB, or MiB below one."""
    return f"{amount / 2**30:.1f} GiB" if amount >= 2**30 else f"{amount / 2**20:.0f} MiB"


def need(architecture: Architecture, spec: DeploymentSpec, dtype: str = "bfloat16") -> Need:
    """The memory of one replica of ``spec``; ``dtype`` is the weights' own type."""
    width = DTYPE_BYTES[dtype]
    chunk = min(PREFILL_CHUNK, spec.context)
    activations = chunk * (4 * architecture.dim + 2 * architecture.ffn_dim) * width
    logits = spec.concurrency * architecture.vocab_size * 4
    return Need(
        weights_bytes=weights_bytes(architecture, dtype, spec.quantization),
        kv_bytes=architecture.kv_bytes_per_token(width) * spec.context * spec.concurrency,
        workspace_bytes=PROCESS_BYTES + activations + logits,
        architecture=architecture,
        dtype=dtype,
        quantization=spec.quantization,
        context=spec.context,
        concurrency=spec.concurrency,
    )


def weights_bytes(architecture: Architecture, dtype: str, quantization: str | None) -> int:
    """Bytes of the weights in memory."""
    width = DTYPE_BYTES[dtype]
    if quantization is None:
        return architecture.parameters * width
    rows, elements = _linear(architecture)
    kept = (architecture.parameters - elements) * width
    if quantization == "int8":
        return kept + elements + rows * 2
    return kept + elements // 2 + elements // INT4_GROUP * 2


def _linear(architecture: Architecture) -> tuple[int, int]:
    """Output rows and elements of the layers that are quantised, over the whole model."""
    dim, kv, ffn = architecture.dim, architecture.kv_dim, architecture.ffn_dim
    rows = 2 * dim + 2 * kv + 2 * ffn + dim
    elements = 2 * dim * dim + 2 * dim * kv + 3 * dim * ffn
    return architecture.n_layers * rows, architecture.n_layers * elements


def usable_bytes(offer: Offer) -> int:
    """What a replica may use on a machine of this type, over all its accelerators."""
    if offer.accelerators == 0:
        return int(offer.memory_bytes * USABLE_HOST)
    return int(offer.memory_bytes * offer.accelerators * USABLE)


def fits(offer: Offer, need: Need) -> bool:
    """Whether a replica fits: every accelerator holds its share and a process of its own."""
    devices = max(1, offer.accelerators)
    if need.architecture.n_heads % devices:
        return False
    return need.total_bytes + (devices - 1) * PROCESS_BYTES <= usable_bytes(offer)


def cheapest_first(offers: Iterable[Offer]) -> list[Offer]:
    """By price (free first), then by memory, so that ties are broken the same way every time."""
    return sorted(
        offers,
        key=lambda offer: (
            offer.price_per_hour or 0.0,
            offer.memory_bytes * max(1, offer.accelerators),
            offer.instance,
        ),
    )


def choose(
    offers: Sequence[Offer], spec: DeploymentSpec, need: Need, current: str | None = None
) -> Offer:
    """The machine ``spec`` names, else ``current`` while it fits, else the cheapest that fits.

    ``NotEnoughError`` with the arithmetic where nothing fits, ``QuotaError`` where only the
    quota is in the way.
    """
    wanted = offers if spec.instance == "auto" else _named(offers, spec.instance)
    fitting = [offer for offer in cheapest_first(wanted) if fits(offer, need)]
    if not fitting:
        raise _too_small(wanted, spec, need)
    for offer in fitting:
        if offer.instance == current:
            return offer
    allowed = [offer for offer in fitting if _within_quota(offer, spec)]
    if not allowed:
        raise _no_quota(fitting[0], spec)
    return allowed[0]


def _named(offers: Sequence[Offer], instance: str) -> list[Offer]:
    found = [offer for offer in offers if offer.instance == instance]
    if found:
        return found
    known = ", ".join(offer.instance for offer in cheapest_first(offers)[:8]) or "none"
    raise NotEnoughError(
        f"the instance {instance!r} is not offered for this deployment; offered are: {known}",
        hint="leave instance at auto, or name one of these",
    )


def _within_quota(offer: Offer, spec: DeploymentSpec) -> bool:
    return offer.quota_left is None or offer.quota_left >= spec.replicas_max


def _no_quota(offer: Offer, spec: DeploymentSpec) -> QuotaError:
    return QuotaError(
        f"{offer.instance} in {offer.region} would fit, but the quota leaves {offer.quota_left} "
        f"and {spec.replicas_max} are asked for",
        hint=offer.note or "ask the platform for more quota, or choose another region",
    )


def _too_small(offers: Sequence[Offer], spec: DeploymentSpec, need: Need) -> NotEnoughError:
    if not offers:
        return NotEnoughError(
            f"no machine is offered that holds a replica of {need.text()}", hint=_smaller(need, 0)
        )
    largest = max(offers, key=usable_bytes)
    room = usable_bytes(largest)
    return NotEnoughError(
        f"a replica needs {need.text()}; {largest.instance} leaves {gib(room)} "
        f"of {gib(largest.memory_bytes * max(1, largest.accelerators))}",
        hint=_smaller(need, room),
    )


def _smaller(need: Need, room: int) -> str:
    """What would fit into ``room`` bytes."""
    cures = []
    left = room - need.weights_bytes - need.workspace_bytes
    per_sequence = need.kv_bytes // need.concurrency
    if left >= per_sequence:
        cures.append(f"concurrency {left // per_sequence}")
    per_token = per_sequence // need.context
    if per_token and left // (per_token * need.concurrency) >= 256:
        cures.append(f"context {left // (per_token * need.concurrency)}")
    for kind in ("int8", "int4"):
        smaller = dataclasses.replace(
            need,
            quantization=kind,
            weights_bytes=weights_bytes(need.architecture, need.dtype, kind),
        )
        if need.quantization is None and smaller.total_bytes <= room:
            cures.append(f"quantization {kind}")
            break
    return f"would fit: {', or '.join(cures)}" if cures else "choose a larger machine or model"
