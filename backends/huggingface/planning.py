"""The steps that lead from what is there to what is wanted; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llama_hub.backends.huggingface import bodies
from llama_hub.backends.huggingface.options import Options
from llama_hub.deploy.backend import TAG_MANIFEST, Observed, Step, Target
from llama_hub.errors import UsageError

REMINDER = {
    "authenticated": "any Hugging Face account may call it",
    "public": "anyone on the internet may call it",
}


@dataclass(frozen=True)
class Wanted:
    """What a plan is made of; ``options.run`` is decided."""

    target: Target
    options: Options
    namespace: str
    extra: str  # digest of the files beside the weights
    why_run: str  # why that is what answers
    secrets: str  # digest of the values of secrets


def steps(wanted: Wanted, observed: Observed) -> list[Step]:
    """Upload (unless a gated repository is served), endpoint, repositories no longer used."""
    target, options = wanted.target, wanted.options
    if options.gated_repository:
        weights = bodies.Weights(options.gated_repository, _revision(target, options))
        return [_endpoint(wanted, observed, weights, ())]
    if "repository" in observed.unread:
        raise observed.unread["repository"]
    upload = _repository(target, observed, options, wanted.namespace, wanted.extra)
    there = observed.find("repository", upload.name)
    commit = str(there.body.get("commit")) if there and upload.action == "noop" else bodies.PENDING
    endpoint = _endpoint(wanted, observed, bodies.Weights(upload.name, commit), (upload.id,))
    return [upload, endpoint, *_unused(target, observed, upload.name, endpoint.id)]


def _revision(target: Target, options: Options) -> str:
    commit = options.revision or str(target.artifact.manifest.source.get("commit") or "")
    if not commit:
        raise UsageError(
            f"at which commit {options.gated_repository} holds this model is not known: it was "
            "not downloaded from there",
            hint="--set options.revision=<the 40 digits of the commit>",
        )
    return commit


def _repository(
    target: Target, observed: Observed, options: Options, namespace: str, extra: str
) -> Step:
    manifest = target.artifact.manifest
    name = f"{namespace}/{bodies.repository_name(target.spec.name, manifest.digest)}"
    there = observed.find("repository", name)
    marker = bodies.marker(target, "ready", options, extra)
    body = {"private": True, "marker": marker}
    whole = (
        there is not None
        and there.state == "ready"
        and there.body.get("extra") == extra
        and bool(there.body.get("commit"))
    )
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
    wanted: Wanted, observed: Observed, weights: bodies.Weights, after: tuple[str, ...]
) -> Step:
    target = wanted.target
    body = bodies.endpoint_body(target, wanted.options, weights, wanted.secrets)
    name, there = target.spec.name, observed.find("endpoint", target.spec.name)
    note = _note(wanted)
    known = {"long": True, "note": note}
    if there is None:
        return Step("create", "endpoint", name, "there is none", body, after, **known)  # type: ignore[arg-type]
    parts = bodies.differences(body, there.body)
    why = f"{', '.join(parts)} differ"
    if bodies.must_replace(parts, body, there.body) or there.state == "failed":
        if there.state == "failed":
            why = "it is failed, and a failed endpoint can only be made again"
        else:
            why = f"{', '.join(parts)} cannot be changed in place"
        known["note"] = f"{note}; requests fail until the new one is ready"
        return Step("replace", "endpoint", name, why, body, after, reversible=False, **known)  # type: ignore[arg-type]
    if there.state not in ("running", "scaledToZero"):
        return Step("update", "endpoint", name, f"it is {there.state}", body, after, **known)  # type: ignore[arg-type]
    if parts:
        return Step("update", "endpoint", name, why, body, after, **known)  # type: ignore[arg-type]
    return Step("noop", "endpoint", name, "as wanted", body, after, note=note)


PROVES = {
    "container": "attest asks it for its manifest and compares the Hub's digests",
    "handler": "attest asks it for its manifest and compares the Hub's digests; it cannot stream, "
    "and answers one request at a time",
    "vllm": "attest compares the Hub's digests at the served commit; vLLM states no manifest",
}


def _note(wanted: Wanted) -> str:
    """What answers and why, what can be proved of it, and what wide access means."""
    run = wanted.options.run
    told = f"run {run}: {wanted.why_run}; {PROVES[str(run)]}"
    who = REMINDER.get(wanted.target.spec.access)
    if who is None:
        return told
    license = wanted.target.artifact.manifest.license
    return (
        f"{told}; {who}: the licence {license} and its use policy then bind what you offer to them"
    )


def why_run(options: Options, accelerators: int) -> str:
    """Why ``options`` lead to what answers on a machine with so many accelerators."""
    if options.run is not None:
        return "as asked for"
    if options.gated_repository:
        return "a gated repository holds no manifest that our service could state"
    if options.image:
        return "an image is given"
    return "no image is given, on a GPU" if accelerators else "no image is given, on a CPU"


def _unused(target: Target, observed: Observed, kept: str, after: str) -> list[Step]:
    """Repositories of manifests that this deployment serves no more."""
    digest = target.artifact.manifest.digest
    return [
        release(one.name, bool(one.body.get("keep")), "no longer served", (after,))
        for one in observed.all("repository")
        if one.name != kept and one.tags.get(TAG_MANIFEST) != digest
    ]


def release(name: str, keep: bool, why: str, after: tuple[str, ...] = ()) -> Step:
    """Delete a repository, or only mark it as kept."""
    body: dict[str, Any] = {"keep": keep}
    if keep:
        note = "the private repository stays; llama-hub gc --kept removes it"
        return Step("update", "repository", name, why, body, after, undo=False, note=note)
    return Step("delete", "repository", name, why, body, after, reversible=False, undo=False)


def deletions(observed: Observed) -> Sequence[Step]:
    """The endpoint first, because it bills; then the repositories."""
    hidden = observed.unread.get("repository")
    note = f"its repository stays, it could not be looked for: {hidden.message}" if hidden else ""
    found = [
        Step("delete", "endpoint", one.name, "asked for", reversible=False, note=note)
        for one in observed.all("endpoint")
    ]
    after = tuple(step.id for step in found)
    return found + [
        release(one.name, bool(one.body.get("keep")), "asked for", after)
        for one in observed.all("repository")
    ]
