"""An endpoint as ``ps`` and ``status`` show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_hub.backends.huggingface import machines
from llama_hub.deploy.backend import TAG_MANIFEST, TAG_MODEL, TAG_SPEC, Deployed, Resource, Status

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


def deployed(found: Resource, hardware: Mapping[str, Any]) -> Deployed:
    """``hardware``: the live list of machines with their prices."""
    body, status = found.body, found.body["status"]
    compute = body["compute"]
    replicas = status.get("readyReplica")
    count = replicas if replicas is not None else compute["scaling"]["minReplica"]
    vendor = str((body.get("provider") or {}).get("vendor", ""))
    price = machines.price(hardware, compute, vendor)
    asleep = found.state == "scaledToZero"
    return Deployed(
        name=found.name,
        backend="huggingface",
        status=STATES.get(found.state, "pending"),
        url=status.get("url"),
        manifest=found.tags.get(TAG_MANIFEST),
        model=found.tags.get(TAG_MODEL),
        created=status.get("createdAt"),
        cost_per_hour=None if price is None else price * (0 if asleep else count),
        generation=found.tags.get(TAG_SPEC),
        detail=_detail(found),
        tags=dict(found.tags),
        instance=f"{compute['instanceType']}-{compute['instanceSize']}",
        replicas=count,
    )


def _detail(found: Resource) -> str:
    if found.state == "scaledToZero":
        return "scaled to zero; the first request wakes it"
    return str(found.body["status"].get("message") or "") if found.state in FAILED else ""
