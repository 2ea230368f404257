"""A model check: any order of deploying, failing, crashing, drifting, deleting.

The oracle is a dictionary from name to the spec and model that were last deployed well. After
every step the simulated backend must hold exactly what the oracle says, and only uploads beside it.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llama_hub.backends.memory.platform import Fault
from llama_hub.deploy import gc
from llama_hub.errors import NotFoundError, ProvisioningError
from tests.support.deployments import PROMPT, Bench, artifact, make_folder, spec
from tests.support.tiers import examples

NAMES = st.sampled_from(["a", "a-b", "b"])
SHADES = st.sampled_from(["light", "dark", "grey"])
MODELS = st.sampled_from(["one", "two"])
REPLICAS = st.integers(1, 2)
PLACES = st.sampled_from(["model/*", "endpoint/*", "revision/*", "traffic/*"])
MOMENTS = st.sampled_from(["before", "after"])


class CrashError(BaseException):
    """The process is gone."""


class Deployments(RuleBasedStateMachine):
    """The deployer against a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.bench = Bench(self.root)
        self.folders = {name: make_folder(self.root / name, name) for name in ("one", "two")}
        self.good: dict[str, dict[str, Any]] = {}  # name → what was last deployed well
        self.unsettled: set[str] = set()  # names whose last run was cut off

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    def wanted(self, shade: str, replicas: int) -> dict[str, Any]:
        return {
            "environment": {"SHADE": shade}, "replicas_min": replicas, "replicas_max": replicas
        }  # fmt: skip

    def apply(self, name: str, model: str, changes: dict[str, Any]) -> None:
        self.bench.folder = self.folders[model]
        self.bench.deployer = self.bench.new_deployer()
        self.bench.deploy(name, PROMPT, **changes)

    @rule(name=NAMES, model=MODELS, shade=SHADES, replicas=REPLICAS)
    def deploy(self, name: str, model: str, shade: str, replicas: int) -> None:
        changes = self.wanted(shade, replicas)
        self.apply(name, model, changes)
        self.good[name] = {"model": model, "changes": changes}
        self.unsettled.discard(name)
        writes = self.bench.platform.writes
        self.apply(name, model, changes)
        assert self.bench.platform.writes == writes

    @rule(name=NAMES, model=MODELS, shade=SHADES, at=PLACES, when=MOMENTS)
    def fail(self, name: str, model: str, shade: str, at: str, when: Any) -> None:
        fault = Fault(at, ProvisioningError("made to fail"), when)
        self.bench.platform.faults = [fault]
        cut_off = name in self.unsettled
        changes = self.wanted(shade, 1)
        try:
            self.apply(name, model, changes)
            self.good[name] = {"model": model, "changes": changes}
        except ProvisioningError:
            if cut_off and name not in self.good:
                pass  # what a cut-off run had made is removed along
        self.bench.platform.faults = []
        self.unsettled.discard(name)
        if name in self.good and self.good[name] != {"model": model, "changes": changes}:
            # The way back needs the model of then; where that is gone, deploying mends it.
            self.apply(name, self.good[name]["model"], self.good[name]["changes"])

    @rule(name=NAMES, model=MODELS, shade=SHADES, at=PLACES, when=MOMENTS)
    def crash(self, name: str, model: str, shade: str, at: str, when: Any) -> None:
        self.bench.platform.faults = [Fault(at, CrashError(), when)]
        changes = self.wanted(shade, 1)
        try:
            self.apply(name, model, changes)
            self.good[name] = {"model": model, "changes": changes}
            self.unsettled.discard(name)
        except CrashError:
            self.unsettled.add(name)
        self.bench.platform.faults = []

    @precondition(lambda self: self.good)
    @rule(data=st.data())
    def drift(self, data: st.DataObject) -> None:
        """Somebody deletes or changes something by hand; the next deploy mends it."""
        name = data.draw(st.sampled_from(sorted(self.good)))
        records = self.bench.platform.records
        mine = [key for key in sorted(records) if self.belongs(key, name)]
        key = data.draw(st.sampled_from(mine)) if mine else None
        if key is not None and data.draw(st.booleans()):
            del records[key]
        elif key is not None:
            records[key]["tags"] = {**records[key]["tags"], "llama-hub:spec": "edited"}
        self.apply(name, self.good[name]["model"], self.good[name]["changes"])
        self.unsettled.discard(name)

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        deployer = self.bench.new_deployer()
        others = {key for key in self.bench.ids() if not self.belongs(key, name)}
        try:
            deployer.apply(deployer.plan_delete(name), PROMPT)
        except NotFoundError:
            assert name not in self.good
        self.good.pop(name, None)
        self.unsettled.discard(name)
        assert self.bench.ids() == others

    @rule()
    def gc(self) -> None:
        """Removes half-made first deployments and unused uploads, never what works."""
        for left in gc.find(self.bench.backend, root=self.root / "journals"):
            assert left.name not in self.good or left.reason == "orphan"
            gc.remove(self.bench.new_deployer(), left, PROMPT)
        self.unsettled &= set(self.good)

    def belongs(self, key: str, name: str) -> bool:
        return bool(self.bench.platform.records[key]["tags"]["llama-hub:deployment"] == name)

    @invariant()
    def what_works_is_what_the_oracle_says(self) -> None:
        settled = set(self.good) - self.unsettled
        for name in settled:
            deployed = self.bench.backend.status(name)
            expected = spec(name, **self.good[name]["changes"])
            manifest = artifact(self.folders[self.good[name]["model"]]).manifest
            assert deployed.status == "ready"
            assert deployed.manifest == manifest.digest
            assert deployed.generation == expected.revision(manifest.digest)
            assert deployed.replicas == expected.replicas_min

    @invariant()
    def nothing_else_is_there(self) -> None:
        for key in self.bench.ids():
            name = self.bench.platform.records[key]["tags"]["llama-hub:deployment"]
            if key.startswith("model/"):
                continue  # uploads are kept for the next try
            assert name in self.good or name in self.unsettled, key

    @invariant()
    def revisions_do_not_pile_up(self) -> None:
        for name in set(self.good) - self.unsettled:
            mine = [
                key for key in self.bench.ids()
                if key.startswith("revision/") and self.belongs(key, name)
            ]  # fmt: skip
            running = [
                key for key in mine if self.bench.platform.records[key]["state"] == "running"
            ]
            assert len(mine) <= 2, mine
            assert len(running) == 1, running


Deployments.TestCase.settings = settings(
    max_examples=examples(6, 200),
    derandomize=True,  # new orders are for a person to look for, not for CI to stumble over
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestDeployments = Deployments.TestCase


def test_a_failed_clean_up_of_an_old_upload_removes_the_new_deployment() -> None:
    """Orders that the search above once found."""
    state = Deployments()
    state.fail(at="model/*", model="two", name="b", shade="light", when="after")
    state.fail(at="traffic/*", model="one", name="b", shade="light", when="before")
    state.fail(at="model/*", model="one", name="b", shade="light", when="before")
    state.nothing_else_is_there()
    state.fail(at="model/*", model="one", name="a-b", shade="light", when="after")
    state.crash(at="revision/*", model="two", name="a-b", shade="light", when="after")
    state.fail(at="model/*", model="one", name="a-b", shade="light", when="before")
    state.nothing_else_is_there()
    state.teardown()
