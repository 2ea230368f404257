"""Plan, apply, fail, undo, delete, collect, on the simulated backend."""

from __future__ import annotations

import dataclasses
import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from llama_hub.backends.memory.platform import Fault
from llama_hub.deploy import attest, gc, plan_file
from llama_hub.deploy.apply import ApplyOptions
from llama_hub.deploy.backend import TAG_TTL, Deployed, Step
from llama_hub.deploy.deployer import Deployer
from llama_hub.deploy.plan import ordered
from llama_hub.errors import (
    NotFoundError,
    ProvisioningError,
    StalePlanError,
    TransientError,
    UsageError,
)
from tests.support.deployments import PROMPT, Bench, artifact, no_sleep, spec

BOOM = "the simulated machine does not start"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def fail(bench: Bench, at: str, *, when: Any = "after", times: int = 1) -> None:
    bench.platform.faults.append(Fault(at, ProvisioningError(BOOM), when, times))


def test_planning_writes_nothing_anywhere(bench: Bench) -> None:
    made = bench.deployer.plan(spec())
    assert [step.action for step in made.steps] == ["create"] * 4
    assert bench.platform.writes == 0
    assert not (bench.root / "journals").exists()


def test_a_second_apply_has_zero_writes(bench: Bench) -> None:
    bench.deploy()
    writes = bench.platform.writes
    journal = bench.deployer.journal("x").path.read_bytes()
    assert bench.deploy().status == "ready"
    assert bench.platform.writes == writes
    assert bench.deployer.journal("x").path.read_bytes() == journal


def test_the_plan_tells_cost_memory_licence_and_manifest(bench: Bench) -> None:
    document = bench.deployer.plan(spec(replicas_max=3)).to_json()
    assert document["cost_per_hour"] == pytest.approx(0.05)
    assert document["cost_per_hour_most"] == pytest.approx(0.15)
    assert document["cost_per_month"] == pytest.approx(36.5)
    assert document["price_source"]
    assert document["need"]["total_bytes"] > 0
    assert document["manifest"].startswith("sha256:")
    assert document["license"] == "llama-hub-demo"
    assert json.loads(json.dumps(document)) == document


def test_a_saved_plan_is_applied_if_it_still_holds(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plan_file.write(bench.deployer.plan(spec()), path)
    assert path.stat().st_mode & 0o077 == 0
    saved = plan_file.read(path)
    assert saved == dataclasses.replace(saved)
    assert bench.deployer.apply(saved, PROMPT).status == "ready"
    assert bench.deployer.apply(plan_file.read(path), PROMPT).status == "ready"  # done already


def test_a_short_models_own_context_is_the_default(bench: Bench) -> None:
    planned = bench.deployer.plan(spec(context=4096))  # what a spec has that says nothing
    assert planned.spec is not None
    assert planned.spec.context == 256
    assert bench.deployer.apply(planned, PROMPT).status == "ready"
    assert bench.deployer.plan(spec(context=4096)).changes == ()
    with pytest.raises(UsageError, match="300 tokens is more than the 256") as refused:
        bench.deployer.plan(spec(context=300))
    assert refused.value.hint == "--context 256"


def test_a_plan_that_came_true_meanwhile_is_done(bench: Bench, tmp_path: Path) -> None:
    """As when another machine did it, or what a cut-off run left behind finished by itself."""
    planned = bench.deployer.plan(spec())
    other = Deployer(bench.backend, artifacts=lambda _: artifact(bench.folder), root=tmp_path / "j")
    other.apply(other.plan(spec()), PROMPT)
    writes = bench.platform.writes
    assert bench.deployer.apply(planned, PROMPT).status == "ready"
    assert bench.platform.writes == writes


@pytest.mark.parametrize("change", ["the model", "a resource", "another deployment of it"])
def test_a_saved_plan_is_refused_after_a_change_of(
    change: str, bench: Bench, tmp_path: Path
) -> None:
    bench.deploy()
    plan_file.write(bench.deployer.plan(spec(environment={"A": "1"})), tmp_path / "plan.json")
    if change == "the model":
        bench.new_model("other bytes")
    elif change == "a resource":
        del bench.platform.records["endpoint/x"]
    else:
        bench.deploy(environment={"B": "2"})
    writes = bench.platform.writes
    with pytest.raises(StalePlanError, match="no longer what the plan was made for"):
        bench.deployer.apply(plan_file.read(tmp_path / "plan.json"), PROMPT)
    assert bench.platform.writes == writes


def test_an_edited_plan_is_refused(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plan_file.write(bench.deployer.plan(spec()), path)
    document = json.loads(path.read_text())
    document["plan"][2]["body"]["instance"] = "eight-gpu"
    path.write_text(json.dumps(document))
    with pytest.raises(UsageError, match="edited"):
        plan_file.read(path)
    path.write_text("{}")
    with pytest.raises(UsageError, match="is missing"):
        plan_file.read(path)


def test_a_failed_first_deployment_is_removed_and_its_log_kept(bench: Bench) -> None:
    fail(bench, "revision/*")
    with pytest.raises(ProvisioningError, match=BOOM) as caught:
        bench.deploy()
    assert bench.ids() == {next(one for one in bench.ids() if one.startswith("model/"))}
    kept = list(bench.deployer.journal("x").folder.glob("failure-*.log"))
    assert "exit code 1" in kept[0].read_text()
    assert str(kept[0]) in caught.value.hint
    assert list(bench.backend.list()) == []
    assert bench.deploy().status == "ready"  # and the upload is used again


def test_a_failed_deployment_is_kept_for_who_wants_to_look(bench: Bench) -> None:
    fail(bench, "revision/*")
    keep = ApplyOptions(on_failure="keep", sleep=no_sleep)
    with pytest.raises(ProvisioningError) as caught:
        bench.deploy(options=keep)
    assert "llama-hub delete x" in caught.value.hint
    assert [one.status for one in bench.backend.list()] == ["failed"]
    made = bench.deployer.plan(spec())
    assert [one.action for one in made.changes][0] == "replace"
    assert bench.deployer.apply(made, PROMPT).status == "ready"


@pytest.mark.parametrize("at", ["model/*", "revision/*", "traffic/*"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_failed_update_leaves_what_was_there(at: str, when: str, bench: Bench) -> None:
    before = bench.deploy().generation
    fail(bench, at, when=when)
    ids = bench.ids()
    if at == "model/*":
        bench.new_model("two")
    with pytest.raises(ProvisioningError) as caught:
        bench.deploy(environment={"A": "2"})
    assert "what was there before is back" in caught.value.hint
    assert bench.backend.status("x").generation == before
    assert ids <= bench.ids()
    assert {one for one in bench.ids() - ids if not one.startswith("model/")} == set()


def test_when_undoing_fails_too_both_are_told(bench: Bench) -> None:
    fail(bench, "revision/*", times=2)
    bench.platform.faults.append(Fault("endpoint/*", ProvisioningError("locked"), times=0))
    done: list[str] = []
    execute = bench.backend.execute

    def only_creates(step: Step, context: Any) -> Any:
        done.append(step.action)
        if step.action == "delete":
            raise ProvisioningError("locked")
        return execute(step, context)

    bench.backend.execute = only_creates  # type: ignore[method-assign]
    with pytest.raises(ProvisioningError, match=BOOM) as caught:
        bench.deploy()
    assert "locked" in caught.value.hint
    assert "llama-hub gc" in caught.value.hint
    bench.backend.execute = execute  # type: ignore[method-assign]
    left = gc.find(bench.backend, root=bench.root / "journals")
    assert [one.reason for one in left] == ["cut off"]


def test_throttling_is_waited_out_with_growing_pauses(bench: Bench) -> None:
    pauses: list[float] = []
    busy = [TransientError("429"), TransientError("429"), TransientError("503", retry_after=90)]
    bench.platform.faults += [Fault("revision/*", error) for error in busy]
    bench.deploy(options=ApplyOptions(sleep=pauses.append))
    assert pauses[0] < pauses[1] < pauses[2]
    assert pauses[2] >= 90


def test_throttling_that_does_not_end_fails_and_is_undone(bench: Bench) -> None:
    bench.platform.faults.append(Fault("revision/*", TransientError("429"), times=99))
    with pytest.raises(TransientError):
        bench.deploy()
    assert {one.split("/")[0] for one in bench.ids()} == {"model"}


@pytest.mark.parametrize(("choice", "left"), [("keep", True), ("remove", False)])
def test_ctrl_c_keeps_or_undoes(choice: Any, left: bool, bench: Bench) -> None:
    bench.platform.faults.append(Fault("traffic/*", KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        bench.deploy(options=ApplyOptions(on_interrupt=lambda: choice, sleep=no_sleep))
    assert ("endpoint/x" in bench.ids()) is left
    assert (bench.deployer.journal("x").history().open is not None) is left
    assert bench.deploy().status == "ready"


def test_two_applies_of_one_name_exclude_each_other(bench: Bench) -> None:
    inside, leave = threading.Event(), threading.Event()
    execute = bench.backend.execute

    def slow(step: Step, context: Any) -> Any:
        inside.set()
        leave.wait(30)
        return execute(step, context)

    bench.backend.execute = slow  # type: ignore[method-assign]
    made = bench.deployer.plan(spec())
    first = threading.Thread(target=lambda: bench.new_deployer().apply(made, PROMPT))
    first.start()
    try:
        assert inside.wait(30)
        with pytest.raises(ProvisioningError, match="another llama-hub is working"):
            bench.new_deployer().apply(made, PROMPT)
        # What is under way is no leftover.
        assert gc.find(bench.backend, root=bench.root / "journals") == []
    finally:
        leave.set()
        first.join()
    assert bench.backend.status("x").status == "ready"


def test_drift_is_found_and_mended(bench: Bench) -> None:
    bench.deploy()
    assert list(bench.deployer.drift("x")) == []
    revision = next(key for key in bench.ids() if key.startswith("revision/"))
    bench.platform.records[revision]["body"]["concurrency"] = 99
    drift = bench.deployer.drift("x")
    assert [(one.action, one.why) for one in drift] == [("update", "concurrency differ")]
    bench.deploy()
    assert list(bench.deployer.drift("x")) == []


def test_rollback_needs_an_earlier_revision(bench: Bench) -> None:
    with pytest.raises(NotFoundError):
        bench.deployer.plan_rollback("x")
    bench.deploy()
    with pytest.raises(NotFoundError, match="no earlier revision"):
        bench.deployer.plan_rollback("x")


class NoRollback:
    """The memory backend, less the capability to roll back by itself."""

    def __init__(self, backend: Any) -> None:
        for name in dir(backend):
            if not name.startswith("_") and name != "plan_rollback":
                setattr(self, name, getattr(backend, name))


def test_rollback_without_the_platforms_help_deploys_the_earlier_spec(bench: Bench) -> None:
    bench.backend = NoRollback(bench.backend)  # type: ignore[assignment]
    bench.deployer = bench.new_deployer()
    first = bench.deploy().generation
    bench.deploy(environment={"A": "2"})
    back = bench.deployer.apply(bench.deployer.plan_rollback("x"), PROMPT)
    assert back.generation == first
    bench.deploy(environment={"A": "3"})
    bench.new_model("other")
    with pytest.raises(NotFoundError, match="download or convert|earlier revision served"):
        bench.deployer.plan_rollback("x")


def test_what_vanished_by_other_hands_can_still_be_deleted(bench: Bench) -> None:
    bench.deploy()
    bench.platform.records.clear()
    gone = bench.deployer.apply(bench.deployer.plan_delete("x"), PROMPT)
    assert gone.status == "absent"
    with pytest.raises(NotFoundError):
        bench.deployer.plan_delete("x")


def test_gc_finds_expired_lifetimes_and_orphans_and_spares_the_rest(bench: Bench) -> None:
    bench.deploy("short", ttl=3600)
    bench.deploy("long")
    del bench.platform.records["endpoint/long"]
    bench.deploy("long")  # mended
    bench.platform.records["model/lost"] = {
        **next(one for one in bench.platform.records.values() if one["kind"] == "model"),
        "name": "lost",
        "tags": {"llama-hub:deployment": "gone"},
    }
    root = bench.root / "journals"
    assert [one.reason for one in gc.find(bench.backend, root=root)] == ["orphan"]
    later = datetime.now(UTC) + timedelta(hours=2)
    left = gc.find(bench.backend, root=root, now=later)
    assert [(one.reason, one.name) for one in left] == [("expired", "short"), ("orphan", "gone")]
    for one in left:
        gc.remove(bench.deployer, one, PROMPT)
    assert gc.find(bench.backend, root=root, now=later) == []
    assert [one.name for one in bench.backend.list()] == ["long"]


def test_the_lifetime_is_a_tag_and_survives_a_plan(bench: Bench) -> None:
    bench.deploy(ttl=3600)
    assert bench.backend.status("x").tags[TAG_TTL] == "3600"
    assert bench.deployer.plan(spec(ttl=3600)).changes == ()
    assert bench.deployer.plan(spec(ttl=7200)).changes != ()


def test_attest_notices_another_model_and_another_licence(bench: Bench) -> None:
    bench.deploy()
    find = lambda wanted: artifact(bench.folder)  # noqa: E731
    lines = {one.what: one.ok for one in attest.attest(bench.deployer, "x", find).checks}
    assert lines == {
        "served": True, "tags": True, "local": True, "license": False, "upload": True
    }  # fmt: skip
    revision = next(key for key in bench.ids() if key.startswith("revision/"))
    bench.platform.records[revision]["served"] = "sha256:other"
    found = attest.attest(bench.deployer, "x", find)
    assert (found.ok, found.served) == (False, "sha256:other")
    bench.new_model("changed here")
    lines = {one.what: one.ok for one in attest.attest(bench.deployer, "x", find).checks}
    assert lines["local"] is False


def test_a_backend_whose_plan_goes_in_a_circle_is_stopped_before_anything_is_sent() -> None:
    one = Step("create", "a", "1", "", after=("b/1",))
    two = Step("create", "b", "1", "", after=("a/1",))
    with pytest.raises(ProvisioningError, match="circle"):
        ordered([one, two])
    with pytest.raises(ProvisioningError, match="two steps"):
        ordered([one, one])
    with pytest.raises(ProvisioningError, match="unknown"):
        ordered([one])
    three = Step("create", "c", "1", "")
    done = ordered([dataclasses.replace(one, after=("c/1",)), three])
    assert [step.id for step in done] == ["c/1", "a/1"]


def test_the_facts_of_earlier_steps_reach_later_ones(bench: Bench) -> None:
    seen: dict[str, set[str]] = {}
    execute = bench.backend.execute

    def watch(step: Step, context: Any) -> Any:
        seen[step.id] = set(context.facts)
        return execute(step, context)

    bench.backend.execute = watch  # type: ignore[method-assign]
    bench.deploy()
    assert "endpoint/x" in seen["traffic/x"]


@pytest.mark.parametrize(
    ("created", "ttl"),
    [("yesterday", "60"), ("2026-01-01T00:00:00Z", "9" * 30), ("2026-01-01", "9" * 12), ("", "1")],
)
def test_a_lifetime_that_nobody_can_read_ends_nothing(created: str, ttl: str) -> None:
    deployed = Deployed("x", "memory", "ready", None, None, None, created, tags={TAG_TTL: ttl})
    assert gc.expiry(deployed) is None
