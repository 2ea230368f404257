"""The Python API of deployments: plan, apply, delete, roll back.

::

    from llama_hub.backends.lookup import deployer_for
    from llama_hub.deploy.spec import DeploymentSpec

    spec = DeploymentSpec(name="support", backend="local", model="llama-2-7b-chat")
    deployer = deployer_for(spec)
    plan = deployer.plan(spec)          # only reads
    print(deployer.apply(plan).url)     # does it, waits until it is ready

``apply`` makes the plan again and refuses when what is there has changed since.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from llama_hub.deploy import artifact, place, rollout, sizing
from llama_hub.deploy.apply import ApplyOptions, PlanRunner, Rollback, with_unconfirmed
from llama_hub.deploy.backend import (
    Artifact,
    Backend,
    Deployed,
    Observed,
    Resource,
    Step,
    Target,
    Validates,
)
from llama_hub.deploy.journal import History, Journal
from llama_hub.deploy.options import check_options
from llama_hub.deploy.plan import Kind, Plan, ordered
from llama_hub.deploy.spec import DeploymentSpec
from llama_hub.deploy.waiting import wait_for
from llama_hub.errors import (
    LlamaHubError,
    NotFoundError,
    NotOursError,
    StalePlanError,
    UsageError,
)

SETTLING = 120.0  # seconds that a platform may take to show what it has confirmed
SETTLING_POLL = 1.0  # seconds

Artifacts = Callable[[DeploymentSpec], Artifact]


class Deployer:
    """Deployments in one backend."""

    def __init__(
        self,
        backend: Backend,
        *,
        location: Mapping[str, Any] | None = None,
        artifacts: Artifacts = artifact.find,
        root: Path | None = None,
    ) -> None:
        """``location``: with what the backend was made. ``root``: where journals are kept."""
        self.backend = backend
        self._given = dict(location or {})
        self._artifacts = artifacts
        self._root = root

    @cached_property
    def location(self) -> Mapping[str, Any]:
        """Where this is, resolved: what plans and journals keep."""
        return place.resolved(self.backend, self._given)

    def journal(self, name: str) -> Journal:
        """The journal of deployment ``name``."""
        return Journal(self.backend.name, name, self._root)

    def plan(self, spec: DeploymentSpec) -> Plan:
        """What deploying ``spec`` would change; only reads."""
        self._history_here(spec.name)
        observed = self.backend.observe(spec.name)
        return self._judged("deploy", self._target(spec, observed), observed)

    def preview(self, spec: DeploymentSpec) -> Plan:
        """``plan``, also before the model is here: download and conversion come first then.

        Such a plan has no manifest, zeros in the place of its digest, and cannot be applied.
        """
        self._history_here(spec.name)
        try:
            self._artifacts(spec)
        except NotFoundError as missing:
            expected = artifact.expected(spec, missing)
            observed = self.backend.observe(spec.name)
            plan = self._judged("deploy", self._target(spec, observed, expected), observed)
            steps = (*expected.steps, *plan.steps)
            return dataclasses.replace(
                plan, steps=steps, manifest=None, receipt=expected.receipt or None
            )
        return self.plan(spec)

    def plan_delete(self, name: str) -> Plan:
        """What removing ``name`` would delete; ``NotFoundError`` if there is nothing of it."""
        history = self._history_here(name)
        observed = with_unconfirmed(self.backend.observe(name), history.unfinished())
        if not observed.resources and not history.exists:
            raise not_found(name, self.backend.name, observed.foreign)
        steps = self.backend.plan_delete(name, observed)
        return Plan("delete", self.backend.name, name, ordered(steps), self.location)

    def plan_rollback(self, name: str) -> Plan:
        """What returning to the revision before the present one would change."""
        history = self._history_here(name)
        observed = self.backend.observe(name)
        if not observed.resources:
            raise not_found(name, self.backend.name, observed.foreign)
        earlier = rollout.earlier(history, name)
        own = rollout.own_steps(self.backend, name, observed)
        if own is None:
            rollout.check_model(earlier, self._artifacts(earlier.spec))
            return self._judged("rollback", self._target(earlier.spec, observed), observed)
        return Plan(
            kind="rollback",
            backend=self.backend.name,
            name=name,
            steps=ordered(own),
            location=self.location,
            spec=earlier.spec,
            generation=earlier.generation,
            manifest=earlier.manifest,
            receipt=earlier.receipt,
        )

    def apply(self, plan: Plan, options: ApplyOptions | None = None) -> Deployed:
        """Do what ``plan`` says, if the plan still holds; returns what is there then."""
        options = options or ApplyOptions()
        journal = self.journal(plan.name)
        with journal.locked():
            observed, fresh, target = self._again(plan)
            holds = fresh.digest == plan.digest or _is_reached(plan, fresh)
            if not holds and not _continues(journal, plan, fresh):
                raise changed(plan, fresh)
            if fresh.changes or (plan.kind == "delete" and journal.history().exists):
                back = self._rollback(plan)
                PlanRunner(self.backend, journal, fresh, target, options, back).run(
                    observed, plan.digest
                )
                self._settle(fresh, target, options)
                journal.end("done")
            else:
                self._close_cut_off(journal, fresh)
        return self._deployed(plan)

    def drift(self, name: str) -> Sequence[Step]:
        """The steps that would bring ``name`` back to its last good spec; empty if none.

        ``NotFoundError`` if this machine did not deploy it.
        """
        good = self._history_here(name).good
        if not good:
            raise NotFoundError(
                f"this machine did not deploy {name!r}, so it cannot tell whether it has drifted",
                hint="llama-hub deploy -f spec.yaml --plan",
            )
        observed = self.backend.observe(name)
        spec = DeploymentSpec(**good[-1]["spec"])
        target = self._target(spec, observed, self.artifact_of(good[-1]))
        return self._plan("deploy", target, observed).changes

    def artifact_of(self, begin: Mapping[str, Any]) -> Artifact:
        """The model of an earlier run: as the platform keeps it here, else as it is here now."""
        return rollout.held(self.backend, begin) or self._artifacts(DeploymentSpec(**begin["spec"]))

    def _history_here(self, name: str) -> History:
        """What the journal tells; ``UsageError`` if ``name`` was deployed to another place."""
        history = self.journal(name).history()
        place.check(self.backend, name, history, self.location)
        return history

    def _rollback(self, plan: Plan) -> Rollback | None:
        """How to return to the last good spec if this fails; ``None`` if there was none."""
        good = self.journal(plan.name).history().good
        if not good or plan.kind == "delete":
            return None
        spec = DeploymentSpec(**good[-1]["spec"])
        if not self._has_model_of(good[-1]):
            return None

        def back() -> tuple[Target, Sequence[Step]]:
            observed = self.backend.observe(spec.name)
            target = self._target(spec, observed, self.artifact_of(good[-1]))
            return target, self.backend.plan(target, observed)

        return back

    def _has_model_of(self, begin: Mapping[str, Any]) -> bool:
        """Whether the model of an earlier run is still on this machine, unchanged."""
        try:
            deployed = self.artifact_of(begin)
        except LlamaHubError:
            return False
        return bool(deployed.manifest.digest == begin["manifest"])

    def _again(self, plan: Plan) -> tuple[Observed, Plan, Target | None]:
        self._history_here(plan.name)
        observed = self.backend.observe(plan.name)
        if plan.kind == "delete":
            return observed, self.plan_delete(plan.name), None
        if plan.kind == "rollback" and rollout.is_own(self.backend):
            return observed, self.plan_rollback(plan.name), None
        if plan.spec is None:
            raise StalePlanError(f"the plan for {plan.name!r} has no spec")
        target = self._target(plan.spec, observed)
        return observed, self._judged(plan.kind, target, observed), target

    def _judged(self, kind: Kind, target: Target, observed: Observed) -> Plan:
        """The plan, unless a read tells already that the platform would refuse it."""
        if observed.foreign:
            raise not_ours(observed.foreign, self.backend.name)
        plan = self._plan(kind, target, observed)
        if isinstance(self.backend, Validates):
            self.backend.validate(target, observed)
        return plan

    def _target(
        self, spec: DeploymentSpec, observed: Observed, found: Artifact | None = None
    ) -> Target:
        """``found``: the model, if not the one that the spec's name means now."""
        check_options(spec, self.backend)
        found = found or self._artifacts(spec)
        architecture, dtype = artifact.dimensions(found)
        spec = with_context(spec, architecture.context)
        needed = sizing.need(architecture, spec, dtype)
        offer = sizing.choose(
            self.backend.offers(spec, needed), spec, needed, self._instance(spec.name, observed)
        )
        return Target(spec, found, needed, offer, spec.revision(found.manifest.digest))

    def _instance(self, name: str, observed: Observed) -> str | None:
        """The machine type that runs now, which ``auto`` keeps while it fits."""
        return self.backend.status(name).instance if observed.resources else None

    def _plan(self, kind: Kind, target: Target, observed: Observed) -> Plan:
        return Plan(
            kind=kind,
            backend=self.backend.name,
            name=target.spec.name,
            steps=ordered(self.backend.plan(target, observed)),
            location=self.location,
            spec=target.spec,
            generation=target.generation,
            manifest=target.artifact.manifest.digest,
            receipt=target.artifact.receipt,
            ledger_head=target.artifact.ledger_head,
            license=target.artifact.manifest.license,
            need=target.need.to_json(),
            offer=target.offer,
        )

    def _settle(self, plan: Plan, target: Target | None, options: ApplyOptions) -> None:
        """Wait until the platform itself shows the result: all noop, or nothing left."""
        if not options.wait and plan.kind != "delete":
            return
        wait_for(
            lambda: True if not self._unsettled(plan, target) else None,
            f"the result of {plan.kind} {plan.name!r}",
            timeout=SETTLING,
            every=SETTLING_POLL,
            sleep=options.sleep,
            why=lambda: f"still {self._unsettled(plan, target)}",
        )

    def _unsettled(self, plan: Plan, target: Target | None) -> str:
        """What does not yet show; empty if all does."""
        observed = self.backend.observe(plan.name)
        if plan.kind == "delete":
            return ", ".join(resource.id for resource in observed.resources)
        if target is None:
            status = self.backend.status(plan.name).status
            return "" if status == "ready" else status
        steps = self.backend.plan(target, observed)
        return ", ".join(f"{step.action} {step.id}" for step in steps if step.action != "noop")

    def _close_cut_off(self, journal: Journal, plan: Plan) -> None:
        """Nothing is left to do: a run that was cut off after its last step is over."""
        cut_off = journal.history().open
        if cut_off is None:
            return
        wanted = plan.spec.to_json() if plan.spec else None
        same = cut_off.kind == plan.kind and cut_off.begin["spec"] == wanted
        journal.close(cut_off, "done" if same else "undone")

    def _deployed(self, plan: Plan) -> Deployed:
        if plan.kind == "delete":
            return Deployed(plan.name, plan.backend, "absent", None, None, None, None)
        return self.backend.status(plan.name)


def forget(journal: Journal) -> tuple[str, ...]:
    """End what the journal says without asking the platform; ids of what may still be there.

    The way out where the platform can no longer be asked: an account that was closed, a namespace
    that one has left.
    """
    with journal.locked():
        standing = journal.history().standing
        where = dict(journal.history().location)
        journal.begin(Plan("delete", journal.backend, journal.name, (), where), [], "")
        journal.end("done")
    return standing


def with_context(spec: DeploymentSpec, longest: int) -> DeploymentSpec:
    """``spec`` with the model's own context where the default is more than that.

    ``UsageError`` for more than ``longest`` that was asked for.
    """
    if spec.context <= longest:
        return spec
    if spec.context == DeploymentSpec.context:
        return dataclasses.replace(spec, context=longest)
    raise UsageError(
        f"a context of {spec.context} tokens is more than the {longest} that {spec.model} was "
        "trained for",
        hint=f"--context {longest}",
    )


def _is_reached(plan: Plan, fresh: Plan) -> bool:
    """Whether nothing is left of what ``plan`` wants, as when a cut-off run ended by itself."""
    return not fresh.changes and (plan.spec, plan.manifest) == (fresh.spec, fresh.manifest)


def _continues(journal: Journal, plan: Plan, fresh: Plan) -> bool:
    """Whether what is there differs because of a run of this very plan, cut off or done."""
    runs = journal.history().runs
    if not runs or runs[-1].begin["asked"] != plan.digest:
        return False
    return runs[-1].result is None or (runs[-1].result == "done" and not fresh.changes)


def changed(planned: Plan, fresh: Plan) -> StalePlanError:
    """The error for a plan that no longer fits what is there."""
    return StalePlanError(
        f"{planned.name!r} is no longer what the plan was made for: {_difference(planned, fresh)}",
        hint="make a new plan and look at it",
    )


def _difference(planned: Plan, fresh: Plan) -> str:
    if planned.manifest != fresh.manifest:
        return f"the model is now {fresh.manifest}, not {planned.manifest}"
    then = {f"{step.action} {step.id}" for step in planned.steps}
    today = {f"{step.action} {step.id}" for step in fresh.steps}
    if then == today:
        return "the same steps would now have other contents"
    gone, new = sorted(then - today), sorted(today - then)
    return f"no longer {', '.join(gone) or 'anything'}, but now {', '.join(new) or 'nothing'}"


def not_found(name: str, backend: str, foreign: Sequence[Resource] = ()) -> NotFoundError:
    """The error for a deployment that is not there; ``foreign``: what others have in its place."""
    message = f"there is no deployment {name!r} in {backend}"
    if foreign:
        message += f"; {_ids(foreign)} was not made by llama-hub and is left alone"
    return NotFoundError(message, hint="llama-hub ps")


def not_ours(foreign: Sequence[Resource], backend: str) -> NotOursError:
    """The error for a place that others have taken."""
    return NotOursError(
        f"{_ids(foreign)} exists in {backend} and was not made by llama-hub: it has no tag of "
        "this deployment and is left alone",
        hint="choose another name with --name",
    )


def _ids(resources: Sequence[Resource]) -> str:
    return ", ".join(one.id for one in resources)
