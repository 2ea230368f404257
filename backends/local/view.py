"""What a local deployment is at the moment, from what is wanted and what the supervisor says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_hub.deploy.backend import TAG_MANIFEST, TAG_MODEL, TAG_SPEC, Deployed, Status


def children(state: Mapping[str, Any], generation: str) -> list[Mapping[str, Any]]:
    return [one for one in state.get("children", ()) if one["generation"] == generation]


def revision_state(revision: Mapping[str, Any], generation: str, state: Mapping[str, Any]) -> str:
    """In one word: ready, starting, waiting, failed, down (no supervisor) or stopped."""
    if not revision["run"]:
        return "stopped"
    if not state:
        return "down"
    words = [one["state"] for one in children(state, generation)]
    for word in ("failed", "waiting", "starting"):
        if word in words:
            return word
    return "ready" if len(words) == revision["replicas"] else "starting"


def deployed(name: str, desired: Mapping[str, Any], state: Mapping[str, Any]) -> Deployed:
    active = desired["revisions"].get(desired["active"], {})
    tags = dict(desired["tags"])
    address = state.get("address")
    mine = children(state, desired["active"])
    return Deployed(
        name=name,
        backend="local",
        status=_status(desired, state),
        url=_url(*address) if address else None,
        manifest=tags.get(TAG_MANIFEST),
        model=tags.get(TAG_MODEL),
        created=desired["created"],
        generation=desired["active"] or tags.get(TAG_SPEC),
        detail="; ".join(sorted({one["error"] for one in mine if one["error"]})),
        tags=tags,
        instance=active.get("instance"),
        replicas=sum(1 for one in mine if one["state"] == "ready"),
    )


def _status(desired: Mapping[str, Any], state: Mapping[str, Any]) -> Status:
    if desired.get("deleted"):
        return "deleting"
    if not state:
        return "stopped"
    active = desired["active"]
    if active and state["serving"] == active:
        return "ready"
    words = {one["state"] for one in state["children"]}
    if "failed" in words or "waiting" in words:
        return "failed"
    return "updating" if state["serving"] else "pending"


def _url(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
