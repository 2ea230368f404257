"""An endpoint as ``ps`` and ``status`` show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_hub.backends.huggingface import machines
from llama_hub.deploy.backend import TAG_MANIFEST, TAG_MODEL, TAG_SPEC, Deployed, Resource, Status
from llama_hub.errors import ProvisioningError

STATES: Mapping[str, Status] = {
    "pending": "pending",
    "initializing": "pending",
    "updating": "updating",
    "updateFailed": "failed",
    "running": "ready",
    "scaledToZero": "ready",
    "paused": "stopped",
    "failed": "failed",
}
FAILED = ("failed", "updateFailed")
UP = ("running", "scaledToZero")
CLOSED = ("paused", "failed")  # has no address, or one that refuses
BILLED = ("pending", "initializing", "updating", "updateFailed", "running")  # support/pricing.md
SILENT = {"scaledToZero": "it sleeps, and is not woken for this", "paused": "it is paused"}


def deployed(found: Resource, hardware: Mapping[str, Any]) -> Deployed:
    """``hardware``: the live list of machines with their prices."""
    body, status = found.body, found.body["status"]
    compute = body["compute"]
    count = _replicas(status, compute) if found.state in BILLED else 0
    price = machines.price(hardware, compute, body.get("provider") or {})
    return Deployed(
        name=found.name,
        backend="huggingface",
        status=STATES.get(found.state, "pending"),
        url=status.get("url"),
        manifest=found.tags.get(TAG_MANIFEST),
        model=found.tags.get(TAG_MODEL),
        created=status.get("createdAt"),
        cost_per_hour=None if price is None else price * count,
        generation=found.tags.get(TAG_SPEC),
        detail=_detail(found),
        tags=dict(found.tags),
        instance=f"{compute['instanceType']}-{compute['instanceSize']}",
        replicas=count,
    )


def _replicas(status: Mapping[str, Any], compute: Mapping[str, Any]) -> int:
    """Replicas that bill: those that run and those that start."""
    told = [status.get(key) for key in ("readyReplica", "targetReplica")]
    known = [int(one) for one in told if one is not None]
    return max(known) if known else int(compute["scaling"]["minReplica"])


def no_address(found: Resource) -> ProvisioningError:
    """Why an endpoint cannot be asked in this state, and what changes that."""
    name, state = found.name, found.state
    said = str(found.body["status"].get("message") or "")
    hints = {
        "paused": "deploy it again, which resumes it; or llama-hub delete",
        "failed": f"llama-hub logs {name}; deploy it again, which makes it again",
        "updateFailed": f"llama-hub logs {name}; deploy it again",
    }
    return ProvisioningError(
        f"the endpoint {name} is {state} and has no address{f': {said}' if said else ''}",
        hint=hints.get(state, f"wait until it runs: llama-hub status {name}"),
    )


def _detail(found: Resource) -> str:
    if found.state == "scaledToZero":
        return "scaled to zero; the first request wakes it; it counts against the quota"
    return str(found.body["status"].get("message") or "") if found.state in FAILED else ""
