"""A local deployment keeps the bytes that it was deployed with, whatever becomes of the model."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llama_hub.backends.local import backend as local
from llama_hub.backends.local import held
from llama_hub.backends.local.processes import identity
from llama_hub.backends.local.state import Folder
from llama_hub.deploy.backend import Artifact
from llama_hub.errors import DiskFullError, IntegrityError
from llama_hub.hub import unchanged
from llama_hub.hub.catalog import load
from llama_hub.hub.manifest import read
from llama_hub.inference.service import served_model
from tests.support import foreign
from tests.support.command import run
from tests.support.deployments import artifact, make_folder

STANDIN = Path(__file__).parents[2] / "support" / "standin.py"
MODEL = "llama-demo"


@pytest.fixture
def store(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The model's place in the store, and a local backend whose service is a stand-in."""
    command = (sys.executable, str(STANDIN))
    monkeypatch.setattr(
        local.LocalBackend.__init__, "__kwdefaults__", {"root": "", "command": command}
    )
    yield make_folder(home / "models" / MODEL / "hf", "first")
    for path in (home / "deployments" / "local").glob("*/service"):
        state = Folder(path).state()
        run("delete", path.parent.name, "--backend", "local", "--yes")
        assert state is None or identity(state.pid) != state.identity


def deploy(model: str = MODEL, *words: str) -> Any:
    return run(
        "deploy", "local", model, "--name", "x", "--context", "256", "--yes", "--json", *words
    )


def served() -> dict[str, Any]:
    url = run("status", "x", "--json").json["url"]
    answer: dict[str, Any] = httpx.get(url, timeout=30).json()
    return answer


def restarted() -> dict[str, Any]:
    """What the replica serves after it was killed and started again."""
    before = served()["pid"]
    os.kill(before, signal.SIGKILL)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            found = served()
            if found["pid"] != before:
                return found
        except (httpx.HTTPError, ValueError):
            pass
        time.sleep(0.05)
    raise AssertionError("the replica was not started again")


def settled() -> dict[str, Any]:
    """The status once it is ready and nothing drifts from what was deployed."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        found: dict[str, Any] = run("status", "x", "--json").json
        if found.get("drift") == [] and found["status"] == "ready":
            return found
        time.sleep(0.05)
    raise AssertionError(f"it does not settle: {found}")


def republish(store: Path, content: str) -> None:
    """As a download or a quantisation does: a new folder in the place of the old one."""
    fresh = make_folder(store.with_name("fresh"), content)
    shutil.rmtree(store)
    fresh.rename(store)


def test_a_replica_restarts_from_the_bytes_it_was_deployed_with(store: Path, home: Path) -> None:
    first = deploy()
    assert first.code == 0, first.stderr
    republish(store, "second")
    assert restarted()["content"] == "first"
    assert run("remove", MODEL, "--yes", "--json").code == 2
    assert run("remove", MODEL, "--yes", "--force", "--json").code == 0
    assert restarted()["content"] == "first"
    assert settled()["manifest"] == first.json["manifest"]
    checks = {one["what"]: one["ok"] for one in run("attest", "x", "--json").json["checks"]}
    assert (checks["served"], checks["tags"], checks["local"]) == (True, True, True)


def test_a_failed_deploy_leaves_the_old_bytes_serving(store: Path) -> None:
    assert deploy().code == 0
    republish(store, "second")
    port = run("status", "x", "--json").json["url"]
    failed = deploy(
        MODEL, "--set", "environment.STANDIN_FAIL=1", "--set", "options.api_key=true",
        "--set", "tags.team=a",
    )  # fmt: skip
    assert failed.code == 8
    assert "what was there before is back" in failed.json["error"]["hint"]
    assert run("status", "x", "--json").json["url"] == port
    assert restarted()["content"] == "first"
    assert settled()["status"] == "ready"


def test_update_and_rollback_have_each_their_own_bytes(store: Path, home: Path) -> None:
    assert deploy().code == 0
    republish(store, "second")
    assert deploy().code == 0
    assert served()["content"] == "second"
    republish(store, "third")
    back = run("rollback", "x", "--json", "--yes")
    assert back.code == 0, back.stderr
    assert served()["content"] == "first"
    assert restarted()["content"] == "first"
    models = home / "deployments" / "local" / "x" / "service" / "models"
    assert len(list(models.iterdir())) == 2
    republish(store, "fourth")
    assert deploy().code == 0
    assert len(list(models.iterdir())) == 2  # the present one and the one before
    assert run("delete", "x", "--json", "--yes").code == 0
    assert not models.exists()
    assert (store / "model.safetensors").read_text() == "fourth"


def test_a_folder_from_elsewhere_is_verified_and_held(store: Path, tmp_path: Path) -> None:
    mine = make_folder(tmp_path / "mine", "mine")
    assert deploy(str(mine)).code == 0
    shutil.rmtree(mine)
    assert restarted()["content"] == "mine"
    evil = shutil.copytree(store, tmp_path / "evil")
    foreign.damage(evil, "model.safetensors")
    refused = deploy(str(evil))
    assert refused.code == 5
    assert "not what its manifest says" in refused.json["error"]["message"]
    assert served()["content"] == "mine"


# the pieces


def take(folder: Path, target: Path) -> Path:
    held.hold(artifact(folder), target)
    return target


def test_files_are_shared_with_the_store_not_copied(store: Path, tmp_path: Path) -> None:
    target = take(store, tmp_path / "held" / "x")
    assert read(target).digest == read(store).digest
    weights = target / "model.safetensors"
    assert weights.read_text() == "first"
    assert (
        weights.stat().st_nlink == 2
        or weights.stat().st_ino != (store / "model.safetensors").stat().st_ino
    )
    before = foreign.tree(target)
    assert foreign.tree(take(store, target)) == before
    republish(store, "second")
    assert foreign.tree(target) == before


def test_where_files_cannot_be_shared_they_are_copied_or_there_is_no_room(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_disk(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", other_disk)
    target = take(store, tmp_path / "held" / "x")
    assert (target / "model.safetensors").read_text() == "first"
    assert (target / "model.safetensors").stat().st_mode & 0o077 == 0
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
    monkeypatch.setattr(held, "_clone", lambda *arguments: False)
    with pytest.raises(DiskFullError, match="keeps its own copy"):
        take(store, tmp_path / "held" / "y")
    assert not (tmp_path / "held" / "y").exists()


@pytest.mark.parametrize("kind", ["missing", "shorter", "pipe", "folder"])
def test_what_is_not_the_manifests_file_is_not_held(kind: str, store: Path, tmp_path: Path) -> None:
    wanted = artifact(store)
    weights = store / "model.safetensors"
    weights.unlink()
    if kind == "shorter":
        weights.write_text("x")
    elif kind == "pipe":
        os.mkfifo(weights)
    elif kind == "folder":
        weights.mkdir()
    with pytest.raises(IntegrityError, match="is not the file that the manifest lists"):
        held.hold(wanted, tmp_path / "held" / "x")
    assert not (tmp_path / "held" / "x").exists()


def test_a_folder_that_is_replaced_while_it_is_taken_gives_no_mixture(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All files come from the folder that was opened, or it is an error; never from both."""
    take_one = held._take
    wanted = artifact(store)

    def replaced(*arguments: Any) -> None:
        take_one(*arguments)
        republish(store, "other")

    monkeypatch.setattr(held, "_take", replaced)
    with pytest.raises(IntegrityError):
        held.hold(wanted, tmp_path / "held" / "x")
    monkeypatch.undo()


def write_into(path: Path, content: str) -> None:
    """Other bytes in the same file, which a hard link shares."""
    with path.open("r+") as file:
        file.write(content)


def test_bytes_that_were_written_into_are_not_served_and_are_taken_anew(
    store: Path, tmp_path: Path
) -> None:
    target = take(store, tmp_path / "held" / "x")
    manifest = read(store)
    unchanged.check(target, manifest)
    write_into(target / "model.safetensors", "FIRST")
    with pytest.raises(IntegrityError, match="not what its manifest says"):
        unchanged.check(target, manifest)
    with pytest.raises(IntegrityError, match="not what its manifest says"):
        served_model.mounted(target, load())
    shutil.rmtree(store)
    make_folder(store, "first")
    take(store, target)
    unchanged.check(target, manifest)
    assert (target / "model.safetensors").read_text() == "first"


def test_a_damaged_model_is_not_deployed(store: Path) -> None:
    write_into(store / "model.safetensors", "FIRST")
    refused = deploy()
    assert refused.code == 5
    assert "not what its manifest says" in refused.json["error"]["message"]


@pytest.mark.parametrize("note", ["garbage", "{}", "[]", None])
def test_a_note_that_says_nothing_means_that_all_is_read(
    note: str | None, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = take(store, tmp_path / "held" / "x")
    path = target / unchanged.NAME
    path.unlink()
    if note is not None:
        path.write_text(note)
        unchanged.check(target, read(store))
        monkeypatch.setattr(unchanged, "verify", None)  # nothing is read a second time
    unchanged.check(target, read(store))


def test_written_into_it_is_attested_no_more(store: Path, home: Path) -> None:
    assert deploy().code == 0
    write_into(store / "model.safetensors", "FIRST")
    found = run("attest", "x", "--json")
    assert found.code == 5
    [local] = [one for one in found.json["checks"] if one["what"] == "local"]
    assert "model.safetensors" in local["evidence"] or not held_by_link(home, store)


def held_by_link(home: Path, store: Path) -> bool:
    [copy] = (home / "deployments/local/x/service/models").glob("*/model.safetensors")
    return copy.samefile(store / "model.safetensors")


def test_nothing_is_deleted_where_there_is_no_other(store: Path, tmp_path: Path) -> None:
    target = take(store, tmp_path / "held" / "x")
    own = artifact(target)
    write_into(target / "model.safetensors", "FIRST")
    before = foreign.tree(target)
    with pytest.raises(IntegrityError, match="the store has the model no more"):
        held.hold(own, target)
    assert foreign.tree(target) == before


def test_what_a_killed_run_left_is_made_anew(store: Path, tmp_path: Path) -> None:
    target = tmp_path / "held" / "x"
    for half in (target, target.with_name(".x.partial")):
        half.mkdir(parents=True)
        (half / "model.safetensors").write_text("half")
    assert (take(store, target) / "model.safetensors").read_text() == "first"
    assert [path.name for path in target.parent.iterdir()] == ["x"]


def test_only_what_a_revision_needs_is_kept(tmp_path: Path) -> None:
    places = [held.place(tmp_path, f"sha256:{digit * 64}") for digit in "123"]
    for folder in places:
        folder.mkdir(parents=True)
    held.release(tmp_path, [str(places[1])])
    assert list((tmp_path / "models").iterdir()) == [places[1]]
    assert isinstance(artifact(make_folder(tmp_path / "a")), Artifact)
