"""An endpoint as ``ps`` and ``status`` show it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from llama_hub.deploy.status import hours_since

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
    components: Sequence[Resource] | None,
    price: Callable[[str], float | None],
    url: str,
) -> Deployed:
    """``components`` newest first, ``None`` where they may not be read; ``price``: US dollars per
    hour of a machine type."""
    status, detail = _status(endpoint, components)
    created = _time(endpoint.body.get("CreationTime"))
    hourly, so_far = _costs(endpoint, price)
    return Deployed(
        name=endpoint.name,
        backend="sagemaker",
        status=status,
        url=url,
        manifest=endpoint.tags.get(TAG_MANIFEST),
        model=endpoint.tags.get(TAG_MODEL),
        created=created,
        cost_per_hour=hourly,
        cost_so_far=so_far,
        generation=endpoint.tags.get(TAG_SPEC),
        detail=detail,
        tags=endpoint.tags,
        instance=next(iter(types_of(endpoint.body["config"])), None),
        replicas=desired_count(endpoint),
    )


def is_settled(endpoint: Resource) -> bool:
    """Whether it serves, and nothing of it changes."""
    return endpoint.state == "InService"


def config_in_use(endpoint: Resource) -> str:
    """Name of the configuration that it serves."""
    return str(endpoint.body.get("EndpointConfigName", ""))


def _costs(
    endpoint: Resource, price: Callable[[str], float | None]
) -> tuple[float | None, float | None]:
    """US dollars per hour, of old and new machines while both run, and since it was made.

    The latter as if it had always had its present machines, and the new ones since they came.
    """
    pending = endpoint.body.get("PendingDeploymentSummary") or {}
    own, coming = _fleet_price(endpoint, price), _pending_price(endpoint, pending, price)
    if own is None or coming is None:
        return None, None
    age, since = (
        hours_since(str(one or "")) for one in (endpoint.body.get("CreationTime"), _start(pending))
    )
    so_far = None if age is None else round(own * age + coming * (since or 0.0), 2)
    return round(own + coming, 4), so_far


def _fleet_price(endpoint: Resource, price: Callable[[str], float | None]) -> float | None:
    """Of the machines that serve or start; one that failed may have some or none: not known."""
    config = endpoint.body["config"]
    variants = endpoint.body.get("ProductionVariants") or []
    count = sum(_instances(one) for one in variants)
    if not variants:
        if endpoint.state == "Failed":
            return None
        count = sum(
            int(one.get("InitialInstanceCount", 0)) for one in config.get("ProductionVariants", [])
        )
    types = types_of(config)
    each = price(types[0]) if types else None
    return None if each is None else each * count


def _pending_price(
    endpoint: Resource, pending: Mapping[str, Any], price: Callable[[str], float | None]
) -> float | None:
    """Of the machines of an update beside the old ones; their type where the service says it."""
    total = 0.0
    usual = next(iter(types_of(endpoint.body["config"])), "")
    for one in pending.get("ProductionVariants") or []:
        each = price(str(one.get("InstanceType") or usual))
        if each is None:
            return None
        total += each * _instances(one)
    return total


def _instances(variant: Mapping[str, Any]) -> int:
    """Those that run and those that are on their way: they bill from their start."""
    return max(int(variant.get(f"{word}InstanceCount") or 0) for word in ("Current", "Desired"))


def _start(pending: Mapping[str, Any]) -> Any:
    return pending.get("StartTime")


def _status(endpoint: Resource, components: Sequence[Resource] | None) -> tuple[Status, str]:
    known = STATES.get(endpoint.state, "pending")
    reason = str(endpoint.body.get("FailureReason", ""))
    if known != "ready" or has_model(endpoint):
        return known, reason
    if components is None:
        return "ready", "its inference components may not be read"
    if not components:
        return "pending", "it has no inference component yet"
    newest = components[0]
    copies = newest.body.get("RuntimeConfig", {}).get("CurrentCopyCount")
    told = f"{newest.name} {newest.state}, {copies} copies"
    if newest.state == "InService" and copies == 0:
        return "ready", f"{told}: asleep, the first request wakes it and fails"
    return STATES.get(newest.state, "pending"), told


def has_model(endpoint: Resource) -> bool:
    """Whether its variant runs a model itself, not in components; so where nothing is known."""
    variants = endpoint.body["config"].get("ProductionVariants") or [{"ModelName": ""}]
    return "ModelName" in variants[0]


def _time(value: Any) -> str | None:
    if not value:
        return None
    moment = datetime.fromisoformat(str(value)).astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
