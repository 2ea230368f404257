"""The local backend under SIGKILL and under the conformance suite; real processes throughout."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_hub.backends.local.backend import LocalBackend
from llama_hub.backends.local.processes import identity
from llama_hub.backends.local.state import Folder
from llama_hub.backends.local.state_files import SupervisorLock
from llama_hub.backends.local.supervisor import Supervisor
from llama_hub.deploy import gc
from llama_hub.deploy.conformance import BackendContract, Subject
from llama_hub.deploy.deployer import Deployer
from llama_hub.deploy.journal import Journal
from llama_hub.errors import NotFoundError
from tests.support.crashing import calls_of, killed_at
from tests.support.deployments import artifact, make_folder, spec
from tests.support.local import STANDIN, until
from tests.support.tiers import exhaustive, family


def backend_in(root: Path) -> LocalBackend:
    return LocalBackend(root=str(root / "local"), command=[sys.executable, str(STANDIN)])


def deployer_in(root: Path) -> Deployer:
    folder = make_folder(root / "model")
    return Deployer(
        backend_in(root), artifacts=lambda wanted: artifact(folder), root=root / "journals"
    )


def deploy(root: Path, **changes: Any) -> Any:
    deployer = deployer_in(root)
    return deployer.apply(deployer.plan(spec("x", backend="local", **changes)))


def delete(root: Path) -> None:
    deployer = deployer_in(root)
    deployer.apply(deployer.plan_delete("x"))


def processes_of(root: Path) -> list[int]:
    """Every process of this machine whose command line names the test's folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(root).encode() in words and identity(int(entry.name)):
                found.append(int(entry.name))
    return found


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    try:
        delete(tmp_path)
    except NotFoundError:
        pass


def check_one_supervisor_and_one_replica(root: Path) -> None:
    deployed = deploy(root)  # what a person would do after a crash
    assert deployed.status == "ready"
    folder = Folder(root / "local" / "x" / "service")
    state = folder.state()
    assert state is not None
    assert sorted(processes_of(root)) == sorted([state.pid, state.children[0].pid or 0])
    assert len(state.children) == 1
    assert deployer_in(root).plan(spec("x", backend="local")).changes == ()
    assert gc.find(backend_in(root), root=root / "journals") == []
    delete(root)
    assert processes_of(root) == []
    assert not folder.path.exists()


LINES = 8  # of a deployment's journal: begin, three times intent and outcome, end


@pytest.mark.parametrize("line", family([0, 3, 7, 1, 2, 4, 5, 6], 3))
def test_killed_after_a_line_of_the_journal(line: int, root: Path) -> None:
    append = Journal._append

    def dying() -> None:
        left = line

        def count(self: Journal, event: str, **facts: object) -> None:
            nonlocal left
            append(self, event, **facts)
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        Journal._append = count  # type: ignore[method-assign]
        deploy(root)

    assert killed_at(1 << 40, dying)
    check_one_supervisor_and_one_replica(root)


@pytest.mark.exhaustive
def test_a_deployment_has_so_many_lines(root: Path) -> None:
    deploy(root)
    path = deployer_in(root).journal("x").path
    assert len(path.read_text().splitlines()) == LINES


def supervise(root: Path) -> None:
    """Be the supervisor, as the process that a deployment starts is."""
    folder = Folder(root / "local" / "x" / "service")
    lock = SupervisorLock(folder.lock)
    assert lock.take()
    asyncio.run(Supervisor(folder, lock).run())


@pytest.mark.parametrize("seed", family(range(30), 2))
def test_a_supervisor_killed_at_a_random_moment_leaves_nothing_in_the_way(
    seed: int, root: Path
) -> None:
    deploy(root)
    folder = Folder(root / "local" / "x" / "service")
    state = folder.state()
    assert state is not None
    os.kill(state.pid, signal.SIGKILL)
    until(lambda: not folder.is_supervised and len(processes_of(root)) == 0)
    assert killed_at(random.Random(seed).randrange(50, 30_000), lambda: supervise(root))
    until(lambda: len(processes_of(root)) == 0)
    check_one_supervisor_and_one_replica(root)


@pytest.mark.parametrize("seed", family(range(5), 2))
def test_killed_at_a_random_moment(seed: int, root: Path) -> None:
    chance = random.Random(seed)
    calls = calls_of(lambda: deploy(root))
    delete(root)
    killed_at(chance.randrange(calls // 10, calls), lambda: deploy(root))
    check_one_supervisor_and_one_replica(root)


def test_killed_while_updating_the_old_revision_goes_on_answering(root: Path) -> None:
    import httpx

    url = deploy(root).url
    changed = {"environment": {"SHADE": "dark"}}
    calls = calls_of(lambda: deployer_in(root).plan(spec("x", backend="local", **changed)))
    for share in (1, 2, 4):
        killed_at(calls * 2 + calls * share, lambda: deploy(root, **changed))
        assert httpx.get(url).status_code == 200
    deploy(root, **changed)
    assert httpx.get(f"{url}/manifest").json()["environment"]["SHADE"] == "dark"
    assert len(processes_of(root)) == 2


@pytest.mark.sized
class TestLocal(BackendContract):
    """The conformance suite with the stand-in for the service."""

    @pytest.fixture
    def subject(self, tmp_path: Path) -> Subject:
        folder = make_folder(tmp_path / "model")
        return Subject(
            lambda: backend_in(tmp_path),
            spec("x", backend="local"),
            lambda wanted: artifact(folder),
            tmp_path / "journals",
            crash_everywhere=exhaustive(),
        )
