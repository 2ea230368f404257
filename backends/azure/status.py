"""An endpoint and its deployments as ``ps`` and ``status`` show them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llama_hub.deploy.backend import (
    TAG_DEPLOYMENT,
    TAG_MANIFEST,
    TAG_MODEL,
    TAG_SPEC,
    Deployed,
    Resource,
    Status,
)
from llama_hub.deploy.status import hours_since


def deployed(
    endpoint: Resource, deployments: Sequence[Resource], price: Callable[[str], float | None]
) -> Deployed:
    """``price``: US dollars per hour of a machine type."""
    live = _live(endpoint, deployments)
    tags = live.tags if live else endpoint.tags
    status, detail = _status(endpoint, deployments, live)
    return Deployed(
        name=endpoint.tags[TAG_DEPLOYMENT],
        backend="azure",
        status=status,
        url=endpoint.body["properties"].get("scoringUri"),
        manifest=tags.get(TAG_MANIFEST),
        model=tags.get(TAG_MODEL),
        created=str(endpoint.body.get("createdAt", "")) or None,
        cost_per_hour=_cost(deployments, price),
        cost_so_far=_so_far(deployments, price),
        generation=tags.get(TAG_SPEC),
        detail=detail,
        tags=tags,
        instance=live.body["properties"].get("instanceType") if live else None,
        replicas=_capacity(live) if live else None,
    )


def _live(endpoint: Resource, deployments: Sequence[Resource]) -> Resource | None:
    """The deployment with the most traffic; without traffic, the newest."""
    traffic = endpoint.body["properties"].get("traffic") or {}
    return max(
        deployments,
        key=lambda one: (
            traffic.get(one.name.partition("/")[2], 0),
            str(one.body.get("createdAt", "")),
        ),
        default=None,
    )


def _status(
    endpoint: Resource, deployments: Sequence[Resource], live: Resource | None
) -> tuple[Status, str]:
    states = {one.name.partition("/")[2]: one.state for one in deployments}
    traffic = {
        name: share
        for name, share in (endpoint.body["properties"].get("traffic") or {}).items()
        if share
    }
    told = ", ".join(f"{name} {state} {traffic.get(name, 0)} %" for name, state in states.items())
    if endpoint.state == "Deleting":
        return "deleting", told
    if endpoint.state == "Failed" or (live is not None and live.state == "Failed"):
        return "failed", told or "the endpoint failed"
    if live is None or not traffic:
        return "pending", told or "it has no deployment yet"
    moving = [one.state for one in (endpoint, *deployments) if one.state != "Succeeded"]
    if live.state == "Succeeded" and not moving and len(traffic) == 1:
        return "ready", told
    return "updating", told


def _capacity(found: Resource) -> int:
    return int((found.body.get("sku") or {}).get("capacity", 0))


def _so_far(deployments: Sequence[Resource], price: Callable[[str], float | None]) -> float | None:
    """Each deployment since it was made, as if it had always had its present instances."""
    total = 0.0
    for found in deployments:
        hours = hours_since(str(found.body.get("createdAt", "")))
        each = price(str(found.body["properties"].get("instanceType", "")))
        if each is None or hours is None:
            return None
        total += each * _capacity(found) * hours
    return round(total, 2)


def _cost(deployments: Sequence[Resource], price: Callable[[str], float | None]) -> float | None:
    """All instances of all deployments, failed ones too: they bill."""
    total = 0.0
    for found in deployments:
        each = price(str(found.body["properties"].get("instanceType", "")))
        if each is None:
            return None
        total += each * _capacity(found)
    return round(total, 4)
