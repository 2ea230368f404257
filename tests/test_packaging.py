"""The distribution: sdist → wheel → installed elsewhere → the command works from there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("licenses", "hub", "inference", "deploy", "backends", "cli")


def python(*arguments: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from an sdist built from a copy of the tracked files, links and all."""
    copy = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name, follow_symlinks=False)
    out = tmp_path_factory.mktemp("dist")
    python("-m", "build", "--no-isolation", "--outdir", str(out), ".", cwd=copy)
    return next(out.glob("*.whl"))


def test_the_wheel_holds_every_module_and_data_file(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(
        ["git", "ls-files", *FOLDERS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    wanted = {f"llama_hub/{name}" for name in listed.stdout.split() if (ROOT / name).exists()}
    assert wanted - inside == set()
    assert "llama_hub/py.typed" in inside
    strangers = {name for name in inside if not name.startswith(("llama_hub/", "llama2_hub"))}
    assert strangers == set()


def test_it_works_installed_elsewhere(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    python(
        "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel), cwd=tmp_path
    )
    seen = python(
        "-c", "import llama_hub.hub as h; print(h.__file__)", cwd=tmp_path, PYTHONPATH=str(site)
    )
    assert Path(seen.strip()).is_relative_to(site)
    shown = python(
        "-m", "llama_hub", "download", "llama-demo", "--json", cwd=tmp_path, PYTHONPATH=str(site)
    )
    assert '"manifest": "sha256:' in shown
