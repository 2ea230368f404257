"""What a place to run must be able to do, and the data that passes through it.

A backend is small: it says what it can (``check``, ``offers``), what is there
(``observe``, ``list``), what it would do (``plan``: pure, no writes), and does
one step at a time (``execute``: idempotent). Journal, ordering, retries,
rollback, licence and waiting live in ``llama_hub.deploy`` and are the same for
all. Capabilities that only some clouds have are further protocols, recognised
with ``isinstance``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from llama_hub.progress import NO_PROGRESS, Progress

if TYPE_CHECKING:
    from llama_hub.deploy.sizing import Need
    from llama_hub.deploy.spec import DeploymentSpec
    from llama_hub.hub.manifest import Manifest

Action = Literal["create", "update", "replace", "delete", "noop"]
Status = Literal["pending", "ready", "updating", "stopped", "failed", "deleting", "absent"]

TAG_DEPLOYMENT = "llama-hub:deployment"
TAG_MANIFEST = "llama-hub:manifest"
TAG_SPEC = "llama-hub:spec"
TAG_LICENSE = "llama-hub:license"


@dataclass(frozen=True)
class Check:
    """One line of ``doctor``: what was looked at, whether it is well, how to mend it."""

    name: str
    ok: bool
    detail: str
    hint: str = ""


@dataclass(frozen=True)
class Offer:
    """A machine type that could run the deployment."""

    instance: str
    region: str
    accelerators: int  # devices per instance; 0 for CPU
    memory_bytes: int  # per accelerator, or of the host where there is none
    price_per_hour: float | None  # US dollars for one instance; None where running costs nothing
    price_source: str = ""  # where the price comes from and of which date
    quota_left: int | None = None  # instances that the quota still allows; None if unknown
    note: str = ""


@dataclass(frozen=True)
class Artifact:
    """The served folder on this machine: canonical form, verified, licensed."""

    folder: Path
    manifest: Manifest
    receipt: str  # id in the ledger


@dataclass(frozen=True)
class Target:
    """Everything that ``plan`` may depend on, besides what is observed."""

    spec: DeploymentSpec
    artifact: Artifact
    need: Need  # memory arithmetic
    offer: Offer  # the chosen machine
    generation: str  # short digest of spec and manifest: names and tags a revision

    @property
    def tags(self) -> dict[str, str]:
        """The four tags that every resource carries; clouds with other syntax map the keys."""
        return {
            TAG_DEPLOYMENT: self.spec.name,
            TAG_MANIFEST: self.artifact.manifest.digest,
            TAG_SPEC: self.generation,
            TAG_LICENSE: f"{self.artifact.manifest.license}/{self.artifact.receipt}",
        }


@dataclass(frozen=True)
class Resource:
    """One thing that exists in the backend, as last read."""

    kind: str  # model, environment, endpoint, …: the backend's own words
    name: str
    state: str  # the backend's own word
    tags: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)  # what plan compares

    @property
    def id(self) -> str:
        """``kind/name``, unique within a backend."""
        return f"{self.kind}/{self.name}"


@dataclass(frozen=True)
class Observed:
    """All resources of one deployment; empty if there is none."""

    resources: tuple[Resource, ...] = ()

    def find(self, kind: str, name: str | None = None) -> Resource | None:
        """The first resource of a kind, or the one with the name."""
        for resource in self.resources:
            if resource.kind == kind and name in (None, resource.name):
                return resource
        return None

    def all(self, kind: str) -> tuple[Resource, ...]:
        """Every resource of a kind."""
        return tuple(found for found in self.resources if found.kind == kind)


@dataclass(frozen=True)
class Step:
    """One change (or the statement that none is needed), complete before anything is sent."""

    action: Action
    kind: str
    name: str
    why: str
    body: Mapping[str, Any] = field(default_factory=dict)  # JSON; exactly what will be asked for
    after: tuple[str, ...] = ()  # ids of steps that must be done first
    reversible: bool = True  # whether undoing it brings back what was there
    undo: bool = True  # whether a failed first deployment removes it again
    long: bool = False  # whether it uploads or waits for minutes

    @property
    def id(self) -> str:
        """``kind/name``: stable between planning and a later run."""
        return f"{self.kind}/{self.name}"


@dataclass(frozen=True)
class Deployed:
    """A deployment as ``ps`` and ``status`` show it."""

    name: str
    backend: str
    status: Status
    url: str | None
    manifest: str | None  # digest, from the tags
    model: str | None
    created: str | None  # UTC, ISO 8601
    cost_per_hour: float | None = None  # US dollars, all instances
    generation: str | None = None
    detail: str = ""  # why it failed, what it waits for
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Endpoint:
    """How to talk to a deployment with the service's own HTTP contract.

    ``chat_path`` takes OpenAI chat bodies; backends without free paths set ``invoke`` instead
    (see ``Invoker``). ``headers`` hold credentials: never logged, never written to a file.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Proof:
    """One line of ``attest``."""

    what: str
    ok: bool
    evidence: str


@dataclass
class Context:
    """What ``execute`` gets besides the step: where to tell progress, how long it may take."""

    target: Target | None  # None while deleting
    progress: Progress = NO_PROGRESS
    timeout: float = 3600.0  # seconds for one step
    wait: bool = True  # False: start it and return (--no-wait)


class Backend(Protocol):
    """The contract; ``llama_hub.deploy.conformance`` is its test."""

    name: str

    def check(self) -> Sequence[Check]:
        """Credentials, permissions, quota, tools: one line each; never raises for a failed one."""
        ...

    def offers(self, spec: DeploymentSpec, need: Need) -> Sequence[Offer]:
        """Machine types that fit ``need``, cheapest first; only reads."""
        ...

    def observe(self, name: str) -> Observed:
        """What exists of deployment ``name``, found by tags; only reads; empty if absent."""
        ...

    def plan(self, target: Target, observed: Observed) -> Sequence[Step]:
        """Pure: the steps, in order, that lead from ``observed`` to ``target``; noop included."""
        ...

    def plan_delete(self, name: str, observed: Observed) -> Sequence[Step]:
        """Pure: delete steps, in an order that the platform accepts."""
        ...

    def execute(self, step: Step, context: Context) -> Mapping[str, Any]:
        """Do one step and wait until it holds; doing it again after a crash must be harmless.

        Returns facts worth keeping in the journal (never secrets). Raises
        ``ProvisioningError`` (with the platform's own words and last log lines),
        ``QuotaError`` or ``AccessError``. Deleting what is absent is success.
        """
        ...

    def status(self, name: str) -> Deployed:
        """One deployment; ``NotFoundError`` if absent."""
        ...

    def list(self) -> Iterator[Deployed]:
        """Every deployment of llama-hub in this backend, all pages."""
        ...

    def logs(self, name: str, *, tail: int = 100, follow: bool = False) -> Iterator[str]:
        """Log lines, oldest first."""
        ...

    def endpoint(self, name: str) -> Endpoint:
        """Where and how to call it; ``NotFoundError`` if absent."""
        ...


@runtime_checkable
class Invoker(Protocol):
    """For platforms whose endpoint speaks no free HTTP (SageMaker, Azure ML's /score)."""

    def invoke(self, name: str, body: Mapping[str, Any], *, stream: bool) -> Iterator[bytes]:
        """Send an OpenAI-style body; yields the answer, in pieces when ``stream``."""
        ...


@runtime_checkable
class Attestable(Protocol):
    """For platforms whose storage can prove what it holds."""

    def prove(self, name: str, manifest: Manifest) -> Sequence[Proof]:
        """Compare what storage and service state with ``manifest``."""
        ...


@runtime_checkable
class RollsBack(Protocol):
    """For platforms that keep the last good revision."""

    def plan_rollback(self, name: str, observed: Observed) -> Sequence[Step]:
        """Pure: steps back to the last good revision; ``NotFoundError`` if there is none."""
        ...


@runtime_checkable
class Exports(Protocol):
    """For platforms with a declarative language of their own."""

    def export(self, steps: Sequence[Step], form: str) -> Mapping[str, str]:
        """File name → text of the plan in ``form`` (``az-yaml``, ``bicep``, ``cloudformation``)."""
        ...


@runtime_checkable
class FindsOrphans(Protocol):
    """For platforms where pieces can outlive their deployment."""

    def orphans(self) -> Iterator[Resource]:
        """Tagged resources (and unfinished uploads) that no deployment uses."""
        ...
