"""The test that every backend passes: what a deployment must do, on any platform.

From a shell: ``llama-hub backends test NAME``. With pytest, in anybody's project::

    class TestFly(BackendContract):
        @pytest.fixture
        def subject(self, tmp_path):
            return Subject(lambda: FlyBackend(), spec, artifacts, tmp_path)

One scenario, step by step, since creating something may take minutes; a line
that fails ends it, and what it made is removed. It deploys two things, so it
costs what two deployments cost for as long as it runs.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama_hub.deploy import attest, calling
from llama_hub.deploy.apply import Manner
from llama_hub.deploy.backend import (
    TAG_DEPLOYMENT,
    TAG_LICENSE,
    TAG_MANIFEST,
    TAG_SPEC,
    Backend,
    Context,
    Deployed,
    Observed,
    Step,
    Target,
)
from llama_hub.deploy.collect import find
from llama_hub.deploy.deployer import Artifacts, Deployer
from llama_hub.deploy.plan import Plan, identity
from llama_hub.deploy.spec import DeploymentSpec
from llama_hub.errors import LlamaHubError, NotFoundError, ProvisioningError, UsageError

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

Reference = Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True)
class Subject:
    """What is tested, and with what."""

    make: Callable[[], Backend]  # a new object on the same platform, as a new process makes it
    spec: DeploymentSpec  # small; its name is the scenario's own
    artifacts: Artifacts
    root: Path  # for the journals
    reference: Reference | None = None  # the local core's greedy answer to a chat body
    manner: Manner = field(default_factory=Manner)
    crash_everywhere: bool = True  # False: at one place only, where creating takes long


@dataclass(frozen=True)
class Line:
    """One thing that was looked at."""

    what: str
    ok: bool
    evidence: str
    seconds: float
    skipped: bool = False


@dataclass(frozen=True)
class Report:
    """Every line, in the order of the scenario."""

    backend: str
    lines: tuple[Line, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing failed and the scenario came to its end."""
        return all(line.ok for line in self.lines)

    def to_json(self) -> dict[str, Any]:
        """The document of ``backends test``."""
        lines = [dataclasses.asdict(line) for line in self.lines]
        return {"backend": self.backend, "ok": self.ok, "checks": lines}

    def text(self) -> str:
        """One line each, as a person reads it."""
        marks = {True: "ok  ", False: "FAIL"}
        rows = [
            f"{'skip' if line.skipped else marks[line.ok]}  {line.what}: {line.evidence} "
            f"({line.seconds:.1f} s)"
            for line in self.lines
        ]
        verdict = "conforms" if self.ok else "does not conform"
        return "\n".join([*rows, f"{self.backend} {verdict}"])


class BackendContract:
    """Base class of a pytest test: give it a fixture ``subject`` that returns a ``Subject``."""

    def test_conforms(self, subject: Subject) -> None:
        """The whole scenario."""
        report = run(subject)
        assert report.ok, report.text()


class SkipError(Exception):
    """The platform cannot do this, and says so itself."""


class CrashError(BaseException):
    """As if the process were killed: nothing of ours may catch it."""


def run(subject: Subject, tell: Callable[[str], None] = lambda line: None) -> Report:
    """Play the scenario; ``tell`` hears the name of each part as it begins."""
    scenario = Scenario(subject)
    lines = []
    try:
        for what, part in scenario.parts():
            tell(what)
            lines.append(_line(what, part))
            if not lines[-1].ok:
                break
    finally:
        lines.append(_line("nothing of it is left behind", scenario.clean_up))
    return Report(scenario.backend.name, tuple(lines))


def _line(what: str, part: Callable[[], str]) -> Line:
    begun = time.monotonic()
    try:
        evidence, ok, skipped = part(), True, False
    except SkipError as reason:
        evidence, ok, skipped = str(reason), True, True
    except Exception as error:
        evidence, ok, skipped = f"{type(error).__name__}: {error}", False, False
    return Line(what, ok, evidence, round(time.monotonic() - begun, 3), skipped)


def expect(condition: object, message: str) -> None:
    """``AssertionError`` with ``message`` unless ``condition``; works under ``python -O``."""
    if not condition:
        raise AssertionError(message)


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
        _expect_not_found(lambda: self.backend.status(self._name))
        _expect_not_found(lambda: self.backend.endpoint(self._name))
        expect(self._name not in self._names(), "ps lists what is not there")
        return "status, endpoint and list agree"

    def _planning(self) -> str:
        one, two = self._plan(self._spec), self._deployer().plan(self._spec)
        expect(_same(one, two), "two plans of one world differ")
        expect(one.changes, "the plan for what is absent has no changes")
        expect(not self._observed(), "planning made something")
        expect(not self._subject_deletes(), "a plan for something new deletes something")
        return f"{len(one.steps)} steps"

    def _subject_deletes(self) -> list[str]:
        return [one.id for one in self._plan(self._spec).steps if one.action == "delete"]

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
        found = [one for one in self._subject.make().list() if one.name == self._name]
        expect(len(found) == 1, f"ps lists it {len(found)} times")
        expect(found[0].manifest == self._manifest(), f"with the manifest {found[0].manifest}")
        expect(found[0].status == "ready", f"as {found[0].status}")
        return f"model {found[0].model}, created {found[0].created}"

    def _invoke(self) -> str:
        said = self._ask()
        expect(said, "the answer is empty")
        return repr(said)

    def _stream(self) -> str:
        pieces = calling.chat(self.backend, self._name, QUESTION, stream=True)
        said = calling.streamed_text(pieces)
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
        expect(not plan.changes, f"it would {_words(plan.changes)}")
        self._deployer().apply(plan, self._subject.manner)
        expect(self._observed_plainly() == before, "an empty plan changed something")
        return f"{len(plan.steps)} steps, all noop"

    def _logs(self) -> str:
        lines = list(self.backend.logs(self._name, tail=5))
        expect(len(lines) <= 5, f"tail=5 gave {len(lines)} lines")
        expect(all("\n" not in line for line in lines), "a log line holds a line end")
        return f"{len(lines)} lines"

    def _attest(self) -> str:
        found = attest.attest(self._deployer(), self._name, self._subject.artifacts)
        expect(found.served == self._manifest(), f"served is {found.served}")
        wrong = [f"{one.what}: {one.evidence}" for one in found.checks if not one.ok]
        # The scenario's artifacts may come from a test and then have no receipt in the ledger.
        expect(not [one for one in wrong if not one.startswith("license")], "; ".join(wrong))
        return f"{len(found.checks)} checks"

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
        scaled = self._deployer().apply(plan, self._subject.manner)
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
        back = deployer.apply(deployer.plan_rollback(self._name), self._subject.manner)
        expect(back.generation == self._first, f"it is {back.generation}, not {self._first}")
        plan = self._plan(self._spec)
        expect(not plan.changes, f"after rollback it would {_words(plan.changes)}")
        expect(self._ask(), "it does not answer after the rollback")
        return f"back to {self._first}"

    def _failed_update(self) -> str:
        before = self._observed_plainly()
        wanted = self._changed("3")
        count = len(self._plan(wanted).changes)
        first_creations = [
            place
            for place, step in enumerate(self._plan(wanted).changes)
            if step.action == "create" and step.undo
        ]
        place = first_creations[0] if first_creations else count - 1
        self._expect_failure(wanted, place)
        after = self._observed_plainly()
        extra = {one for one in after if one not in before and not self._may_stay(one)}
        expect(not extra, f"left behind: {sorted(extra)}")
        expect(set(before) <= set(after), f"gone: {sorted(set(before) - set(after))}")
        expect(self._ask(), "the old revision does not answer any more")
        return f"failed at step {place + 1} of {count}; the old revision answers"

    def _may_stay(self, resource: str) -> bool:
        """Whether a plan says of this resource that a failure does not remove it."""
        steps = self._plan(self._changed("3")).steps
        return resource in {step.id for step in steps if not step.undo}

    def _delete(self) -> str:
        neighbour = self._plain(self._bystander.name)
        self._remove(self._name)
        expect(not self._observed(), "something of it is left")
        _expect_not_found(lambda: self.backend.status(self._name))
        expect(self._name not in self._names(), "ps still lists it")
        expect(self._plain(self._bystander.name) == neighbour, "its neighbour was touched")
        self._expect_no_leftovers()
        return "absence proven, the neighbour is whole"

    def _failed_create(self) -> str:
        count = len(self._plan(self._spec).changes)
        for place in range(count) if self._subject.crash_everywhere else [count - 1]:
            self._expect_failure(self._spec, place)
            left = [one for one in self._observed_plainly() if not self._stays(one)]
            expect(not left, f"failing at step {place + 1} leaves {left}")
            self._remove_leftovers()
        return f"at {count if self._subject.crash_everywhere else 1} places"

    def _stays(self, resource: str) -> bool:
        steps = self._plan(self._spec).steps
        return resource in {step.id for step in steps if not step.undo}

    def _crashes(self) -> str:
        places = self._places(len(self._plan(self._spec).changes))
        clean = self._clean_ids()
        for place, after in places:
            self._crash(lambda: self._plan(self._spec), place, after)
            self._apply(self._spec)
            found = set(self._observed_plainly())
            expect(found == clean, f"after a crash at {place + 1}: {sorted(found ^ clean)}")
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
        found = set(self._observed_plainly())
        self._remove(self._name)
        return found

    def _crash(self, plan: Callable[[], Plan], place: int, after: bool) -> None:
        broken = _Faulty(self.backend, place, after, CrashError())
        try:
            self._deployer(broken).apply(plan(), self._subject.manner)
        except CrashError:
            return
        raise AssertionError("the crash did not happen")

    def _expect_failure(self, spec: DeploymentSpec, place: int) -> None:
        broken = _Faulty(self.backend, place, True, ProvisioningError("made to fail"))
        try:
            self._deployer(broken).apply(self._plan(spec), self._subject.manner)
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
        from llama_hub.deploy.collect import remove

        for left in self._leftovers():
            remove(self._deployer(), left, self._subject.manner)

    def _leftovers(self) -> list[Any]:
        mine = (self._name, self._bystander.name)
        return [one for one in find(self.backend, root=self._subject.root) if one.name in mine]

    def _expect_no_leftovers(self) -> None:
        found = [one for one in self._leftovers() if one.name == self._name]
        expect(not found, f"gc finds {[one.to_json() for one in found]}")

    def _remove(self, name: str) -> None:
        deployer = self._deployer()
        deployer.apply(deployer.plan_delete(name), self._subject.manner)

    def _apply(self, spec: DeploymentSpec) -> Deployed:
        deployer = self._deployer()
        return deployer.apply(deployer.plan(spec), self._subject.manner)

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
        answer = b"".join(calling.chat(self.backend, self._name, QUESTION, stream=False))
        return calling.text_of(answer)

    def _manifest(self) -> str:
        return self._subject.artifacts(self._spec).manifest.digest

    def _names(self) -> set[str]:
        return {one.name for one in self.backend.list()}

    def _observed(self) -> Sequence[Any]:
        return self.backend.observe(self._name).resources

    def _observed_plainly(self) -> list[str]:
        return self._plain(self._name)

    def _plain(self, name: str) -> list[str]:
        return sorted(one.id for one in self.backend.observe(name).resources)


class _Faulty:
    """A backend that fails or crashes at its ``place``-th step, before or after doing it."""

    def __init__(self, backend: Backend, place: int, after: bool, error: BaseException) -> None:
        self._backend = backend
        self._left = place
        self._after = after
        self._error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def execute(self, step: Step, context: Context) -> Mapping[str, Any]:
        """Do the step, unless it is its turn to fail."""
        self._left -= 1
        if self._left == -1 and not self._after:
            raise self._error
        facts = self._backend.execute(step, context)
        if self._left == -1:
            raise self._error
        return facts


def _same(one: Plan, two: Plan) -> bool:
    return [identity(step) for step in one.steps] == [identity(step) for step in two.steps]


def _words(steps: Sequence[Step]) -> str:
    return ", ".join(f"{step.action} {step.id} ({step.why})" for step in steps)


def _expect_not_found(call: Callable[[], object]) -> None:
    try:
        call()
    except NotFoundError:
        return
    except LlamaHubError as error:
        raise AssertionError(f"{type(error).__name__} instead of NotFoundError: {error}") from error
    raise AssertionError("no NotFoundError for what is absent")


__all__ = [
    "BackendContract", "Line", "Observed", "Report", "Scenario", "Subject", "Target", "run",
]  # fmt: skip
