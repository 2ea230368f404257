"""A plan from a file: whatever it says has the right type, also where its digest was made again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama_hub.deploy import plan_file
from llama_hub.errors import InvalidFileError
from tests.support.command import run
from tests.support.deployments import Bench, spec

Document = dict[str, Any]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    plan_file.write(Bench(tmp_path).deployer.plan(spec()), path)
    return path


def change(path: Path, *keys: Any, value: Any) -> None:
    document: Any = json.loads(path.read_text())
    inner = document
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(document))


def test_what_was_written_is_read(saved: Path, tmp_path: Path) -> None:
    read = plan_file.read(saved)
    assert read.digest == json.loads(saved.read_text())["digest"]
    assert read.spec == spec()


BAD: list[tuple[tuple[Any, ...], Any]] = [
    (("schema",), 2),
    (("digest",), None),
    (("kind",), "destroy"),
    (("kind",), []),
    (("backend",), "../../x"),
    (("backend",), 1),
    (("name",), "../../x"),
    (("name",), "a" * 33),
    (("name",), None),
    (("location",), []),
    (("location",), {"file": 1}),
    (("generation",), 1),
    (("manifest",), "sha256:x"),
    (("license",), {}),
    (("receipt",), 1e300),
    (("spec",), None),
    (("spec",), []),
    (("spec", "context"), True),
    (("spec", "context"), 2**63),
    (("spec", "name"), "other"),
    (("spec", "contxt"), 1),
    (("need",), {}),
    (("need", "total_bytes"), -1),
    (("need", "total_bytes"), "x"),
    (("offer", "price_per_hour"), 1e308),
    (("offer", "quota_left"), 1.5),
    (("offer", "memory_bytes"), 10**30),
    (("plan",), {}),
    (("plan",), [None]),
    (("plan", 0, "action"), "explode"),
    (("plan", 0, "after"), "x"),
    (("plan", 0, "after"), [1]),
    (("plan", 0, "body"), []),
    (("plan", 0, "long"), 1),
    (("plan", 0, "name"), None),
]


@pytest.mark.parametrize(("keys", "value"), BAD, ids=repr)
def test_a_wrong_value_is_named(keys: tuple[Any, ...], value: Any, saved: Path) -> None:
    change(saved, *keys, value=value)
    with pytest.raises(InvalidFileError) as caught:
        plan_file.read(saved)
    assert str(keys[-1]) in caught.value.message or keys[0] in caught.value.message


def test_from_the_command_line_it_is_a_usage_error(saved: Path) -> None:
    change(saved, "plan", 0, "after", value=[1])
    done = run("deploy", "--apply", str(saved), "--yes", "--json")
    assert done.code == 2
    assert "plan.0.after.0" in done.json["error"]["message"]


def reseal(path: Path) -> None:
    """Give an edited plan the digest that it has now."""
    document = json.loads(path.read_text())
    stated = plan_file.conform(plan_file._PlanFile, document, path, plan_file.KIND)
    document["digest"] = plan_file._plan(stated, path).digest
    path.write_text(json.dumps(document))


RESEALED: list[Callable[[Document], Any]] = [
    lambda plan: plan["plan"][0].update(body={}),
    lambda plan: plan["plan"][0].update(body={"tags": None, "bytes": "x"}),
    lambda plan: plan.update(plan=[]),
    lambda plan: plan["plan"][0].update(after=["no/such"]),
    lambda plan: plan.update(location={"sleep": "x"}),
    lambda plan: plan.update(backend="azure", spec={**plan["spec"], "backend": "azure"}),
    lambda plan: plan.update(kind="rollback"),
    lambda plan: plan.update(kind="delete", spec=None),
]


@pytest.mark.parametrize("edit", range(len(RESEALED)))
@pytest.mark.parametrize("command", ["apply", "export"])
def test_a_plan_whose_digest_was_made_anew_is_never_a_defect(
    edit: int, command: str, saved: Path, tmp_path: Path
) -> None:
    document = json.loads(saved.read_text())
    RESEALED[edit](document)
    saved.write_text(json.dumps(document))
    reseal(saved)
    words = {
        "apply": ("deploy", "--apply", str(saved), "--yes"),
        "export": ("export", str(saved), "bicep", str(tmp_path / "out")),
    }
    assert run(*words[command]).code != 1
