"""A simulated backend: a real backend whose platform is a table in memory or in one file.

For tests, tutorials and the conformance suite's own check. It has what makes
clouds hard: an upload that outlives its deployment, revisions beside each
other, traffic that is switched, listings that lag, throttling, machines that do
not start. What it cannot prove is how any real platform behaves.

From the command line its platform is a file, so that one command sees what another
did; ``LLAMA_HUB_MEMORY_FAIL='revision/*'`` shows what a failure looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from llama_hub.backends.memory.platform import DO, Fault, Platform
from llama_hub.deploy.backend import (
    TAG_DEPLOYMENT,
    TAG_MANIFEST,
    TAG_MODEL,
    TAG_SPEC,
    Check,
    Context,
    Deployed,
    Endpoint,
    Observed,
    Proof,
    Resource,
    Status,
    Step,
    Target,
)
from llama_hub.deploy.offer import Offer
from llama_hub.deploy.sizing import Need, cheapest_first
from llama_hub.deploy.spec import DeploymentSpec
from llama_hub.errors import NotFoundError, ProvisioningError
from llama_hub.home import home
from llama_hub.hub.manifest import Manifest, read

GIB = 1 << 30
PRICES = "simulated, 2026-11-01"
OFFERS = (
    Offer("tiny-cpu", "here", 0, 8 * GIB, 0.05, PRICES, 8),
    Offer("one-gpu", "here", 1, 24 * GIB, 1.20, PRICES, 4),
    Offer("big-gpu", "here", 1, 80 * GIB, 4.10, PRICES, 2),
    Offer("eight-gpu", "here", 8, 80 * GIB, 32.80, PRICES, 1),
)

Answer = Callable[[Path, Mapping[str, Any], bool], Iterator[bytes]]


class MemoryBackend:
    """The backend ``memory``; give a ``Platform`` to look behind the scenes."""

    name = "memory"
    location: tuple[str, ...] = ("file", "fail")
    access: tuple[str, ...] = ("fail",)
    options_model = None

    def __init__(
        self,
        platform: Platform | None = None,
        *,
        file: str = "",
        fail: str = "",
        answer: Answer | None = None,
    ) -> None:
        """``fail``: pattern of what never comes up. ``answer``: instead of the real core."""
        path = Path(file) if file else home() / "deployments" / "memory.json"
        self.platform = platform or Platform(file=path)
        self._answer = answer
        if fail:
            refused = ProvisioningError("the simulated backend was told to fail here")
            self.platform.faults.append(Fault(f"create {fail}", refused, "after", times=1 << 30))

    def configured(self) -> bool:
        """Always; nothing is needed."""
        return True

    def place(self) -> Mapping[str, str | None]:
        """The file, where there is one."""
        file = self.platform.file
        return {"file": str(file.absolute()) if file else None}

    def check(self) -> Sequence[Check]:
        """One line: where the platform is kept."""
        where = str(self.platform.file or "this process's memory")
        return [Check("memory", True, f"the simulated backend is in {where}")]

    def offers(self, spec: DeploymentSpec, need: Need) -> Sequence[Offer]:
        """Four simulated machines."""
        self.platform.fail("offers", "before")
        return cheapest_first(OFFERS)

    def observe(self, name: str) -> Observed:
        """The deployment's records, but new ones only after ``lag`` observations."""
        self.platform.fail("observe", "before")
        with self.platform.open() as records:
            mine = [one for one in records.values() if one["tags"].get(TAG_DEPLOYMENT) == name]
            shown = [one for one in mine if one["hidden"] <= 0]
            for one in mine:
                one["hidden"] -= 1 if one["hidden"] > 0 else 0
            foreign = records.get(f"endpoint/{name}")
            others = [foreign] if foreign and foreign["tags"].get(TAG_DEPLOYMENT) != name else []
            return Observed(tuple(map(_resource, shown)), tuple(map(_resource, others)))

    def plan(self, target: Target, observed: Observed) -> Sequence[Step]:
        """Upload, endpoint, new revision, traffic to it, stop the old one, drop older ones."""
        wanted = _DesiredState(target)
        endpoint = observed.find("endpoint", target.spec.name)
        active = str(endpoint.body.get("active", "")) if endpoint else ""
        previous = active
        if endpoint and active == wanted.revision_name:
            previous = str(endpoint.body.get("previous", ""))
        steps = [wanted.model(observed), wanted.endpoint(observed), wanted.revision(observed)]
        steps.append(wanted.traffic(active, previous))
        steps += _retire(observed, wanted, previous)
        return steps

    def plan_delete(self, name: str, observed: Observed) -> Sequence[Step]:
        """Endpoint, revisions, uploads: what is used goes after what uses it."""
        kinds = ("endpoint", "revision", "model")
        resources = [one for kind in kinds for one in observed.all(kind)]
        ids = [one.id for one in resources]
        return [
            Step("delete", one.kind, one.name, "asked for", after=tuple(ids[:place]))
            for place, one in enumerate(resources)
        ]

    def plan_rollback(self, name: str, observed: Observed) -> Sequence[Step]:
        """Traffic back to the revision before, which is kept stopped.

        ``NotFoundError`` if there is none.
        """
        endpoint = observed.find("endpoint", name)
        previous = str(endpoint.body.get("previous", "")) if endpoint else ""
        old = observed.find("revision", previous) if previous else None
        if endpoint is None or old is None:
            raise NotFoundError(f"{name!r} has no earlier revision")
        active = str(endpoint.body["active"])
        start = Step("update", "revision", previous, "start it again", {"run": True}, long=True)
        body = {"active": previous, "previous": active, "tags": dict(old.tags)}
        switch = Step("update", "traffic", name, f"from {active}", body, after=(start.id,))
        stop = Step(
            "update", "revision", active, "kept stopped", {"run": False}, after=(switch.id,)
        )
        return [start, switch, stop]

    def execute(self, step: Step, context: Context) -> Mapping[str, Any]:
        """Do it in the table."""
        self.platform.fail(step.id, "before", step.action)
        self.platform.writes += 1
        with self.platform.open() as records:
            DO[step.kind](records, step, self.platform.lag)
        try:
            self.platform.fail(step.id, "after", step.action)
        except ProvisioningError:
            self._mark_failed(step)
            raise
        return {"resource": step.id}

    def _mark_failed(self, step: Step) -> None:
        with self.platform.open() as records:
            if step.id in records:
                records[step.id]["state"] = "failed"
                records[step.id]["log"].append("the process ended with exit code 1")

    def status(self, name: str) -> Deployed:
        """From endpoint and revisions; ``NotFoundError`` if there are none."""
        with self.platform.open() as records:
            resources = _of(records, name)
        if not resources:
            raise NotFoundError(f"there is no deployment {name!r} in memory", hint="llama-hub ps")
        return _deployed(name, resources)

    def list(self) -> Iterator[Deployed]:
        """Every deployment that has an endpoint or a revision."""
        self.platform.fail("list", "before")
        with self.platform.open() as records:
            names = {
                one["tags"].get(TAG_DEPLOYMENT)
                for one in records.values()
                if one["kind"] != "model"
            } - {None}
            deployments = [_deployed(name, _of(records, name)) for name in sorted(names)]
        yield from deployments

    def logs(self, name: str, *, tail: int = 100, follow: bool = False) -> Iterator[str]:
        """What each revision said, oldest first."""
        self.status(name)
        with self.platform.open() as records:
            lines = [
                f"{one['name']}: {line}"
                for one in _of(records, name)
                if one["kind"] == "revision"
                for line in one["log"]
            ]
        yield from lines[-tail:]

    def endpoint(self, name: str) -> Endpoint:
        """An address that only ``invoke`` can reach."""
        return Endpoint(str(self.status(name).url))

    def invoke(self, name: str, body: Mapping[str, Any], *, stream: bool) -> Iterator[bytes]:
        """Answered by the inference core in this process, from the uploaded folder.

        ``ProvisioningError`` if it does not run or its model was replaced.
        """
        active = self._active(name)
        if active["state"] != "running":
            raise ProvisioningError(f"{name!r} is {active['state']}, so it does not answer")
        folder = Path(active["body"]["folder"])
        if read(folder).digest != active["served"]:  # nothing was copied: it lies in the store
            raise ProvisioningError(
                f"the model of {name!r} was replaced by another since it was deployed",
                hint="deploy it again",
            )
        yield from (self._answer or _core())(folder, body, stream)

    def prove(self, name: str, manifest: Manifest) -> Sequence[Proof]:
        """What the simulated storage and the running revision state."""
        served = str(self._active(name)["served"])
        uploaded = [one for one in self.observe(name).all("model") if _states(one, manifest)]
        return [
            Proof("manifest", served == manifest.digest, served),
            Proof("upload", bool(uploaded), f"{len(uploaded)} upload(s) with this manifest"),
        ]

    def _active(self, name: str) -> dict[str, Any]:
        with self.platform.open() as records:
            endpoint = records.get(f"endpoint/{name}")
            active = records.get(f"revision/{endpoint['body']['active']}") if endpoint else None
        if active is None:
            raise NotFoundError(f"{name!r} has no revision that answers", hint="llama-hub ps")
        return active

    def orphans(self) -> Iterator[Resource]:
        """Uploads and revisions of deployments that have no endpoint."""
        with self.platform.open() as records:
            alive = {one["name"] for one in records.values() if one["kind"] == "endpoint"}
            left = [
                one
                for one in records.values()
                if one["tags"].get(TAG_DEPLOYMENT, one["name"]) not in alive
            ]
        yield from (_resource(one) for one in left)


def _core() -> Answer:
    """The inference core, imported when the first question comes."""
    from llama_hub.deploy.reference_core import answer

    return answer


class _DesiredState:
    """The steps for what a target needs, each create, update, replace or noop."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._spec = target.spec
        digest = target.artifact.manifest.digest.removeprefix("sha256:")
        self.model_name = f"{self._spec.name}-{digest[:10]}"
        self.revision_name = f"{self._spec.name}-{target.generation}"

    def model(self, observed: Observed) -> Step:
        """The upload; kept when a deployment fails, since the next try needs it."""
        size = self._target.artifact.manifest.bytes
        body = {"bytes": size, "tags": self._fixed_tags()}
        there = observed.find("model", self.model_name)
        return Step(
            action="noop" if there else "create",
            kind="model",
            name=self.model_name,
            why="uploaded already" if there else "not uploaded yet",
            body=body,
            undo=False,
            long=True,
            note=f"{size} bytes to send" if not there else "",
        )

    def endpoint(self, observed: Observed) -> Step:
        """The stable address."""
        body = {"access": self._spec.access, "tags": self._target.tags}
        there = observed.find("endpoint", self._spec.name)
        if there is None:
            return Step("create", "endpoint", self._spec.name, "there is none", body)
        same = there.body["access"] == self._spec.access and dict(there.tags) == self._target.tags
        new_revision = there.body.get("active") != self.revision_name
        if same or new_revision:  # the switch of traffic brings new tags along
            return Step("noop", "endpoint", self._spec.name, "as wanted", body)
        return Step("update", "endpoint", self._spec.name, "access or tags differ", body)

    def revision(self, observed: Observed) -> Step:
        """The machines that answer."""
        body = self._revision_body()
        after = (f"model/{self.model_name}", f"endpoint/{self._spec.name}")
        there = observed.find("revision", self.revision_name)
        make = dict(kind="revision", name=self.revision_name, body=body, after=after)
        if there is None:
            return Step(action="create", why="new revision", long=True, **make)  # type: ignore[arg-type]
        if there.state in ("failed", "unknown"):
            return Step(action="replace", why=f"it is {there.state}", long=True, **make)  # type: ignore[arg-type]
        differs = sorted(key for key in body if key != "tags" and there.body.get(key) != body[key])
        if dict(there.tags) != body["tags"]:
            differs.append("tags")
        if differs:
            why = f"{', '.join(differs)} differ"
            return Step(action="update", why=why, **make)  # type: ignore[arg-type]
        return Step(action="noop", why="as wanted", **make)  # type: ignore[arg-type]

    def traffic(self, active: str, previous: str) -> Step:
        """Which revision the address leads to."""
        body = {
            "active": self.revision_name,
            "previous": previous,
            "tags": self._target.tags,
            "access": self._spec.access,
        }
        after = (f"revision/{self.revision_name}",)
        if active == self.revision_name:
            return Step("noop", "traffic", self._spec.name, "goes there already", body, after)
        why = f"from {active}" if active else "first revision"
        action: Literal["create", "update"] = "update" if active else "create"
        return Step(action, "traffic", self._spec.name, why, body, after)

    def _revision_body(self) -> dict[str, Any]:
        spec = self._spec
        return {
            "model": self.model_name,
            "folder": str(self._target.artifact.folder),
            "instance": self._target.offer.instance,
            "price": self._target.offer.price_per_hour,
            "context": spec.context,
            "concurrency": spec.concurrency,
            "environment": dict(spec.environment),
            "replicas_min": spec.replicas_min,
            "replicas_max": spec.replicas_max,
            "run": True,
            "tags": self._target.tags,
        }

    def _fixed_tags(self) -> dict[str, str]:
        """An upload outlives revisions, so it carries no revision's tag."""
        return {key: value for key, value in self._target.tags.items() if key != TAG_SPEC}


def _retire(observed: Observed, wanted: _DesiredState, previous: str) -> list[Step]:
    """Stop the revision before; delete older ones and the uploads that only they used."""
    keep = {wanted.revision_name, previous}
    after = (f"traffic/{wanted._spec.name}",)
    steps = []
    for one in observed.all("revision"):
        if one.name not in keep:
            steps.append(Step("delete", "revision", one.name, "no longer needed", after=after))
        elif one.name != wanted.revision_name and one.body.get("run"):
            steps.append(
                Step("update", "revision", one.name, "kept for rollback", {"run": False}, after)
            )
    used = {one.body.get("model") for one in observed.all("revision") if one.name in keep}
    gone = tuple(step.id for step in steps if step.action == "delete")
    for upload in observed.all("model"):
        if upload.name not in used | {wanted.model_name}:
            steps.append(
                # Only data, and of nothing that runs: its loss does not stand in an undo's way.
                Step(
                    action="delete",
                    kind="model",
                    name=upload.name,
                    why="no revision uses it",
                    after=after + gone,
                    undo=False,
                )
            )
    return steps


def _resource(record: Mapping[str, Any]) -> Resource:
    return Resource(
        record["kind"], record["name"], record["state"], dict(record["tags"]), dict(record["body"])
    )


def _states(resource: Resource, manifest: Manifest) -> bool:
    return resource.tags.get(TAG_MANIFEST) == manifest.digest


def _of(records: Mapping[str, dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [one for one in records.values() if one["tags"].get(TAG_DEPLOYMENT) == name]


def _deployed(name: str, found: Sequence[Mapping[str, Any]]) -> Deployed:
    endpoint = next((one for one in found if one["kind"] == "endpoint"), None)
    revisions = {one["name"]: one for one in found if one["kind"] == "revision"}
    active = revisions.get(endpoint["body"].get("active")) if endpoint else None
    tags = endpoint["tags"] if endpoint else found[0]["tags"]
    running = [one for one in revisions.values() if one["state"] == "running"]
    return Deployed(
        name=name,
        backend="memory",
        status=_status(active, revisions.values()),
        url=f"memory://{name}" if endpoint else None,
        manifest=tags.get(TAG_MANIFEST),
        model=tags.get(TAG_MODEL),
        created=(endpoint or found[0])["created"],
        cost_per_hour=sum(one["body"]["price"] * one["body"]["replicas_min"] for one in running),
        generation=tags.get(TAG_SPEC) if active else None,
        tags=dict(tags),
        instance=active["body"]["instance"] if active else None,
        replicas=active["body"]["replicas_min"] if active else None,
    )


def _status(active: Mapping[str, Any] | None, revisions: Any) -> Status:
    if active is not None and active["state"] == "running":
        return "ready"
    if any(one["state"] == "failed" for one in revisions):
        return "failed"
    return "stopped" if active is not None else "pending"
