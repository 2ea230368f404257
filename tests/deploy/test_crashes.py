"""SIGKILL at every journal boundary and at random moments: the next run converges.

The pretend cloud's platform is a file, so it outlives the killed process as a cloud would.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from llama_hub.backends.memory.platform import Platform
from llama_hub.deploy import gc
from llama_hub.deploy.journal import Journal
from tests.support.crashing import calls_of, killed_at
from tests.support.deployments import PROMPT, Bench
from tests.support.tiers import family

NEW = {"environment": {"SHADE": "dark"}}


def bench_in(root: Path) -> Bench:
    root.mkdir(parents=True, exist_ok=True)
    return Bench(root, Platform(file=root / "world.json"))


def ids_of(bench: Bench) -> set[str]:
    with bench.platform.open() as records:
        return set(records)


def deploy(bench: Bench) -> None:
    bench.deploy()


def update(bench: Bench) -> None:
    bench.deploy(**NEW)


def scale(bench: Bench) -> None:
    bench.deploy(replicas_min=2, replicas_max=2)


def delete(bench: Bench) -> None:
    deployer = bench.new_deployer()
    deployer.apply(deployer.plan_delete("x"), PROMPT)


WORK: dict[str, tuple[list[Callable[[Bench], None]], Callable[[Bench], None]]] = {
    "create": ([], deploy),
    "update": ([deploy], update),
    "scale": ([deploy], scale),
    "delete": ([deploy, update], delete),
}


def outcome(root: Path, name: str) -> set[str]:
    """What is there after the work without any crash."""
    bench = bench_in(root)
    for step in [*WORK[name][0], WORK[name][1]]:
        step(bench)
    return ids_of(bench)


def finish(bench: Bench, name: str) -> None:
    """The next run of the same command, as a person would start it."""
    from llama_hub.errors import NotFoundError

    try:
        WORK[name][1](bench)
    except NotFoundError:
        assert name == "delete"  # everything was gone already


def check_all_is_well(bench: Bench, name: str, expected: set[str]) -> None:
    assert ids_of(bench) == expected
    assert gc.find(bench.backend, root=bench.root / "journals") == []
    if name != "delete":
        writes = bench.platform.writes
        finish(bench, name)
        assert bench.platform.writes == writes  # the run after that is all noop
        delete(bench)
    assert ids_of(bench) == set()


@pytest.mark.parametrize("name", WORK)
def test_killed_at_every_journal_boundary(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = outcome(tmp_path / "clean", name)
    append = Journal._append
    boundaries = 0

    def count(self: Journal, event: str, **facts: object) -> None:
        nonlocal boundaries
        boundaries += 1
        append(self, event, **facts)

    with monkeypatch.context() as patch:
        bench = bench_in(tmp_path / "counted")
        for step in WORK[name][0]:
            step(bench)
        patch.setattr(Journal, "_append", count)
        WORK[name][1](bench)
    assert boundaries >= 4
    for boundary in range(boundaries):
        for after in (False, True):
            crash_at_boundary(tmp_path / f"{boundary}-{after}", name, boundary, after, expected)


def crash_at_boundary(
    root: Path, name: str, boundary: int, after: bool, expected: set[str]
) -> None:
    import os
    import signal

    bench = bench_in(root)
    for step in WORK[name][0]:
        step(bench)
    append = Journal._append

    def dying() -> None:
        left = boundary

        def count(self: Journal, event: str, **facts: object) -> None:
            nonlocal left
            if left == 0 and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            append(self, event, **facts)
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

        Journal._append = count  # type: ignore[method-assign]
        WORK[name][1](bench)

    assert killed_at(1 << 40, dying)
    finish(bench, name)
    check_all_is_well(bench, name, expected)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[set[str], int]]:
    """For each work: what is there after it, and how many calls it takes."""
    found = {}
    for name, (before, work) in WORK.items():
        counted = bench_in(tmp_path_factory.mktemp(name))
        for step in before:
            step(counted)
        calls = calls_of(lambda work=work, counted=counted: work(counted))  # type: ignore[misc]
        found[name] = (ids_of(counted), calls)
    return found


@pytest.mark.parametrize("seed", family(range(100), 6))
def test_killed_at_a_random_moment_and_again_while_recovering(
    seed: int, measured: dict[str, tuple[set[str], int]], tmp_path: Path
) -> None:
    chance = random.Random(seed)
    name = chance.choice(list(WORK))
    expected, calls = measured[name]
    bench = bench_in(tmp_path)
    for step in WORK[name][0]:
        step(bench)
    for _ in range(chance.randint(1, 3)):
        killed_at(chance.randrange(1, calls), lambda: finish(bench, name))
    finish(bench, name)
    check_all_is_well(bench, name, expected)


def test_gc_proposes_a_first_deployment_that_was_cut_off_and_removes_it(tmp_path: Path) -> None:
    bench = bench_in(tmp_path)
    deploy(bench_in(tmp_path / "warm"))  # imports and caches would count as calls
    calls = calls_of(lambda: deploy(bench_in(tmp_path / "counted")))
    killed_at(calls * 2 // 3, lambda: deploy(bench))
    assert ids_of(bench)
    left = gc.find(bench.backend, root=bench.root / "journals")
    assert [one.reason for one in left] == ["cut off"]
    gc.remove(bench.new_deployer(), left[0], PROMPT)
    assert ids_of(bench) == set()
    assert gc.find(bench.backend, root=bench.root / "journals") == []


def test_a_saved_plan_can_be_taken_up_again_after_a_crash(tmp_path: Path) -> None:
    from llama_hub.deploy.plan_file import read, write
    from tests.support.deployments import spec

    bench = bench_in(tmp_path)
    write(bench.deployer.plan(spec()), tmp_path / "plan.json")
    calls = calls_of(lambda: deploy(bench_in(tmp_path / "counted")))
    for share in (0.5, 0.6, 0.7):
        killed_at(int(calls * share), lambda: bench.new_deployer().apply(
            read(tmp_path / "plan.json"), PROMPT
        ))  # fmt: skip
    done = bench.new_deployer().apply(read(tmp_path / "plan.json"), PROMPT)
    assert done.status == "ready"
