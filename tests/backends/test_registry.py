"""Backends by name: ours from the table, a stranger's from its own distribution."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llama_hub.backends import registry
from llama_hub.deploy.conformance import BackendContract, Subject
from llama_hub.deploy.spec import DeploymentSpec
from llama_hub.errors import NotFoundError, UsageError
from tests.support.command import run, spawn
from tests.support.deployments import artifact, make_folder, spec

PLUGIN = Path(__file__).parents[1] / "support" / "plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample backend, built and installed as its own distribution into a folder."""
    source = tmp_path_factory.mktemp("source") / "plugin"
    shutil.copytree(PLUGIN, source)
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--no-index", "--target", str(target), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return target


@pytest.fixture
def fly(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(installed))
    return installed


def test_every_built_in_backend_is_a_class_with_the_contract(tmp_path: Path) -> None:
    for name in registry.BUILT_IN:
        found = registry.backend_class(name)
        assert found.name == name
        assert isinstance(found.location, tuple)


def test_an_unknown_name_is_refused_with_a_guess() -> None:
    with pytest.raises(NotFoundError, match="azure, huggingface, local") as caught:
        registry.get("sagemakr")
    assert "did you mean sagemaker" in caught.value.hint


def test_a_plugin_is_found_with_its_origin_and_imported_when_used(fly: Path) -> None:
    assert registry.names()[-1] == "fly"
    assert registry.origin("fly") == "llama-hub-fly 1.2.3"
    assert registry.get("fly", platform="/tmp/x").configured()


def test_settings_that_a_backend_does_not_take_are_named(fly: Path, home: Path) -> None:
    home.mkdir()
    (home / "config.toml").write_text('[backends.fly]\nplatfrom = "x"\n')
    with pytest.raises(UsageError, match="platfrom"):
        registry.get("fly")


def test_what_a_backend_class_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Half:
        name = "half"
        location = ()

        def execute(self) -> None: ...

    entry = type("Entry", (), {"load": lambda self: Half, "name": "half", "dist": None})()
    monkeypatch.setattr(registry, "_plugins", lambda: {"half": entry})
    with pytest.raises(UsageError, match=r"Half.*lacks .*observe, plan, .*options_model") as caught:
        registry.backend_class("half")
    assert "docs/backends.md" in caught.value.hint


def test_a_broken_plugin_hides_no_other_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[llama_hub.backends]\nbroken = no_such_module:X\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match=r"broken 1\.0.*no_such_module"):
        registry.get("broken")
    listed = run("backends", "--json").json["backends"]
    states = {one["name"]: one["state"] for one in listed}
    assert "no_such_module" in states["broken"]
    assert states["local"] == "ready"
    assert "simulation" in states["memory"]  # it answers, and serves nothing
    shown = run("ps", "--json")  # whole, and with the exit code of what could not be asked
    assert [error["backend"] for error in shown.json["errors"]] == ["broken"]
    assert shown.code == 2


def test_a_plugin_cannot_take_the_name_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "thief-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thief\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[llama_hub.backends]\nlocal = json:JSONDecoder\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert registry.backend_class("local").__module__ == "llama_hub.backends.local.backend"
    assert registry.origin("local") == "built in"


class TestFly(BackendContract):
    """As the plugin's own project would test it."""

    @pytest.fixture
    def subject(self, fly: Path, tmp_path: Path) -> Subject:
        folder = make_folder(tmp_path / "model")
        platform = str(tmp_path / "platform")
        wanted = DeploymentSpec(
            **{**spec("trial").to_json(), "backend": "fly", "options": {"platform": platform}}
        )
        return Subject(
            lambda: registry.get("fly", platform=platform),
            wanted,
            lambda asked: artifact(folder),
            tmp_path / "journals",
        )


def test_a_plugin_is_used_from_the_command_line(installed: Path, home: Path) -> None:
    make_folder(home / "models" / "llama-demo" / "hf")
    platform = f"options.platform={home / 'fly'}"
    environment = {"PYTHONPATH": str(installed) + os.pathsep + os.environ.get("PYTHONPATH", "")}

    def fly(*words: str) -> object:
        done = spawn([*words, "--json"], environment=environment)
        assert done.code == 0, done.stderr
        return done.json

    deployed = fly("deploy", "fly", "llama-demo", "--name", "x", "--set", platform)
    assert isinstance(deployed, dict)
    assert deployed["status"] == "ready"
    # The journal knows where it is, although nothing is configured.
    assert fly("status", "x")["drift"] == []  # type: ignore[index]
    assert [one["name"] for one in fly("ps")["deployments"]] == ["x"]  # type: ignore[index]
    assert fly("delete", "x", "--yes")["status"] == "absent"  # type: ignore[index]
    assert list((home / "fly").iterdir()) == []


def test_a_secret_in_the_settings_is_refused_and_not_shown(home: Path) -> None:
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text('[backends.huggingface]\ntoken = "hf_abcdefghijkl"\n')
    shown = run("deploy", "huggingface", "llama-2-7b-chat", "--plan", "--json")
    assert shown.code == 2
    assert "backends.huggingface.token" in shown.stderr + shown.stdout
    assert "hf_abcdefghijkl" not in shown.stderr + shown.stdout
