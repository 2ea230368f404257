"""The protocol of a backend, and the data that passes through it.

A backend is small: it says what it can (``check``, ``offers``), what is there
(``observe``, ``list``), what it would do (``plan``: pure, no writes), and does
one step at a time (``execute``: idempotent). Journal, ordering, retries of
``TransientError``, undoing and licence live in ``llama_hub.deploy`` and are the
same for all; ``llama_hub.deploy.waiting`` polls. Capabilities that only some
clouds have are further protocols, recognised with ``isinstance``.

Where a backend looks (account, region, workspace) are the keyword arguments of
its constructor, all optional and named by ``location``; they come from the spec
(``region`` or ``options``), else from ``[backends.NAME]`` in ``config.toml``,
else from what the constructor itself finds in the environment. A backend that is
``Located`` says what came of it, and the journal keeps that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from llama_hub.deploy.offer import Offer
from llama_hub.errors import LlamaHubError
from llama_hub.hub.model_id import ModelId
from llama_hub.progress import NO_PROGRESS, Progress

if TYPE_CHECKING:
    from pydantic import BaseModel

    from llama_hub.deploy.sizing import Need
    from llama_hub.deploy.spec import DeploymentSpec
    from llama_hub.hub.manifest import Manifest

Action = Literal["create", "update", "replace", "delete", "noop"]
Status = Literal["pending", "ready", "updating", "stopped", "failed", "deleting", "absent"]

TAG_DEPLOYMENT = "llama-hub:deployment"
TAG_MANIFEST = "llama-hub:manifest"
TAG_SPEC = "llama-hub:spec"
TAG_LICENSE = "llama-hub:license"
TAG_MODEL = "llama-hub:model"  # catalogue id, for ``ps``
TAG_TTL = "llama-hub:ttl"  # seconds after ``created``; only where the spec sets one


@dataclass(frozen=True)
class Check:
    """One line of ``doctor``: what was looked at, whether it is well, how to fix it."""

    name: str
    ok: bool
    detail: str
    hint: str = ""


@dataclass(frozen=True)
class Artifact:
    """The served folder on this machine: canonical form, verified, licensed."""

    folder: Path
    manifest: Manifest
    receipt: str  # id in the ledger
    ledger_head: str | None = None  # SHA-256 of the ledger's last line when that was read


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
        """The tags that every resource carries, the user's own included.

        Clouds with another syntax map the keys and values, reversibly.
        """
        tags = dict(self.spec.tags) | {
            TAG_DEPLOYMENT: self.spec.name,
            TAG_MANIFEST: self.artifact.manifest.digest,
            TAG_SPEC: self.generation,
            TAG_LICENSE: f"{self.artifact.manifest.license}/{self.artifact.receipt}",
            TAG_MODEL: self.artifact.manifest.model,
        }
        return tags | ({TAG_TTL: str(self.spec.ttl)} if self.spec.ttl else {})


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
    """All resources of one deployment; empty if there is none.

    ``foreign``: what stands where one of ours would, without our tags. It is never changed or
    removed; the deployer refuses to plan a deployment over it.

    ``unread``: kinds that could not be read, and why. Whether that matters is the plan's to say: a
    deployment that does not scale needs no alarms, and a removal what bills and nothing else.
    """

    resources: tuple[Resource, ...] = ()
    foreign: tuple[Resource, ...] = ()
    unread: Mapping[str, LlamaHubError] = field(default_factory=dict)

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
    """One change (or the statement that none is needed), complete before anything is sent.

    Ids are unique within a plan: a second change of one resource has a kind of its own
    (``endpoint/x`` creates, ``traffic/x`` then routes).
    """

    action: Action
    kind: str
    name: str
    why: str
    body: Mapping[str, Any] = field(default_factory=dict)  # JSON; exactly what will be asked for
    after: tuple[str, ...] = ()  # ids of steps that must be done first
    reversible: bool = True  # whether undoing it brings back what was there
    undo: bool = True  # whether a failed first deployment removes it again
    long: bool = False  # whether it uploads or waits for minutes
    note: str = ""  # for the plan's reader: bytes to send, what it costs, what is interrupted

    @property
    def id(self) -> str:
        """``kind/name``: stable between planning and a later run."""
        return f"{self.kind}/{self.name}"


@dataclass(frozen=True)
class Deployed:
    """A deployment as ``ps`` and ``status`` show it.

    Tags are anybody's who may write in the cloud: a model that no model is called is none.
    """

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
    instance: str | None = None  # machine type; ``auto`` keeps it while it fits
    replicas: int | None = None  # instances that run now
    cost_so_far: float | None = None  # US dollars; none: see ``status.cost_so_far``

    def __post_init__(self) -> None:
        try:
            ModelId(self.model)
        except ValueError:
            object.__setattr__(self, "model", None)


@dataclass(frozen=True)
class Endpoint:
    """How to talk to a deployment with the service's own HTTP contract.

    ``url`` is the base of ``/v1/chat/completions``, ``/manifest`` and so on; a platform without
    free paths is an ``Invoker`` besides, and ``url`` is what a person calls its endpoint.
    ``headers`` hold credentials: never logged, never written to a file.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


KEPT = "kept"  # state of a resource that outlives its deployment because somebody asked for that
SERVED = "served"  # ``what`` of a proof by a platform whose service cannot be asked


@dataclass(frozen=True)
class Proof:
    """One line of ``attest``.

    The line that states which manifest is served has ``what="manifest"`` and the digest alone as
    evidence. Where the service states none (an image of others, one that sleeps) a line ``SERVED``
    says so, and whether what it serves follows from the storage all the same.
    """

    what: str
    ok: bool
    evidence: str


@dataclass
class Context:
    """What ``execute`` gets besides the step: where to tell progress, how long it may take."""

    target: Target | None  # None while deleting
    progress: Progress = NO_PROGRESS
    timeout: float = 3600.0  # seconds for one step
    wait: bool = True  # False: start it and return (--no-wait, and no later step needs it)
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of steps done, by id


class Backend(Protocol):
    """The contract; ``llama_hub.deploy.conformance`` is its test."""

    name: str
    location: tuple[str, ...]  # keyword arguments of the constructor that say where to look
    options_model: type[BaseModel] | None  # of ``spec.options``; None: there are no options

    def configured(self) -> bool:
        """Whether enough is set here to ask the platform; no call. ``ps`` skips the others."""
        ...

    def check(self) -> Sequence[Check]:
        """Credentials, permissions, quota, tools: one line each; never raises for a failed one."""
        ...

    def offers(self, spec: DeploymentSpec, need: Need) -> Sequence[Offer]:
        """Machine types that fit ``need``, cheapest first; only reads."""
        ...

    def observe(self, name: str) -> Observed:
        """What exists of deployment ``name``, found by tags; only reads; empty if absent.

        What is in its place without our tags is ``foreign``.
        """
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
        ``QuotaError``, ``AccessError``, or ``TransientError`` where trying again may help
        (throttled, 5xx): it is then called again. Deleting what is absent is success, and a
        delete returns when the resource is gone.
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
class ChecksSpec(Protocol):
    """For platforms where ``doctor`` can say more about a certain deployment than in general."""

    def check_for(self, spec: DeploymentSpec) -> Sequence[Check]:
        """Lines about what ``spec`` asks for, such as a role or an identity; only reads."""
        ...


@runtime_checkable
class Located(Protocol):
    """For platforms with several accounts, regions, workspaces or namespaces.

    A journal keeps the place, so that every later command looks there and nowhere else.
    """

    access: tuple[str, ...]  # keys of ``location`` that say how one gets in, not where it is

    def place(self) -> Mapping[str, str | None]:
        """The arguments of ``location`` that lead another process to the same place.

        What nobody has named is asked for; ``AccessError`` where the account is not the one that
        was asked for.
        """
        ...


@runtime_checkable
class Invoker(Protocol):
    """For platforms whose endpoint speaks no free HTTP (SageMaker, Azure ML's /score)."""

    def invoke(self, name: str, body: Mapping[str, Any], *, stream: bool) -> Iterator[bytes]:
        """Send an OpenAI-style body; yields the answer, in pieces when ``stream``."""
        ...


@runtime_checkable
class Validates(Protocol):
    """For platforms that can judge by reads what they would refuse after an upload of hours."""

    def validate(self, target: Target, observed: Observed) -> None:
        """Only reads, before anything is made; raises what ``execute`` would raise later.

        ``UsageError`` for input that the platform refuses, ``AccessError`` for a permission that
        this deployment needs. A read that is itself denied judges nothing.
        """
        ...


@runtime_checkable
class Attestable(Protocol):
    """For platforms whose storage can prove what it holds, and for every ``Invoker``."""

    def prove(self, name: str, manifest: Manifest) -> Sequence[Proof]:
        """Compare what storage and service state with ``manifest``."""
        ...


@runtime_checkable
class RollsBack(Protocol):
    """For platforms that keep the last good revision.

    Elsewhere ``rollback`` applies the last good spec again.
    """

    def plan_rollback(self, name: str, observed: Observed) -> Sequence[Step]:
        """Pure: steps back to the last good revision; ``NotFoundError`` if there is none."""
        ...


@runtime_checkable
class HoldsModels(Protocol):
    """For platforms that keep the bytes of a deployment on this machine.

    Elsewhere the store has them, or nothing: what ``name`` serves may no longer be what a model's
    name means here.
    """

    def held(self, name: str, manifest: str) -> Path | None:
        """The folder of the model with that manifest digest, if ``name`` has it; only reads."""
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
