"""SIGKILL at every write: the next run goes on, and nothing is made twice or left behind."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from tests.support.sagemaker_bench import Bench
from tests.support.sagemaker_child import delete, deploy
from tests.support.sagemaker_plane import Plane

KILLED = -9


@pytest.fixture
def server() -> ForkServerContext:
    """Makes processes that have boto3 loaded already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.sagemaker_child"])
    return context


def run_killed(
    plane: Plane, server: ForkServerContext, what: object, root: Path, at: int, late: bool
) -> bool:
    """Run ``what`` in a process that dies at its ``at``-th write; whether it did die."""
    environment = plane.environment | {"LLAMA_HUB_HOME": os.environ["LLAMA_HUB_HOME"]}
    child = server.Process(target=what, args=(environment, str(root)))  # type: ignore[arg-type]
    plane.forget()
    child.start()
    assert child.pid is not None
    plane.kill_pid, plane.kill_at, plane.hurry = child.pid, (at, late), True
    child.join(60)
    plane.kill_at, plane.hurry = None, False
    assert child.exitcode in (0, KILLED), child.exitcode
    return child.exitcode == KILLED


EVERY = [pytest.param(7, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)]


# Odd places are killed before the write is done, even ones after it.
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stride", EVERY)
def test_deploying(plane: Plane, bench: Bench, server: ForkServerContext, stride: int) -> None:
    bench.deploy()
    expected = sorted(plane.inventory())
    bench.delete()
    places = 0
    for at in range(1, 60, stride):
        root = bench.root / f"run-{at}"
        if not run_killed(plane, server, deploy, root, at, late=at % 2 == 0):
            break
        places += 1
        other = Bench(plane, bench.aws, root)
        assert other.deploy().status == "ready"
        assert sorted(plane.inventory()) == expected, f"after a kill at write {at}"
        assert other.plan().changes == ()
        other.delete()
        assert plane.inventory() == [], f"after a kill at write {at}"
    assert places * stride > 12


@pytest.mark.timeout(900)
@pytest.mark.parametrize("stride", EVERY)
def test_deleting(plane: Plane, bench: Bench, server: ForkServerContext, stride: int) -> None:
    places = 0
    for at in range(1, 60, stride):
        root = bench.root / f"run-{at}"
        other = Bench(plane, bench.aws, root)
        other.deploy()
        killed = run_killed(plane, server, delete, root, at, late=at % 2 == 1)
        if not killed:
            break
        places += 1
        if plane.inventory():
            other.delete()
        assert plane.inventory() == [], f"after a kill at write {at}"
    assert places * stride > 6
