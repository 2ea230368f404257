"""The steps of docs/backends.md, done as the page says them."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from llama_hub.backends import registry
from llama_hub.errors import UsageError
from tests.support.command import run
from tests.support.documented import ROOT

PAGE = (ROOT / "docs/backends.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's project as pip leaves it: the module, and the entry point of its pyproject."""
    project = tomllib.loads(re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[0])["project"]
    (group, points), *_ = project["entry-points"].items()
    info = tmp_path / "llama_hub_fly-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 1.0\n"
    )
    lines = [f"{name} = {target}" for name, target in points.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]) + "\n")
    (tmp_path / "llama_hub_fly.py").write_text(PYTHON[0])
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # the file changes within a second
    before = sys.modules.pop("llama_hub_fly", None)
    yield tmp_path
    sys.modules.pop("llama_hub_fly", None)
    if before is not None:
        sys.modules["llama_hub_fly"] = before


def test_the_skeleton_is_a_backend_that_doctor_asks(site: Path) -> None:
    listed = {one["name"]: one for one in run("backends", "--json").json["backends"]}
    assert listed["fly"]["origin"] == "llama-hub-fly 1.0"
    made = registry.get("fly", organisation="trial")
    assert made.configured()
    assert [line.name for line in made.check()] == ["organisation"]
    assert run("doctor", "fly", "--json").json


def test_the_conformance_block_finds_what_it_names(site: Path) -> None:
    block = next(text for text in PYTHON if "BackendContract" in text)
    module = ModuleType("conformance_of_fly")
    exec(compile(block, "docs/backends.md", "exec"), vars(module))
    assert module.TestFly.subject


def test_each_method_of_the_skeleton_is_needed(site: Path) -> None:
    for method in registry.methods():
        (site / "llama_hub_fly.py").write_text(PYTHON[0].replace(f"def {method}(", "def other("))
        sys.modules.pop("llama_hub_fly", None)
        with pytest.raises(UsageError, match=f"lacks {method}$"):
            registry.backend_class("fly")
