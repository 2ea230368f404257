"""The status of a deployment in every cloud: before it has an endpoint, and what it has cost."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from llama_hub.deploy.backend import TAG_MANIFEST, TAG_MODEL, TAG_SPEC, Deployed, Resource


def unfinished(backend: str, name: str, resources: Sequence[Resource]) -> Deployed:
    """A deployment of which there are ``resources``, but no endpoint yet (or no longer)."""
    tags = resources[0].tags
    return Deployed(
        name=name,
        backend=backend,
        status="pending",
        url=None,
        manifest=tags.get(TAG_MANIFEST),
        model=tags.get(TAG_MODEL),
        created=None,
        cost_per_hour=0.0,
        generation=tags.get(TAG_SPEC),
        detail="there is no endpoint, only "
        + ", ".join(f"{resource.id} ({resource.state})" for resource in resources),
        tags=dict(tags),
    )


def cost_so_far(deployed: Deployed, now: datetime | None = None) -> float | None:
    """US dollars since it was made; where the backend says nothing, at its present price and size.

    ``None`` where price or age are unknown, and where it costs nothing now: what it cost before it
    was stopped or slept nobody has written down.
    """
    if deployed.cost_so_far is not None:
        return deployed.cost_so_far
    hours = hours_since(deployed.created or "", now)
    if hours is None or not deployed.cost_per_hour:
        return None
    return round(hours * deployed.cost_per_hour, 2)


def hours_since(at: str, now: datetime | None = None) -> float | None:
    """Hours from a moment in ISO 8601 (UTC if it says nothing) to now; ``None`` if it is none."""
    try:
        begun = datetime.fromisoformat(at)
    except ValueError:
        return None
    begun = begun.replace(tzinfo=begun.tzinfo or UTC)
    return max(0.0, ((now or datetime.now(UTC)) - begun).total_seconds() / 3600)
