"""What a deployment is before it has an endpoint: the same words for every cloud."""

from __future__ import annotations

from collections.abc import Sequence

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
