"""``llama-hub export``: a saved plan as files; nothing else is asked or changed."""

from __future__ import annotations

from pathlib import Path

from llama_hub.backends.memory.backend import MemoryBackend
from llama_hub.backends.memory.platform import Platform
from llama_hub.deploy.deployer import Deployer
from llama_hub.deploy.plan_file import write
from tests.support.command import run
from tests.support.deployments import artifact, make_folder, spec


def saved_plan(tmp_path: Path) -> Path:
    folder = make_folder(tmp_path / "model")
    deployer = Deployer(
        MemoryBackend(Platform()), artifacts=lambda _: artifact(folder), root=tmp_path / "j"
    )
    write(deployer.plan(spec("x")), tmp_path / "plan.json")
    return tmp_path / "plan.json"


def test_a_backend_without_a_language_says_so(tmp_path: Path) -> None:
    refused = run("export", str(saved_plan(tmp_path)), "bicep", str(tmp_path / "out"), "--json")
    assert refused.code == 2
    assert "memory has no language" in refused.json["error"]["message"]
    assert not (tmp_path / "out").exists()


def test_a_plan_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    refused = run("export", str(tmp_path / "plan.json"), "bicep", str(tmp_path / "out"), "--json")
    assert refused.code != 0
    assert set(refused.json) == {"error"}
