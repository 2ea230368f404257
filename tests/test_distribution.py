"""A foreign ``llama_hub`` in the environment is noticed, and the hint is a command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llama_hub.distribution import install_command
from tests.support.command import run

ROOT = Path(__file__).parents[1]


FOREIGN_PACKAGES = {
    "their file in our place": 'sys.path[:0] = ["."]',
    # What stays after ``pip uninstall llama-hub``: a package without its __init__.py.
    "no file": 'sys.modules["llama_hub"] = types.ModuleType("llama_hub")',
}


@pytest.mark.parametrize("setup", FOREIGN_PACKAGES.values(), ids=FOREIGN_PACKAGES)
def test_the_command_says_that_llama_hub_is_another_projects(tmp_path: Path, setup: str) -> None:
    package = tmp_path / "llama_hub"
    package.mkdir()
    (package / "__init__.py").write_text('"""Init file."""\n__all__ = ["VERSION"]\n')
    code = f"import sys, types; sys.path.insert(0, {str(ROOT)!r}); {setup}; import llama2_hub"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; llama2_hub.main()"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "not this project's" in done.stderr
    assert "hint: pip uninstall -y llama-hub && pip install --force-reinstall" in done.stderr


def test_on_windows_the_command_says_so_before_it_imports_anything(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.platform = 'win32'"
    broken = tmp_path / "fcntl.py"  # what Windows does not have
    broken.write_text("raise ImportError\n")
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import llama2_hub; llama2_hub.main()"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "hint: wsl --install" in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_notices_the_other_distribution(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "llama_hub-0.0.79.post1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: llama-hub\nVersion: 0.0.79.post1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    shown = run("doctor", "--json")
    (check,) = [each for each in shown.json["checks"] if each["name"] == "distribution"]
    assert shown.code == 1
    assert not check["ok"]
    assert "0.0.79.post1" in check["detail"]
    assert check["hint"].startswith("pip uninstall -y llama-hub && ")


def test_an_extra_is_installed_under_the_name_of_our_own() -> None:
    assert install_command("azure", "serve") == "pip install 'llama2-hub[azure,serve]'"
