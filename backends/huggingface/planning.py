"""From what is wanted and what is there to steps; pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_hub.backends.huggingface import bodies
from llama_hub.backends.huggingface.options import Options
from llama_hub.deploy.backend import TAG_MANIFEST, Observed, Step, Target

REMINDER = {
    "authenticated": "any Hugging Face account may call it",
    "public": "anyone on the internet may call it",
}


def steps(
    target: Target, observed: Observed, options: Options, namespace: str, extra: str
) -> list[Step]:
    """Upload (unless a gated repository is served), endpoint, repositories no longer used."""
    if options.gated_repository:
        weights = bodies.Weights(options.gated_repository, _revision(target, options))
        return [_endpoint(target, observed, options, weights, ())]
    upload = _repository(target, observed, options, namespace, extra)
    weights = bodies.Weights(upload.name, bodies.BRANCH)
    endpoint = _endpoint(target, observed, options, weights, (upload.id,))
    return [upload, endpoint, *_unused(target, observed, upload.name, endpoint.id)]


def _revision(target: Target, options: Options) -> str:
    return options.revision or str(target.artifact.manifest.source.get("commit") or "main")


def _repository(
    target: Target, observed: Observed, options: Options, namespace: str, extra: str
) -> Step:
    manifest = target.artifact.manifest
    name = f"{namespace}/{bodies.repository_name(target.spec.name, manifest.digest)}"
    there = observed.find("repository", name)
    marker = bodies.marker(target, "ready", options, extra)
    body = {"private": True, "marker": marker}
    whole = there is not None and there.state == "ready" and there.body.get("extra") == extra
    same = whole and there is not None and dict(there.tags) == marker["tags"]
    if same and there is not None and there.body.get("keep") == options.keep_repository:
        return Step("noop", "repository", name, "uploaded already", body, undo=False)
    why = "not uploaded yet" if there is None else "not complete" if not whole else "tags differ"
    return Step(
        "create" if there is None else "update",
        "repository",
        name,
        why,
        body,
        undo=False,
        long=True,
        note="" if whole else f"{manifest.bytes} bytes to send, to a private repository",
    )


def _endpoint(
    target: Target,
    observed: Observed,
    options: Options,
    weights: bodies.Weights,
    after: tuple[str, ...],
) -> Step:
    body = bodies.endpoint_body(target, options, weights)
    name, there = target.spec.name, observed.find("endpoint", target.spec.name)
    note = _note(target)
    if there is None:
        why = "there is none"
        return Step("create", "endpoint", name, why, body, after, long=True, note=note)
    parts = bodies.differences(body, there.body)
    if bodies.must_replace(parts, body, there.body):
        why = f"{', '.join(parts)} cannot be changed in place"
        note = f"{note}; requests fail until the new one is ready".removeprefix("; ")
        return Step(
            "replace", "endpoint", name, why, body, after, reversible=False, long=True, note=note
        )
    if there.state in ("failed", "updateFailed", "paused"):
        why = f"it is {there.state}"
        return Step("update", "endpoint", name, why, body, after, long=True, note=note)
    if parts:
        why = f"{', '.join(parts)} differ"
        return Step("update", "endpoint", name, why, body, after, long=True, note=note)
    if there.state not in ("running", "scaledToZero"):
        return Step("update", "endpoint", name, f"it is {there.state}", body, after, long=True)
    return Step("noop", "endpoint", name, "as wanted", body, after)


def _note(target: Target) -> str:
    who = REMINDER.get(target.spec.access)
    if who is None:
        return ""
    license = target.artifact.manifest.license
    return f"{who}: the licence {license} and its use policy then bind what you offer to them"


def _unused(target: Target, observed: Observed, kept: str, after: str) -> list[Step]:
    """Repositories of manifests that this deployment serves no more."""
    digest = target.artifact.manifest.digest
    return [
        release(one.name, bool(one.body.get("keep")), "no longer served", (after,))
        for one in observed.all("repository")
        if one.name != kept and one.tags.get(TAG_MANIFEST) != digest
    ]


def release(name: str, keep: bool, why: str, after: tuple[str, ...] = ()) -> Step:
    """Delete a repository, or only take the deployment's marker off it."""
    body: dict[str, Any] = {"keep": keep}
    note = "the private repository stays; only the marker goes" if keep else ""
    return Step(
        "delete", "repository", name, why, body, after, reversible=False, undo=False, note=note
    )


def deletions(observed: Observed) -> Sequence[Step]:
    """The endpoint first, because it bills; then the repositories."""
    found = [
        Step("delete", "endpoint", one.name, "asked for", reversible=False)
        for one in observed.all("endpoint")
    ]
    after = tuple(step.id for step in found)
    return found + [
        release(one.name, bool(one.body.get("keep")), "asked for", after)
        for one in observed.all("repository")
    ]
