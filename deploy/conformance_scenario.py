"""The scenario of the conformance suite: one deployment's life, part by part."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama_hub.deploy import attest, client
from llama_hub.deploy.backend import (
    TAG_DEPLOYMENT,
    TAG_LICENSE,
    TAG_MANIFEST,
    TAG_SPEC,
    Backend,
    Deployed,
    Resource,
)
from llama_hub.deploy.conformance_tools import (
    CrashError,
    Faulty,
    SkipError,
    expect,
    expect_not_found,
    same,
    words,
)
from llama_hub.deploy.deployer import Deployer
from llama_hub.deploy.gc import Leftover, find, remove
from llama_hub.deploy.plan import Plan
from llama_hub.deploy.spec import DeploymentSpec
from llama_hub.errors import NotFoundError, ProvisioningError, UsageError

if TYPE_CHECKING:
    from llama_hub.deploy.conformance_tools import Subject

QUESTION: Mapping[str, Any] = {
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
    "max_tokens": 16,
}
METHODS = (
    "configured", "check", "offers", "observe", "plan", "plan_delete", "execute", "status", "list",
    "logs", "endpoint",
)  # fmt: skip
BYSTANDER = "-too"  # ends the name of the deployment that nothing may touch


class Scenario:
    """The deployments of one run, and the parts in which they are put to the test."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self.backend = subject.make()
        self._spec = subject.spec
        self._name = subject.spec.name
        self._bystander = dataclasses.replace(subject.spec, name=subject.spec.name + BYSTANDER)
        self._first = ""  # the first revision's generation

    def parts(self) -> Iterator[tuple[str, Callable[[], str]]]:
        """What is looked at, in order."""
        yield "it has all methods", self._methods
        yield "check answers and raises nothing", self._check
        yield "what is absent is reported so", self._absent
        yield "planning only reads", self._planning
        yield "create leads to ready", self._create
        yield "every resource carries the tags", self._tags
        yield "ps shows it", self._listed
        yield "it answers", self._invoke
        yield "it streams", self._stream
        yield "greedy answers equal the local core's", self._same_tokens
        yield "a second run changes nothing", self._noop
        yield "logs can be read", self._logs
        yield "attest proves what is served", self._attest
        yield "a neighbour is deployed", self._neighbour
        yield "scaling happens in place", self._scale
        yield "an update makes a new revision", self._update
        yield "rollback returns to the one before", self._rollback
        yield "a failed update changes nothing", self._failed_update
        yield "delete removes all of it, and nothing else", self._delete
        yield "a failed first deployment is removed", self._failed_create
        yield "a crash anywhere is recovered from", self._crashes
        yield "a crash while deleting is recovered from", self._crash_deleting

    def _methods(self) -> str:
        missing = [name for name in METHODS if not callable(getattr(self.backend, name, None))]
        missing += [
            n for n in ("name", "location", "options_model") if not hasattr(self.backend, n)
        ]
        expect(not missing, f"it lacks {', '.join(missing)}")
        return f"{len(METHODS)} methods"

    def _check(self) -> str:
        lines = self.backend.check()
        wrong = [line.name for line in lines if not line.ok]
        expect(not wrong, f"not well: {', '.join(wrong)}")
        return f"{len(lines)} lines, all well"

    def _absent(self) -> str:
        expect(not self._observed(), f"{self._name!r} exists already; choose another name")
        expect_not_found(lambda: self.backend.status(self._name))
        expect_not_found(lambda: self.backend.endpoint(self._name))
        expect(self._name not in self._names(), "ps lists what is not there")
        return "status, endpoint and list agree"

    def _planning(self) -> str:
        one, two = self._plan(self._spec), self._deployer().plan(self._spec)
        expect(same(one, two), "two plans of the same state differ")
        expect(one.changes, "the plan for what is absent has no changes")
        expect(not self._observed(), "planning made something")
        deletes = [step.id for step in one.steps if step.action == "delete"]
        expect(not deletes, f"a plan for something new deletes {deletes}")
        return f"{len(one.steps)} steps"

    def _create(self) -> str:
        deployed = self._apply(self._spec)
        expect(deployed.status == "ready", f"it is {deployed.status}: {deployed.detail}")
        self._first = deployed.generation or ""
        return f"{deployed.url}"

    def _tags(self) -> str:
        wanted = {TAG_DEPLOYMENT: self._name, TAG_MANIFEST: self._manifest()}
        resources = self.backend.observe(self._name).resources
        for one in resources:
            for key, value in wanted.items():
                expect(one.tags.get(key) == value, f"{one.id}: {key} is {one.tags.get(key)!r}")
            expect(TAG_LICENSE in one.tags, f"{one.id} names no licence")
        expect(any(TAG_SPEC in one.tags for one in resources), "no resource names its spec")
        return f"{len(resources)} resources"

    def _listed(self) -> str:
        listed = [one for one in self._subject.make().list() if one.name == self._name]
        expect(len(listed) == 1, f"ps lists it {len(listed)} times")
        expect(listed[0].manifest == self._manifest(), f"with the manifest {listed[0].manifest}")
        expect(listed[0].status == "ready", f"as {listed[0].status}")
        return f"model {listed[0].model}, created {listed[0].created}"

    def _invoke(self) -> str:
        said = self._ask()
        expect(said, "the answer is empty")
        return repr(said)

    def _stream(self) -> str:
        pieces = client.chat(self.backend, self._name, QUESTION, stream=True)
        said = client.streamed_text(pieces)
        whole = self._ask()
        expect(said.strip() == whole.strip(), f"streamed {said!r}, at once {whole!r}")
        return "the same text as at once"

    def _same_tokens(self) -> str:
        if self._subject.reference is None:
            raise SkipError("no local core to compare with")
        here, there = self._subject.reference(QUESTION), self._ask()
        expect(here == there, f"local {here!r}, deployed {there!r}")
        return repr(there)

    def _noop(self) -> str:
        before = self._observed_plainly()
        plan = self._deployer().plan(self._spec)
        expect(not plan.changes, f"it would {words(plan.changes)}")
        self._deployer().apply(plan, self._subject.options)
        expect(self._observed_plainly() == before, "an empty plan changed something")
        return f"{len(plan.steps)} steps, all noop"

    def _logs(self) -> str:
        lines = list(self.backend.logs(self._name, tail=5))
        expect(len(lines) <= 5, f"tail=5 gave {len(lines)} lines")
        expect(all("\n" not in line for line in lines), "a log line holds a line end")
        return f"{len(lines)} lines"

    def _attest(self) -> str:
        attestation = attest.attest(self._deployer(), self._name, self._subject.artifacts)
        expect(attestation.served == self._manifest(), f"served is {attestation.served}")
        wrong = [f"{one.what}: {one.evidence}" for one in attestation.checks if not one.ok]
        # The scenario's artifacts may come from a test and then have no receipt in the ledger.
        expect(not [one for one in wrong if not one.startswith("license")], "; ".join(wrong))
        return f"{len(attestation.checks)} checks"

    def _neighbour(self) -> str:
        before = self._observed_plainly()
        deployed = self._apply(self._bystander)
        expect(deployed.status == "ready", f"it is {deployed.status}")
        expect(self._observed_plainly() == before, "deploying a neighbour changed the first")
        return deployed.name

    def _scale(self) -> str:
        more = dataclasses.replace(self._spec, replicas_min=2, replicas_max=2)
        try:
            plan = self._plan(more)
        except (UsageError, ProvisioningError) as error:
            raise SkipError(f"the platform does not scale here: {error}") from error
        scaled = self._deployer().apply(plan, self._subject.options)
        expect(scaled.generation == self._first, "scaling made a new revision")
        expect(not self._plan(more).changes, "scaling does not settle")
        self._apply(self._spec)
        return f"to {scaled.replicas} and back"

    def _update(self) -> str:
        updated = self._apply(self._changed("2"))
        expect(updated.status == "ready", f"it is {updated.status}: {updated.detail}")
        expect(updated.generation != self._first, "the revision is still the first")
        expect(self._ask(), "it does not answer after the update")
        return f"{self._first} to {updated.generation}"

    def _rollback(self) -> str:
        deployer = self._deployer()
        back = deployer.apply(deployer.plan_rollback(self._name), self._subject.options)
        expect(back.generation == self._first, f"it is {back.generation}, not {self._first}")
        plan = self._plan(self._spec)
        expect(not plan.changes, f"after rollback it would {words(plan.changes)}")
        expect(self._ask(), "it does not answer after the rollback")
        return f"back to {self._first}"

    def _failed_update(self) -> str:
        before = self._observed_plainly()
        wanted = self._changed("3")
        steps = self._plan(wanted).changes
        creations = [n for n, step in enumerate(steps) if step.action == "create" and step.undo]
        place = creations[0] if creations else len(steps) - 1
        self._expect_failure(wanted, place)
        after = self._observed_plainly()
        extra = set(after) - set(before) - self._lasting(wanted)
        expect(not extra, f"left behind: {sorted(extra)}")
        expect(set(before) <= set(after), f"gone: {sorted(set(before) - set(after))}")
        expect(self._ask(), "the old revision does not answer any more")
        return f"failed at step {place + 1} of {len(steps)}; the old revision answers"

    def _lasting(self, spec: DeploymentSpec) -> set[str]:
        """What a plan says of itself that a failure does not remove: uploads."""
        return {step.id for step in self._plan(spec).steps if not step.undo}

    def _delete(self) -> str:
        neighbour = self._plain(self._bystander.name)
        self._remove(self._name)
        expect(not self._observed(), "something of it is left")
        expect_not_found(lambda: self.backend.status(self._name))
        expect(self._name not in self._names(), "ps still lists it")
        expect(self._plain(self._bystander.name) == neighbour, "its neighbour was touched")
        self._expect_no_leftovers()
        return "absence proven, the neighbour is whole"

    def _failed_create(self) -> str:
        count = len(self._plan(self._spec).changes)
        for place in range(count) if self._subject.crash_everywhere else [count - 1]:
            self._expect_failure(self._spec, place)
            left = set(self._observed_plainly()) - self._lasting(self._spec)
            expect(not left, f"failing at step {place + 1} leaves {sorted(left)}")
            self._remove_leftovers()
        return f"at {count if self._subject.crash_everywhere else 1} places"

    def _crashes(self) -> str:
        places = self._places(len(self._plan(self._spec).changes))
        clean = self._clean_ids()
        for place, after in places:
            self._crash(lambda: self._plan(self._spec), place, after)
            self._apply(self._spec)
            remaining = set(self._observed_plainly())
            expect(remaining == clean, f"after a crash at {place + 1}: {sorted(remaining ^ clean)}")
            self._remove(self._name)
        return f"{len(places)} places, nothing twice, nothing left"

    def _crash_deleting(self) -> str:
        self._apply(self._spec)
        steps = len(self._deployer().plan_delete(self._name).changes)
        for place, after in self._places(steps):
            self._apply(self._spec)
            self._crash(lambda: self._deployer().plan_delete(self._name), place, after)
            self._remove(self._name)
            expect(not self._observed(), f"a crash at {place + 1} leaves something")
        return f"{len(self._places(steps))} places"

    def _places(self, count: int) -> list[tuple[int, bool]]:
        """Before and after each step, or after the first only."""
        if not self._subject.crash_everywhere:
            return [(0, True)]
        return [(place, after) for place in range(count) for after in (False, True)]

    def _clean_ids(self) -> set[str]:
        self._apply(self._spec)
        ids = set(self._observed_plainly())
        self._remove(self._name)
        return ids

    def _crash(self, plan: Callable[[], Plan], place: int, after: bool) -> None:
        broken = Faulty(self.backend, place, after, CrashError())
        try:
            self._deployer(broken).apply(plan(), self._subject.options)
        except CrashError:
            return
        raise AssertionError("the crash did not happen")

    def _expect_failure(self, spec: DeploymentSpec, place: int) -> None:
        broken = Faulty(self.backend, place, True, ProvisioningError("made to fail"))
        try:
            self._deployer(broken).apply(self._plan(spec), self._subject.options)
        except ProvisioningError as error:
            expect(error.message == "made to fail", f"it failed otherwise: {error}")
            return
        raise AssertionError("a failing step was not reported")

    def clean_up(self) -> str:
        """Remove both deployments, whatever state they are in."""
        for name in (self._name, self._bystander.name):
            try:
                self._remove(name)
            except NotFoundError:
                continue
        self._remove_leftovers()
        self._expect_no_leftovers()
        return "observe, list and gc find nothing"

    def _remove_leftovers(self) -> None:
        for left in self._leftovers():
            remove(self._deployer(), left, self._subject.options)

    def _leftovers(self) -> list[Leftover]:
        mine = (self._name, self._bystander.name)
        return [one for one in find(self.backend, root=self._subject.root) if one.name in mine]

    def _expect_no_leftovers(self) -> None:
        leftovers = [one for one in self._leftovers() if one.name == self._name]
        expect(not leftovers, f"gc finds {[one.to_json() for one in leftovers]}")

    def _remove(self, name: str) -> None:
        deployer = self._deployer()
        deployer.apply(deployer.plan_delete(name), self._subject.options)

    def _apply(self, spec: DeploymentSpec) -> Deployed:
        deployer = self._deployer()
        return deployer.apply(deployer.plan(spec), self._subject.options)

    def _plan(self, spec: DeploymentSpec) -> Plan:
        return self._deployer().plan(spec)

    def _deployer(self, backend: Backend | None = None) -> Deployer:
        """As a new process would make it."""
        return Deployer(
            backend or self._subject.make(),
            artifacts=self._subject.artifacts,
            root=self._subject.root,
        )

    def _changed(self, value: str) -> DeploymentSpec:
        environment = dict(self._spec.environment) | {"LLAMA_HUB_CONFORMANCE": value}
        return dataclasses.replace(self._spec, environment=environment)

    def _ask(self) -> str:
        answer = b"".join(client.chat(self.backend, self._name, QUESTION, stream=False))
        return client.text_of(answer)

    def _manifest(self) -> str:
        return self._subject.artifacts(self._spec).manifest.digest

    def _names(self) -> set[str]:
        return {one.name for one in self.backend.list()}

    def _observed(self) -> Sequence[Resource]:
        return self.backend.observe(self._name).resources

    def _observed_plainly(self) -> list[str]:
        return self._plain(self._name)

    def _plain(self, name: str) -> list[str]:
        return sorted(one.id for one in self.backend.observe(name).resources)
