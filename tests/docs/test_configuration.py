"""docs/configuration.md lists every key of ``config.toml`` and every variable of ours."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from llama_hub.backends import registry
from llama_hub.deploy import spec
from tests.support.documented import FOLDERS, ROOT

PAGE = (ROOT / "docs/configuration.md").read_text()
VARIABLE = re.compile(r"\bLLAMA_HUB_[A-Z_]*[A-Z]\b")


def sources() -> list[Path]:
    inside = [path for folder in (*FOLDERS, "llama_hub") for path in (ROOT / folder).rglob("*.py")]
    return [*inside, ROOT / "setup.py"]


def in_the_code() -> set[str]:
    return {name for path in sources() for name in VARIABLE.findall(path.read_text())}


def of_locations() -> set[str]:
    return {
        f"LLAMA_HUB_{name}_{key}".upper()
        for name in registry.BUILT_IN
        for key in registry.backend_class(name).location
    }


def section(heading: str) -> str:
    return PAGE.partition(f"\n{heading}\n")[2].partition("\n## ")[0].partition("\n### ")[0]


def first_cells(text: str, column: int) -> set[str]:
    rows = [line.split("|") for line in text.splitlines() if line.startswith("|")]
    return {key for row in rows[2:] for key in re.findall(r"`([^`]+)`", row[column])}


def test_each_variable_is_listed_and_each_listed_one_is_read() -> None:
    read = in_the_code() | of_locations()
    assert len(read) > 40
    assert set(VARIABLE.findall(PAGE)) == read


def test_each_key_of_deploy_is_listed() -> None:
    assert first_cells(section("### `[deploy]`"), 1) == set(spec.KEYS)


def test_each_key_of_a_backend_is_listed() -> None:
    listed: dict[str, set[str]] = {}
    name = ""
    for line in section("### `[backends.NAME]`").splitlines():
        if row := re.match(r"\| (?:`\[backends\.(\w+)\]` )?\| `(\w+)` \|", line):
            name = row[1] or name
            listed.setdefault(name, set()).add(row[2])
    assert listed == {backend: settable(backend) for backend in registry.BUILT_IN}


def settable(backend: str) -> set[str]:
    """The keys that the registry lets through: parameters that a file can state."""
    parameters = inspect.signature(registry.backend_class(backend)).parameters.values()
    stated = {one.name for one in parameters if registry._annotation(one) in registry._SETTABLE}
    return stated - registry.SECRETS
