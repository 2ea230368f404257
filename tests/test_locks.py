"""The lock files: up to date, every entry with a digest, the same versions as constraints.txt."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools import lock

ROOT = Path(__file__).resolve().parents[1]
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)", re.MULTILINE)


def pins(text: str) -> dict[str, str]:
    return {name.lower().replace("_", "-"): version for name, version in PIN.findall(text)}


def test_no_lock_is_stale() -> None:
    assert lock.stale() == []


def test_a_changed_pin_makes_every_lock_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "inputs_digest", lambda: "0" * 64)
    assert len(lock.stale()) == len(list(lock.FOLDER.glob("*.txt")))


@pytest.mark.parametrize("path", sorted(lock.FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_every_entry_names_the_digests_of_its_files(path: Path) -> None:
    listed = [entry for entry in lock.entries(path.read_text()) if not entry.startswith("#")]
    assert listed
    for entry in listed:
        assert re.match(r"[A-Za-z0-9._-]+(\[[\w,-]+\])?==", entry), entry[:60]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry[:60]


@pytest.mark.parametrize("name", [*lock.EXTRAS, "torch-cpu"])
def test_locked_versions_are_the_ones_that_the_tests_run_with(name: str) -> None:
    constrained = pins((ROOT / "constraints.txt").read_text())
    for package, version in pins((lock.FOLDER / f"{name}.txt").read_text()).items():
        if package in constrained:
            assert version == constrained[package], package


def test_the_build_of_torch_is_a_choice_of_its_own() -> None:
    for name in ("base", "serve", "all", "test"):
        assert "torch" not in pins((lock.FOLDER / f"{name}.txt").read_text())
    cuda = pins((lock.FOLDER / "torch-cuda.txt").read_text())
    assert cuda["torch"] == lock.TORCH_VERSION
    assert any(package.startswith("nvidia-") for package in cuda)
