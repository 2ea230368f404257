"""An endpoint as ``ps`` and ``status`` show it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from llama_hub.backends.sagemaker.planning import desired_count, types_of
from llama_hub.deploy.backend import (
    TAG_MANIFEST,
    TAG_MODEL,
    TAG_SPEC,
    Deployed,
    Resource,
    Status,
)

STATES: dict[str, Status] = {
    "Creating": "pending",
    "InService": "ready",
    "Updating": "updating",
    "SystemUpdating": "updating",
    "RollingBack": "updating",
    "Deleting": "deleting",
    "OutOfService": "stopped",
    "Failed": "failed",
    "UpdateRollbackFailed": "failed",
}
MOVING = {state for state, word in STATES.items() if word in ("pending", "updating", "deleting")}


def deployed(
    endpoint: Resource,
    components: Sequence[Resource],
    price: Callable[[str], float | None],
    url: str,
) -> Deployed:
    """``components`` newest first; ``price``: US dollars per hour of a machine type."""
    instance = types_of(endpoint.body["config"])[0]
    running = _running(endpoint)
    each = price(instance)
    status, detail = _status(endpoint, components)
    return Deployed(
        name=endpoint.name,
        backend="sagemaker",
        status=status,
        url=url,
        manifest=endpoint.tags.get(TAG_MANIFEST),
        model=endpoint.tags.get(TAG_MODEL),
        created=_time(endpoint.body.get("CreationTime")),
        cost_per_hour=None if each is None else round(each * running, 4),
        generation=endpoint.tags.get(TAG_SPEC),
        detail=detail,
        tags=endpoint.tags,
        instance=instance,
        replicas=desired_count(endpoint),
    )


def _running(endpoint: Resource) -> int:
    variants = endpoint.body.get("ProductionVariants") or []
    return sum(int(one.get("CurrentInstanceCount", 0)) for one in variants)


def _status(endpoint: Resource, components: Sequence[Resource]) -> tuple[Status, str]:
    known = STATES.get(endpoint.state, "pending")
    reason = str(endpoint.body.get("FailureReason", ""))
    if known != "ready" or _has_model(endpoint):
        return known, reason
    if not components:
        return "pending", "it has no inference component yet"
    newest = components[0]
    copies = newest.body.get("RuntimeConfig", {}).get("CurrentCopyCount")
    told = f"{newest.name} {newest.state}, {copies} copies"
    if newest.state == "InService" and copies == 0:
        return "ready", f"{told}: asleep, the first request wakes it and fails"
    return STATES.get(newest.state, "pending"), told


def _has_model(endpoint: Resource) -> bool:
    variants = endpoint.body["config"].get("ProductionVariants") or [{}]
    return "ModelName" in variants[0]


def _time(value: Any) -> str | None:
    if not value:
        return None
    moment = datetime.fromisoformat(str(value)).astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
