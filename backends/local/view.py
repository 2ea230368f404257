"""A view of a local deployment: what is wanted, and what the supervisor says of it."""

from __future__ import annotations

from dataclasses import asdict

from llama_hub.backends.local.documents import DesiredState, Revision, SupervisorState
from llama_hub.deploy.backend import (
    TAG_DEPLOYMENT,
    TAG_MANIFEST,
    TAG_MODEL,
    TAG_SPEC,
    Deployed,
    Observed,
    Resource,
    Status,
)

DAMAGED = "damaged"  # state of a service of which nobody can tell any more what was wanted


def observed(name: str, desired: DesiredState, state: SupervisorState | None) -> Observed:
    """The address and the revisions."""
    if desired.deleted:
        return Observed((Resource("service", name, "deleting"),))
    service = Resource(
        "service",
        name,
        "running" if state and state.address else "down",
        desired.tags,
        {
            "host": desired.host,
            "port": desired.port,
            "api_key": desired.api_key,
            "active": desired.active,
            "previous": desired.previous,
        },
    )
    revisions = [
        Resource(
            "revision",
            f"{name}-{generation}",
            revision_state(revision, generation, state),
            revision.tags,
            {key: one for key, one in asdict(revision).items() if key not in ("tags", "attempt")},
        )
        for generation, revision in desired.revisions.items()
    ]
    return Observed((service, *revisions))


def revision_state(revision: Revision, generation: str, state: SupervisorState | None) -> str:
    """In one word: ready, starting, waiting, failed, down (no supervisor) or stopped."""
    if not revision.run:
        return "stopped"
    if state is None:
        return "down"
    words = [one.state for one in state.of(generation)]
    for word in ("failed", "waiting", "starting"):
        if word in words:
            return word
    return "ready" if len(words) == revision.replicas else "starting"


def deployed(name: str, desired: DesiredState, state: SupervisorState | None) -> Deployed:
    """What ``ps`` and ``status`` show."""
    active = desired.revisions.get(desired.active)
    mine = state.of(desired.active) if state else []
    troubles = {one.error for one in mine} | {state.trouble if state else ""}
    return Deployed(
        name=name,
        backend="local",
        status=_status(desired, state),
        url=_url(*state.address) if state and state.address else None,
        manifest=desired.tags.get(TAG_MANIFEST),
        model=desired.tags.get(TAG_MODEL),
        created=desired.created or None,
        generation=desired.active or desired.tags.get(TAG_SPEC),
        detail="; ".join(sorted(troubles - {""})),
        tags=desired.tags,
        instance=active.instance if active else None,
        replicas=sum(1 for one in mine if one.state == "ready"),
    )


def damaged(name: str) -> Deployed:
    """What they show where what was wanted cannot be read any more; nothing of it runs."""
    return Deployed(
        name=name,
        backend="local",
        status="stopped",
        url=None,
        manifest=None,
        model=None,
        created=None,
        generation=None,
        detail="what was wanted cannot be read any more: deploy it again, or delete it",
        tags={TAG_DEPLOYMENT: name},
    )


def _status(desired: DesiredState, state: SupervisorState | None) -> Status:
    if desired.deleted:
        return "deleting"
    if state is None:
        return "stopped"
    if desired.active and state.serving == desired.active:
        return "ready"
    words = {one.state for one in state.children}
    if "failed" in words or "waiting" in words:
        return "failed"
    return "updating" if state.serving else "pending"


def _url(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
