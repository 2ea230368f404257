"""Whatever becomes of a deployment's files: it goes on serving, and every command works.

The unreadable file (mode 000) is not here: whoever runs tests as root can read it. It comes out of
the same ``OSError`` as the others.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llama_hub.backends.local import state as local_state
from llama_hub.backends.local import state_files
from llama_hub.backends.local.documents import (
    DESIRED,
    DesiredState,
    ReplicaState,
    Revision,
    SupervisorState,
    seal,
    unseal,
)
from llama_hub.backends.local.processes import identity, kill_replica
from llama_hub.backends.local.state import Folder
from llama_hub.backends.local.supervisor import Supervisor
from llama_hub.deploy import gc
from llama_hub.deploy.apply import ApplyOptions
from llama_hub.errors import NotFoundError
from llama_hub.files import is_locked, locked
from tests.support.damage import DAMAGES, SEALED_DAMAGES
from tests.support.local import STANDIN, Local, until

DESIRED_FILES = ["desired.json", "desired.backup.json"]
FILES = {
    "desired": DESIRED_FILES[:1],
    "backup": DESIRED_FILES[1:],
    "both": DESIRED_FILES,
    "state": ["state.json"],
    "key": ["key"],
    "lock": ["lock"],
    "change lock": ["desired.lock"],
    "service log": ["service.log"],
    "supervisor log": ["supervisor.log"],
    "all": [*DESIRED_FILES, "state.json", "key", "lock", "desired.lock", "service.log"],
}
SEALED = {"desired", "backup", "both", "state"}


def cases(quick: Callable[[str, str], bool]) -> list[Any]:
    """Every file and damage; those that are not ``quick`` are for exhaustive runs."""
    return [
        pytest.param(
            files,
            damage,
            marks=[] if quick(files, damage) else pytest.mark.exhaustive,
            id=f"{files}: {damage}",
        )
        for files in FILES
        for damage in (SEALED_DAMAGES if files in SEALED else DAMAGES)
    ]


def hurt(folder: Folder, files: str, damage: str) -> None:
    for name in FILES[files]:
        path = folder.path / name
        if path.is_file() and not path.is_symlink():
            SEALED_DAMAGES[damage](path)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """A deployment with a key, for all tests that only damage its files."""
    made = Local(tmp_path_factory.mktemp("live"))
    made.deploy(options={"api_key": True})
    yield made
    made.delete()


def check_commands(local: Local, status: str = "ready") -> None:
    """What ``ps``, ``status``, ``logs`` and ``gc`` ask for.

    Where nothing is left to read, ``status`` is right once the supervisor has looked again.
    """
    until(lambda: local.backend.status("x").status == status)
    assert [one.name for one in local.backend.list()] == ["x"]
    assert isinstance(list(local.backend.logs("x", tail=5)), list)
    assert gc.find(local.backend, root=local.root / "journals") == []


@pytest.mark.parametrize(
    ("files", "damage"),
    cases(
        lambda files, damage: (
            (files == "all" and damage in ("missing", "zeroed", "wrong type", "folder", "pipe"))
            or (files in ("both", "state", "lock") and damage in ("truncated", "folder"))
            or (files, damage) in {("key", "truncated"), ("backup", "edited")}
        )
    ),
)
def test_while_it_runs_it_serves_on_and_restores_what_was_damaged(
    files: str, damage: str, live: Local
) -> None:
    before, url, key = live.get()["pid"], live.backend.endpoint("x").url, live.folder.key()
    hurt(live.folder, files, damage)
    assert httpx.get(url, headers={"Authorization": f"Bearer {key}"}).json()["pid"] == before
    check_commands(live)
    assert live.get()["pid"] == before
    assert live.backend.endpoint("x").url == url
    assert live.deployer.plan(live.spec(options={"api_key": True})).changes == ()
    until(lambda: all(is_right(live.folder, name) for name in FILES[files]))
    assert live.folder.key() == key
    assert live.state.children[0].restarts == 0


def is_right(folder: Folder, name: str) -> bool:
    path = folder.path / name
    if name == "desired.lock" or name.endswith(".log"):
        return True  # made again when it is needed
    if not path.exists() or not stat.S_ISREG(path.lstat().st_mode):
        return False
    if name in DESIRED_FILES:
        return unseal(path, DesiredState, DESIRED) is not None
    return name != "state.json" or folder.living_state() is not None


def kill_supervisor(local: Local) -> None:
    state = local.state
    os.kill(state.pid, signal.SIGKILL)
    until(lambda: not local.folder.is_supervised)
    for child in state.children:
        until(lambda child=child: identity(child.pid) != child.identity)


@pytest.mark.parametrize(
    ("files", "damage"),
    cases(lambda files, damage: (files, damage) in {("both", "truncated"), ("all", "folder")}),
)
def test_after_a_crash_the_same_command_starts_it_again(
    files: str, damage: str, local: Local
) -> None:
    url = local.deploy(options={"api_key": True}).url
    kill_supervisor(local)
    hurt(local.folder, files, damage)
    if damage != "missing" or files not in ("both", "all"):
        check_commands(local, "stopped")
    again = local.deploy(options={"api_key": True})
    assert again.status == "ready"
    assert local.get()["content"] == "one"
    if files not in ("both", "all"):
        assert again.url == url
    assert local.deployer.plan(local.spec(options={"api_key": True})).changes == ()
    check_commands(local)


@pytest.mark.parametrize(
    ("files", "damage"),
    cases(lambda files, damage: (files, damage) in {("both", "null"), ("all", "pipe")}),
)
def test_after_a_crash_it_can_be_deleted(files: str, damage: str, local: Local) -> None:
    local.deploy(options={"api_key": True})
    kill_supervisor(local)
    hurt(local.folder, files, damage)
    local.delete()
    assert not local.folder.is_there
    with pytest.raises(NotFoundError):
        local.backend.status("x")


@pytest.mark.parametrize(
    ("place", "damage"),
    [
        ("x", "pipe"),
        ("x/service", "empty"),
        *[
            pytest.param(place, damage, marks=pytest.mark.exhaustive)
            for place in ("x", "x/service")
            for damage in ("empty", "link to nothing", "pipe")
        ],
    ],
)
def test_what_stands_in_the_place_of_its_folder_is_set_aside(
    place: str, damage: str, local: Local
) -> None:
    path = local.root / "local" / place
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    DAMAGES[damage](path)
    assert local.deploy().status == "ready"


def test_a_folder_of_which_nothing_is_left_is_a_leftover(local: Local) -> None:
    local.folder.path.mkdir(parents=True)
    (local.folder.path / "service.log").write_text("said\n")
    assert list(local.backend.list()) == []
    assert list(local.backend.logs("x")) == ["said"]
    (left,) = gc.find(local.backend, root=local.root / "journals")
    assert left.reason == "orphan"
    gc.remove(local.deployer, left, ApplyOptions())
    assert not local.folder.is_there


# state files that tell of processes which are not the deployment's


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that a state file names, but that is none of ours."""
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def naming(pid: int) -> SupervisorState:
    known = identity(pid)
    child = ReplicaState("g", 0, pid, known, 1, "ready", 0, "", "")
    return SupervisorState(pid, known, ("127.0.0.1", 1), "", "g", [], "", 0, [child])


def test_a_process_that_a_state_file_only_names_is_never_ended(
    local: Local, bystander: subprocess.Popen[bytes]
) -> None:
    local.deploy()
    kill_supervisor(local)
    local.folder.write_state(naming(bystander.pid))
    assert local.backend.status("x").status == "stopped"
    assert local.deploy().status == "ready"
    assert bystander.poll() is None
    kill_supervisor(local)
    local.folder.write_state(naming(bystander.pid))
    local.delete()
    assert bystander.poll() is None
    assert not kill_replica(bystander.pid, identity(bystander.pid), local.folder.path)


def test_a_second_supervisor_gives_way_also_where_the_lock_was_removed(local: Local) -> None:
    local.deploy()
    state = local.state
    (local.folder.path / "lock").unlink()
    until(lambda: local.folder.is_supervised)
    words = [sys.executable, "-m", "llama_hub.backends.local.supervisor", str(local.folder.path)]
    assert subprocess.run(words, check=False).returncode == 0
    assert local.state.pid == state.pid
    assert local.get()["content"] == "one"


# a full disk


def desired_of(root: Path) -> DesiredState:
    from tests.support.deployments import make_folder

    argv = [sys.executable, str(STANDIN), str(make_folder(root / "model"))]
    revision = Revision(argv, {}, {}, "", "cpu", 1, 0, True, {})
    return DesiredState("127.0.0.1", 0, False, {}, {"g": revision}, "g")


class Watched:
    """A supervisor in this process, so that a test can fill its disk."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        lock = state_files.SupervisorLock(folder.lock)
        assert lock.take()
        self.supervisor = Supervisor(folder, lock)

    def get(self, path: str = "/") -> Any:
        host, port = self.supervisor._address or ("", 0)
        return httpx.get(f"http://{host}:{port}{path}", timeout=10).json()


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_on_a_full_disk_it_serves_on_and_tells_the_truth_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_files, "AFTER_ERROR", 0.05)
    monkeypatch.setattr(local_state, "is_supervisor", lambda *_: True)  # it is in this process
    folder = Folder(tmp_path / "service")
    folder.write_desired(desired_of(tmp_path))
    watched = Watched(folder)
    errors: list[Exception] = []

    def work() -> None:
        try:
            until(lambda: (state := folder.living_state()) and state.serving == "g")
            with monkeypatch.context() as patch:
                patch.setattr(local_state, "write_state", full)
                (folder.path / "state.json").unlink()
                for name in DESIRED_FILES:
                    (folder.path / name).write_bytes(b"")
                before = watched.get()["pid"]
                os.kill(before, signal.SIGKILL)
                until(lambda: _answers(watched) not in (None, before))
                assert folder.living_state() is None
                status = folder.state()  # it lives, but cannot say what it does
                assert status is not None
                assert "cannot write" in status.trouble
            until(lambda: (state := folder.living_state()) and state.children[0].restarts == 1)
            assert folder.read_desired() == desired_of(tmp_path)
        except Exception as error:
            errors.append(error)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    worker = threading.Thread(target=work)
    monkeypatch.setattr(local_state, "HEALING", 0.2)
    worker.start()
    asyncio.run(watched.supervisor.run())
    worker.join()
    if errors:
        raise errors[0]


def _answers(watched: Watched) -> int | None:
    try:
        pid: int = watched.get()["pid"]
    except (httpx.HTTPError, KeyError, ValueError):
        return None
    return pid


def test_a_state_that_does_not_fit_elsewhere_is_written_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(tmp_path / "service")
    desired = desired_of(tmp_path)
    folder.write_desired(desired)
    with monkeypatch.context() as patch:
        patch.setattr("llama_hub.files.write_atomic", full)
        desired.active, desired.previous = "another", "g"
        with folder.change() as changing:
            changing.active, changing.previous = "another", "g"
        assert folder.read_desired() == desired
        desired.tags = {"note": "x" * 100_000}  # needs more than there is
        with pytest.raises(OSError, match="No space"):
            folder.write_desired(desired)
    assert (folder.read_desired() or desired).active == "another"


def test_on_a_full_disk_it_can_be_deleted(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    local.deploy()
    with monkeypatch.context() as patch:
        patch.setattr(local_state, "write_state", full)
        patch.setattr("llama_hub.deploy.journal.write_at", full)
        local.delete()
    assert not local.folder.is_there


def test_a_sealed_file_is_only_believed_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "desired.json"
    first, second = seal(desired_of(tmp_path)), seal(DesiredState("::1", 1, True))
    for cut in range(0, len(first), 97):
        path.write_bytes(second[:cut] + first[cut:])
        found = unseal(path, DesiredState, DESIRED)
        assert found in (None, desired_of(tmp_path), DesiredState("::1", 1, True))
    assert len(first) % 4096 == 0


def test_a_port_that_is_taken_keeps_nobody_waiting(tmp_path: Path) -> None:
    """The supervisor says so, serves nothing, and goes on trying."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        folder = Folder(tmp_path / "service")
        desired = desired_of(tmp_path)
        desired.port = port
        folder.write_desired(desired)
        lock = state_files.SupervisorLock(folder.lock)
        assert lock.take()
        supervisor = Supervisor(folder, lock)
        assert supervisor._read()
        asyncio.run(supervisor._listen())
        assert str(port) in supervisor._trouble


def test_somebody_who_only_looks_at_a_new_lock_does_not_end_the_supervisor(tmp_path: Path) -> None:
    path = tmp_path / "service" / "lock"
    lock = state_files.SupervisorLock(path)
    assert lock.take()
    path.unlink()
    with locked(path):  # as ``is_locked`` does for a moment
        assert lock.keep()
    assert lock.keep()
    assert is_locked(path)
    path.unlink()
    with locked(path):
        assert not all(lock.keep() for _ in range(state_files.REFUSALS))


def test_a_folder_that_was_removed_ends_the_supervisor_and_is_not_made_again(local: Local) -> None:
    local.deploy()
    state = local.state
    shutil.rmtree(local.folder.path)
    until(lambda: identity(state.pid) != state.identity)
    for child in state.children:
        until(lambda child=child: identity(child.pid) != child.identity)
    assert local.deploy().status == "ready"
