"""Resources of other people in a deployment's place, and journals that always have an end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llama_hub.backends.memory.platform import Fault
from llama_hub.deploy import deployer, gc
from llama_hub.deploy.backend import Observed, Step, Target
from llama_hub.errors import AccessError, NotFoundError, NotOursError, ProvisioningError, UsageError
from tests.support.deployments import PROMPT, Bench, spec


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def stranger(bench: Bench) -> None:
    """Somebody else has an endpoint of that name."""
    bench.platform.records["endpoint/x"] = {
        "kind": "endpoint", "name": "x", "state": "running", "created": "2026-01-01T00:00:00Z",
        "body": {}, "tags": {"team": "other"}, "served": "", "hidden": 0, "log": [],
    }  # fmt: skip


def leftovers(bench: Bench) -> list[gc.Leftover]:
    return gc.find(bench.backend, root=bench.root / "journals")


def test_a_place_that_others_have_is_refused_by_the_plan(bench: Bench) -> None:
    stranger(bench)
    with pytest.raises(NotOursError, match="endpoint/x exists in memory") as caught:
        bench.deployer.plan(spec())
    assert "--name" in caught.value.hint
    assert bench.platform.writes == 0
    assert not (bench.root / "journals").exists()


def test_what_others_have_is_no_deployment_and_is_never_deleted(bench: Bench) -> None:
    stranger(bench)
    assert list(bench.backend.list()) == []
    assert leftovers(bench) == []
    with pytest.raises(NotFoundError, match="endpoint/x was not made by llama-hub"):
        bench.deployer.plan_delete("x")


def test_a_place_taken_between_plan_and_apply(bench: Bench) -> None:
    plan = bench.deployer.plan(spec())
    stranger(bench)
    with pytest.raises(NotOursError):
        bench.deployer.apply(plan, PROMPT)
    assert bench.ids() == {"endpoint/x"}


@pytest.mark.parametrize("ending", ["gc", "delete"])
def test_a_journal_that_names_what_others_have_comes_to_its_end(bench: Bench, ending: str) -> None:
    bench.platform.faults.append(Fault("endpoint/*", KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        bench.deploy()
    stranger(bench)
    if ending == "delete":
        bench.deployer.apply(bench.deployer.plan_delete("x"), PROMPT)
    for left in leftovers(bench):
        gc.remove(bench.new_deployer(), left, PROMPT)
    assert leftovers(bench) == []
    assert not bench.deployer.journal("x").history().exists
    assert bench.ids() == {"endpoint/x"}


def test_an_undo_that_fails_goes_on_with_the_rest_and_names_what_stays(bench: Bench) -> None:
    bench.platform.faults.append(Fault("traffic/*", ProvisioningError("no traffic")))
    execute = bench.backend.execute

    def keeps_revisions(step: Step, context: Any) -> Any:
        if (step.action, step.kind) == ("delete", "revision"):
            raise AccessError("you may not delete revisions")
        return execute(step, context)

    bench.backend.execute = keeps_revisions  # type: ignore[method-assign]
    with pytest.raises(ProvisioningError, match="no traffic") as caught:
        bench.deploy()
    hint = caught.value.hint
    assert "endpoint/x" not in bench.ids(), "what bills was not removed"
    for part in ("may not delete revisions", "still there: ", "revision/x-", "$0.05", "gc"):
        assert part in hint
    bench.backend.execute = execute  # type: ignore[method-assign]
    for left in leftovers(bench):
        gc.remove(bench.new_deployer(), left, PROMPT)
    assert bench.ids() == set()


def test_an_undo_that_breaks_in_an_unknown_way_does_not_hide_the_cause(bench: Bench) -> None:
    bench.platform.faults.append(Fault("revision/*", ProvisioningError("no machine")))

    def broken(name: str, observed: Observed) -> Any:
        raise KeyError("surprise")

    bench.backend.plan_delete = broken  # type: ignore[method-assign]
    with pytest.raises(ProvisioningError, match="no machine") as caught:
        bench.deploy()
    assert "surprise" in caught.value.hint


def test_what_an_undo_leaves_is_named(bench: Bench) -> None:
    bench.platform.faults.append(Fault("revision/*", ProvisioningError("no machine")))
    with pytest.raises(ProvisioningError) as caught:
        bench.deploy()
    (upload,) = bench.ids()
    assert f"removed again, except {upload}" in caught.value.hint
    assert [one.resources[0].id for one in leftovers(bench)] == [upload]


def test_forgetting_asks_no_platform_and_names_what_may_stay(bench: Bench) -> None:
    bench.deploy()
    journal = bench.deployer.journal("x")
    bench.platform.faults.append(Fault("*", AccessError("the account is closed"), times=99))
    standing = deployer.forget(journal)
    assert {one.partition("/")[0] for one in standing} == {
        "model", "endpoint", "revision", "traffic",
    }  # fmt: skip
    assert not journal.history().exists
    assert journal.history().standing == ()


class Judging:
    """The memory backend, with an opinion on specs."""

    def __init__(self, bench: Bench) -> None:
        self._backend = bench.backend
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def validate(self, target: Target, observed: Observed) -> None:
        self.asked += 1
        if "region" in target.spec.environment:
            raise UsageError("there is no such region")


def test_input_that_only_the_platform_can_judge_is_judged_before_anything_is_made(
    bench: Bench,
) -> None:
    bench.backend = judging = Judging(bench)  # type: ignore[assignment]
    bench.deployer = bench.new_deployer()
    bench.deploy()
    assert judging.asked == 2  # for the plan, and again before it is done
    bench.deployer.drift("x")
    assert judging.asked == 2
    writes = bench.platform.writes
    with pytest.raises(UsageError, match="no such region"):
        bench.deploy(environment={"region": "mars"})
    assert bench.platform.writes == writes
