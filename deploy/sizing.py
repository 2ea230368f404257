"""The choice of a machine for a replica; how much memory it needs says ``inference.memory``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_hub.errors import NotEnoughError, QuotaError, UsageError
from llama_hub.hub.architecture import Architecture
from llama_hub.inference import memory
from llama_hub.inference.config import GPU_MEMORY_UTILIZATION, GPU_STEP_TOKENS, Quantization

if TYPE_CHECKING:
    from llama_hub.deploy.offer import Offer
    from llama_hub.deploy.spec import DeploymentSpec

HOURS_PER_MONTH = 730
USABLE = GPU_MEMORY_UTILIZATION  # of an accelerator's memory: what the service takes by itself
UTILIZATION = "LLAMA_HUB_GPU_MEMORY_UTILIZATION"
USABLE_HOST = 0.85  # of a host's memory; the rest is the operating system's


@dataclass(frozen=True)
class Need:
    """Memory of one replica, in bytes, and what it was computed from."""

    weights_bytes: int
    kv_bytes: int
    workspace_bytes: int
    architecture: Architecture
    dtype: str  # of activations and unquantised weights
    quantization: Quantization | None
    context: int  # tokens
    concurrency: int  # sequences
    utilization: float = USABLE  # share of each accelerator that the service may take

    def share(self, devices: int) -> memory.Fit:
        """What each of ``devices`` holds that share the replica."""
        return _fit(
            self.architecture,
            self.dtype,
            self.quantization,
            self.context,
            self.concurrency,
            devices,
        )

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
    fit = _fit(architecture, dtype, spec.quantization, spec.context, spec.concurrency)
    return Need(
        weights_bytes=fit.weights_bytes,
        kv_bytes=fit.kv_bytes,
        workspace_bytes=fit.workspace_bytes,
        architecture=architecture,
        dtype=dtype,
        quantization=spec.quantization,
        context=spec.context,
        concurrency=spec.concurrency,
        utilization=_utilization(spec),
    )


def _utilization(spec: DeploymentSpec) -> float:
    """What the spec's environment tells the service, as ``serve --gpu-memory-utilization``."""
    text = spec.environment.get(UTILIZATION)
    if text is None:
        return USABLE
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UsageError(f"environment: {UTILIZATION} {text!r} is no number above 0, at most 1")
    return share


def _fit(
    architecture: Architecture,
    dtype: str,
    quantization: Quantization | None,
    context: int,
    concurrency: int,
    devices: int = 1,
) -> memory.Fit:
    """The arithmetic that the service itself does before it loads."""
    return memory.plan(
        architecture,
        dtype,
        quantization,
        context,
        concurrency,
        None,
        step_tokens=min(GPU_STEP_TOKENS, context),
        devices=devices,
        overhead=memory.PROCESS,
    )


def usable_bytes(offer: Offer, utilization: float = USABLE) -> int:
    """What a replica may use on a machine of this type, over all its accelerators."""
    if offer.accelerators == 0:
        return int(offer.memory_bytes * USABLE_HOST)
    return int(offer.memory_bytes * offer.accelerators * utilization)


def fits(offer: Offer, need: Need) -> bool:
    """Whether a replica fits: every accelerator holds its share and a process of its own."""
    devices = max(1, offer.accelerators)
    if need.architecture.n_heads % devices:
        return False
    return need.share(devices).total_bytes * devices <= usable_bytes(offer, need.utilization)


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
    matches = [offer for offer in offers if offer.instance == instance]
    if matches:
        return matches
    names = ", ".join(offer.instance for offer in cheapest_first(offers)[:8]) or "none"
    raise NotEnoughError(
        f"the instance {instance!r} is not offered for this deployment; offered are: {names}",
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
    room = usable_bytes(largest, need.utilization)
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
    kinds: tuple[Quantization, ...] = ("int8", "int4")
    for kind in kinds:
        smaller = dataclasses.replace(need, quantization=kind).share(1)
        if need.quantization is None and smaller.total_bytes <= room:
            cures.append(f"quantization {kind}")
            break
    return f"would fit: {', or '.join(cures)}" if cures else "choose a larger machine or model"
