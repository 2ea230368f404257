"""The steps that lead from what is there to what is wanted. Pure: nothing here calls anything.

A change of anything but scale and tags is a new deployment beside the old one: created without
traffic, tried by name, then given copies of live requests (mirror), then a share of them (canary),
then all; only then is the old one removed. The revision before stays registered, so that going
back needs no upload.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from llama_hub.backends.azure import bodies, images
from llama_hub.backends.azure.bodies import BODY_TAG, KEEP_PREVIOUS, KEEP_WEIGHTS, Workspace
from llama_hub.backends.azure.options import Options
from llama_hub.backends.azure.tags import OWN_TAGS
from llama_hub.backends.azure.values import agrees, holds, same
from llama_hub.deploy import reconcile
from llama_hub.deploy.backend import (
    TAG_DEPLOYMENT,
    TAG_MANIFEST,
    TAG_SPEC,
    Action,
    Observed,
    Resource,
    Step,
    Target,
)
from llama_hub.deploy.sizing import gib

SPEC_TAG = OWN_TAGS[TAG_SPEC]
SERVICE_VARIABLES = ("AZUREML_", "AML_", "MSI_")  # that the service injects
SMOKE = {"prompt": "Hello", "max_tokens": 1, "temperature": 0}  # base and chat models answer it


@dataclass(frozen=True)
class DesiredState:
    """Names and bodies of all that the target needs, in the light of what is there."""

    target: Target
    observed: Observed
    workspace: Workspace
    options: Options
    context: str  # digest of the build context; empty with a given image

    @property
    def endpoint(self) -> str:
        """The endpoint has the deployment's own name."""
        return self.target.spec.name

    @cached_property
    def model(self) -> str:
        """``name:version`` of the model."""
        return bodies.model_name(self.target)

    @cached_property
    def environment_body(self) -> dict[str, Any]:
        """Body of the environment."""
        return bodies.environment_body(self.target, self.workspace, self.options, self.context)

    @cached_property
    def environment(self) -> str:
        """``name:version`` of the environment."""
        return bodies.environment_name(self.target, self.environment_body)

    @cached_property
    def deployment_body(self) -> dict[str, Any]:
        """Body of the deployment."""
        return bodies.deployment_body(
            self.target, self.workspace, self.options, self.model, self.environment
        )

    @cached_property
    def traffic(self) -> dict[str, int]:
        """Percent by deployment, as the endpoint has it now."""
        found = self.observed.find("endpoint")
        shares = found.body.get("properties", {}).get("traffic") if found else None
        return {name: share for name, share in (shares or {}).items() if share}

    @cached_property
    def live(self) -> str | None:
        """The deployment that answers most requests now."""
        return max(self.traffic, key=lambda name: self.traffic[name], default=None)

    @cached_property
    def revision(self) -> str:
        """Name of the deployment within the endpoint: the live one's if that may stay."""
        found = self._deployment(self.live)
        if self.live is not None and found is not None:
            old, new = found.body["properties"], self.deployment_body["properties"]
            if runs(self.deployment_body, found.body) or (
                self.options.strategy == "in-place"
                and holds(new["instanceType"], old["instanceType"])
            ):
                return self.live
        return bodies.revision(self.deployment_body)

    @property
    def is_live(self) -> bool:
        """Whether the wanted revision answers every request already."""
        return self.traffic == {self.revision: 100}

    @property
    def deployment(self) -> str:
        """``endpoint/deployment``."""
        return f"{self.endpoint}/{self.revision}"

    def _deployment(self, name: str | None) -> Resource | None:
        return self.observed.find("deployment", f"{self.endpoint}/{name}") if name else None

    def kept(self, kind: str, wanted: str, of_live: str | None) -> set[str]:
        """Names that stay: the wanted one, and the one before it (the live one's, else newest)."""
        others = [found for found in self.observed.all(kind) if found.name != wanted]
        if of_live not in (None, wanted):
            return {wanted, str(of_live)}
        newest = max(others, key=lambda found: str(found.body.get("createdAt", "")), default=None)
        return {wanted} | ({newest.name} if newest else set())

    def of_live(self, key: str) -> str | None:
        """``name:version`` of what the live deployment refers to under ``key``."""
        found = self._deployment(self.live)
        id_ = str(found.body.get("properties", {}).get(key, "")) if found else ""
        parts = id_.split("/")
        return f"{parts[-3]}:{parts[-1]}" if len(parts) > 3 else None


def runs(body: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether a deployment's properties are those of ``body``.

    The service adds variables of its own, respells, and leaves out what is empty or a default. One
    that was asked for in these very words (its tag says so) only has to contradict nothing.
    """
    wanted, shown = body["properties"], found.get("properties", {})
    tags = found.get("tags") or {}
    compare = agrees if tags.get(BODY_TAG) == bodies.digest(body) else holds
    if not compare(wanted, shown):
        return False
    variables, given = wanted["environmentVariables"], shown.get("environmentVariables") or {}
    if not holds(variables, given):
        return False
    if tags.get(SPEC_TAG) == body["tags"][SPEC_TAG]:
        return True
    return all(name.startswith(SERVICE_VARIABLES) for name in set(given) - set(variables))


def is_as_wanted(body: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether an endpoint is, its traffic apart."""
    moving = ("traffic", "mirrorTraffic")
    inner = {key: value for key, value in body["properties"].items() if key not in moving}
    tags = found.get("tags") or {}
    return (
        holds(body["tags"], tags)
        and (KEEP_PREVIOUS in tags) == (KEEP_PREVIOUS in body["tags"])  # of no other tag of ours
        and agrees(body["identity"], found.get("identity"))
        and agrees(inner, found.get("properties", {}))
    )


def steps(desired: DesiredState) -> list[Step]:
    """All steps, noop included, in order."""
    made = [
        _endpoint(desired),  # first, because only asking for it shows whether its name is free
        _weights(desired),
        _model(desired),
        _environment(desired),
        _deployment(desired),
    ]
    made += [*_autoscale(desired), *_rollout(desired)]
    return made + list(_removals(desired, made[-1].id))


def _weights(desired: DesiredState) -> Step:
    body = bodies.weights_body(desired.target, desired.workspace)
    name = bodies.weights_name(desired.target.artifact.manifest.digest)
    found = desired.observed.find("weights", name)
    if found is not None and found.state == "complete":
        return Step("noop", "weights", name, "every file is in storage", body)
    return Step(
        "create",
        "weights",
        name,
        "the files are not in storage yet" if found is None else "some files are not in storage",
        body,
        after=(f"endpoint/{desired.endpoint}",),
        undo=False,  # hours of upload; gc finds what nobody uses
        long=True,
        note=f"{gib(body['bytes'])} to send, less what is there already",
    )


def _model(desired: DesiredState) -> Step:
    body = bodies.model_body(desired.target, desired.workspace, desired.options)
    weights = f"weights/{desired.model.partition(':')[2]}"
    found = desired.observed.find("model", desired.model)
    uri = {"properties": {"modelUri": body["properties"]["modelUri"]}}
    if found is not None and holds(uri, found.body):
        return Step("noop", "model", desired.model, "registered", body, after=(weights,))
    return Step("create", "model", desired.model, "not registered yet", body, after=(weights,))


def _environment(desired: DesiredState) -> Step:
    body, name = desired.environment_body, desired.environment
    if desired.observed.find("environment", name) is not None:
        return Step("noop", "environment", name, "registered", body)
    return Step("create", "environment", name, "not registered yet", body, note=_way(desired))


def _way(desired: DesiredState) -> str:
    """How it runs, and what that way can prove."""
    options = desired.options
    if options.run == "vllm":
        return (
            f"vLLM on {options.image or images.VLLM_IMAGE}, built when it is first used; it cannot "
            "state which manifest it serves, so attest goes by the digests in storage"
        )
    return "" if options.image else "Azure ML builds the image when it is first used"


def _endpoint(desired: DesiredState) -> Step:
    found = desired.observed.find("endpoint")
    body = _routed(desired, desired.traffic)
    if found is None:
        return Step("create", "endpoint", desired.endpoint, "there is none", body, long=True)
    if found.state != "Succeeded":
        why = f"it is {found.state}"
        return Step("update", "endpoint", desired.endpoint, why, body, long=True)
    if is_as_wanted(body, found.body):
        return Step("noop", "endpoint", desired.endpoint, "as wanted", body)
    if not desired.is_live:  # so that a revision that is no good has changed nothing
        return Step("noop", "endpoint", desired.endpoint, "changes when the traffic does", body)
    return Step("update", "endpoint", desired.endpoint, "settings or tags differ", body, long=True)


def _deployment(desired: DesiredState) -> Step:
    after = (
        f"model/{desired.model}",
        f"environment/{desired.environment}",
        f"endpoint/{desired.endpoint}",
    )
    action, why, body = _deployment_change(desired)
    live = desired.live is not None and desired.live != desired.revision
    note = "runs beside the old one until that is removed: both are billed" if live else ""
    return Step(
        action,
        "deployment",
        desired.deployment,
        why,
        body,
        after=after,
        long=action != "noop",
        note=note if action in ("create", "replace") else "",
    )


def _deployment_change(desired: DesiredState) -> tuple[Action, str, Mapping[str, Any]]:
    body = desired.deployment_body
    found = desired.observed.find("deployment", desired.deployment)
    if found is None:
        return "create", _why_new(desired), body
    if found.state in ("Failed", "Canceled"):
        return "replace", f"it is {found.state}", body
    if found.state != "Succeeded":
        return "create", f"it is {found.state}", body
    if not runs(body, found.body):
        return "update", "its settings differ", body
    return _scale_change(desired, found)


def _why_new(desired: DesiredState) -> str:
    found = desired.observed.find("deployment", f"{desired.endpoint}/{desired.live}")
    if found is None:
        return "there is none"
    old, new = found.body.get("properties", {}), desired.deployment_body["properties"]
    changed = reconcile.differences(new, old, same)
    if "instanceType" in changed:
        return f"another machine type cannot be given to {desired.live}"
    return f"replaces {desired.live}, which differs in {', '.join(sorted(changed)) or 'variables'}"


def _scale_change(desired: DesiredState, found: Resource) -> tuple[Action, str, Mapping[str, Any]]:
    """Scale and tags are the two things that change in place without a new revision."""
    body, spec = desired.deployment_body, desired.target.spec
    capacity = int((found.body.get("sku") or {}).get("capacity", 0))
    wanted = capacity if spec.replicas_min <= capacity <= spec.replicas_max else spec.replicas_min
    patch = {"sku": body["sku"] | {"capacity": wanted}, "tags": body["tags"]}
    if capacity != wanted:
        return "update", f"{capacity} instances, {wanted} wanted", patch
    if not holds(body["tags"], found.body.get("tags")):
        return "update", "tags differ", patch
    return "noop", "as wanted", body


def _autoscale(desired: DesiredState) -> Iterator[Step]:
    if desired.target.spec.replicas_min == desired.target.spec.replicas_max:
        return
    name = bodies.autoscale_name(desired.deployment)
    body = bodies.autoscale_body(
        desired.target, desired.workspace, desired.options, desired.deployment
    )
    found, after = desired.observed.find("autoscale", name), (f"deployment/{desired.deployment}",)
    differing = reconcile.differences(body, found.body, same) if found else ()
    yield reconcile.reconciled("autoscale", name, body, found, differing, after=after)


def _rollout(desired: DesiredState) -> list[Step]:
    """From 0 % to 100 %: smoke, mirror, canary, traffic; only the last one if that holds."""
    body = _routed(desired, {desired.revision: 100})
    end = f"deployment/{desired.deployment}"
    if desired.is_live:
        why = "every request goes to it"
        return [Step("noop", "traffic", desired.endpoint, why, body, after=(end,))]
    chain = [_smoke(desired, end)]
    if desired.live is not None and desired.live != desired.revision:
        chain += _gradual(desired, chain[-1].id)
    chain.append(
        Step(
            "update",
            "traffic",
            desired.endpoint,
            f"{desired.revision} answers every request",
            body,
            after=(chain[-1].id,),
        )
    )
    return chain


def _smoke(desired: DesiredState, after: str) -> Step:
    body = _question(desired)
    why = "it must answer by name before it gets traffic"
    return Step("create", "smoke", desired.deployment, why, body, after=(after,), undo=False)


def _question(desired: DesiredState) -> dict[str, Any]:
    """A short completion, sent to the new revision's own route."""
    path = images.CONTRACTS[desired.options.run].scoring
    return {"deployment": desired.revision, "path": path, "request": SMOKE}


def _gradual(desired: DesiredState, after: str) -> Iterator[Step]:
    """Mirror and canary, where the options ask for them; the endpoint is otherwise left alone."""
    options, found = desired.options, desired.observed.find("endpoint")
    assert found is not None, "there is traffic, so there is an endpoint"
    smoke = _question(desired)
    back = bodies.routed_again(found.body, desired.traffic)
    look = {"soak": options.soak, "smoke": smoke, "back": back}
    if options.mirror:
        mirror = {desired.revision: options.mirror}
        body = look | {"put": bodies.routed_again(found.body, desired.traffic, mirror)}
        why = f"{options.mirror} % of live requests are copied to it"
        yield Step("create", "mirror", desired.deployment, why, body, after=(after,), undo=False)
        after = f"mirror/{desired.deployment}"
    if options.canary:
        shares = {str(desired.live): 100 - options.canary, desired.revision: options.canary}
        body = look | {"put": bodies.routed_again(found.body, shares)}
        why = f"{options.canary} % of live requests are answered by it"
        yield Step("create", "canary", desired.deployment, why, body, after=(after,), undo=False)


def _routed(desired: DesiredState, traffic: Mapping[str, int]) -> dict[str, Any]:
    """The endpoint as wanted; traffic only to what is there or will be."""
    there = {found.name.partition("/")[2] for found in desired.observed.all("deployment")}
    known = {name: share for name, share in traffic.items() if name in there | {desired.revision}}
    return bodies.endpoint_body(desired.target, desired.workspace, desired.options, known)


def _removals(desired: DesiredState, after: str) -> Iterator[Step]:
    """What no revision needs any more, only after the traffic has gone."""
    deployments = {desired.deployment}
    if desired.options.keep_previous:
        live = f"{desired.endpoint}/{desired.live}" if desired.live else None
        deployments = desired.kept("deployment", desired.deployment, live)
    wanted = bodies.autoscale_name(desired.deployment)
    scaled = desired.target.spec.replicas_min < desired.target.spec.replicas_max
    for found in desired.observed.all("autoscale"):
        if found.name != wanted or not scaled:
            yield _delete(found, "its deployment goes, or no longer scales", after)
    for found in desired.observed.all("deployment"):
        if found.name not in deployments and found.tags.get(TAG_DEPLOYMENT) == desired.endpoint:
            yield _delete(found, "a newer revision answers its requests", after)
    for kind, name, key in (
        ("model", desired.model, "model"),
        ("environment", desired.environment, "environmentId"),
    ):
        kept = desired.kept(kind, name, desired.of_live(key))
        for found in desired.observed.all(kind):
            if found.name not in kept:
                yield _delete(found, "older than the revision before", after)
    yield from _weights_removals(desired, after)


def _weights_removals(desired: DesiredState, after: str) -> Iterator[Step]:
    models = desired.kept("model", desired.model, desired.of_live("model"))
    versions = {name.partition(":")[2] for name in models}
    for found in desired.observed.all("weights"):
        if found.name not in versions:
            yield _delete(found, "no registered model uses them", after)


def _delete(found: Resource, why: str, after: str) -> Step:
    return Step("delete", found.kind, found.name, why, after=(after,), reversible=False, long=True)


DELETE_ORDER = ("autoscale", "endpoint", "deployment", "model", "environment", "weights", "context")


def deletions(observed: Observed) -> list[Step]:
    """Steps that remove all of ``observed``: what bills first, then what it refers to."""
    endpoints = {found.name for found in observed.all("endpoint")}
    kept = {
        bodies.weights_name(found.tags.get(TAG_MANIFEST, ""))
        for found in observed.all("model")
        if KEEP_WEIGHTS in found.tags
    }
    removed = [
        found
        for found in observed.resources
        # A deployment goes with its endpoint.
        if not (found.kind == "deployment" and found.name.partition("/")[0] in endpoints)
        and not (found.kind == "weights" and found.name in kept)
    ]
    steps = reconcile.deletions(
        removed, DELETE_ORDER, why=_why_removed, reversible=False, long=True
    )
    note = "; ".join([*_taken_along(observed), *_not_seen(observed)])
    return [replace(steps[0], note=note), *steps[1:]] if steps and note else steps


def _taken_along(observed: Observed) -> Iterator[str]:
    """Deployments below our endpoint that somebody else has put there."""
    others = [
        found.name
        for found in observed.all("deployment")
        if TAG_DEPLOYMENT not in found.tags and found.state != "unknown"
    ]
    if others:
        yield f"not made by llama-hub and removed with it: {', '.join(others)}"


def _not_seen(observed: Observed) -> Iterator[str]:
    """What may be there and stays, because it could not be read."""
    kinds = [kind for kind in observed.unread if kind != "deployment"]
    if kinds:
        yield (
            f"what exists of {', '.join(kinds)} stays, for it may not be read; it costs "
            "nothing or storage only, and whoever may read it finds it with llama-hub gc"
        )


def needed(target: Target) -> tuple[str, ...]:
    """The kinds that a plan for ``target`` cannot do without."""
    spec = target.spec
    scales = spec.replicas_min < spec.replicas_max
    kinds = ("deployment", "model", "environment", "weights")
    return (*kinds, "autoscale") if scales else kinds


def _why_removed(found: Resource) -> str:
    return "with all its deployments" if found.kind == "endpoint" else "belongs to the deployment"
