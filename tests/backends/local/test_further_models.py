"""A local deployment of several models: planned, held, started, proved. Stand-ins serve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llama_hub.backends.local import further_models
from llama_hub.backends.local.documents import DESIRED, DesiredState, unseal
from llama_hub.deploy import artifact as artifacts
from llama_hub.deploy import usage
from llama_hub.deploy.attest import attest
from llama_hub.deploy.spec import DeploymentSpec
from llama_hub.errors import NotEnoughError, NotFoundError, UsageError
from tests.support.deployments import artifact, make_folder
from tests.support.local import Local


@pytest.fixture
def other(local: Local, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A second model, called ``other``, in the place of the store."""
    folder = make_folder(local.root / "other", "two", "other")

    def find(spec: DeploymentSpec) -> Any:
        if spec.model != "other":
            raise NotFoundError(f"{spec.model} is not there")
        return artifact(folder)

    monkeypatch.setattr(artifacts, "find", find)
    return folder


def argv(local: Local) -> list[str]:
    return list(local.get("/manifest")["argv"])


def test_both_are_held_started_and_proved(local: Local, other: Path) -> None:
    options = {"models": ["other"], "idle_unload": "10m"}
    steps = local.deployer.plan(local.spec(options=options)).steps
    assert "new revision, which also serves other" in [step.why for step in steps]
    done = local.deploy("one", options=options)
    assert done.detail == "llama-demo ready, other ready"
    words = argv(local)
    held = [Path(each) for each in words[:2]]
    assert [json.loads((each / "llama-hub.json").read_text())["model"] for each in held] == [
        "llama-demo",
        "other",
    ]
    assert all(local.folder.path in each.parents for each in held), "the deployment's own bytes"
    assert "--served-name" not in words
    assert words[words.index("--idle-unload") + 1] == "10m"
    assert local.deployer.plan(local.spec(options=options)).changes == ()
    proof = attest(local.deployer, "x", lambda wanted: artifact(local.model))
    used = [use.model for use in usage.uses(local.root / "journals")]
    assert used[1:] == ["other"], "it is not removed from the store by accident"
    (line,) = [check for check in proof.checks if check.what == "model other"]
    assert (line.ok, line.evidence) == (True, artifact(other).manifest.digest)
    (held[1] / "model.safetensors").unlink()
    proof = attest(local.deployer, "x", lambda wanted: artifact(local.model))
    assert [check.ok for check in proof.checks if check.what == "model other"] == [False]
    assert not proof.ok


def test_a_further_model_that_changed_is_a_change_and_the_old_bytes_go(
    local: Local, other: Path
) -> None:
    local.deploy("one", options={"models": ["other"]})
    before = Path(argv(local)[1])
    make_folder(other, "two and a half", "other")
    local.deploy(options={"models": ["other"]})
    after = Path(argv(local)[1])
    assert (after / "model.safetensors").read_text() == "two and a half"
    assert after != before
    local.deploy(options={})
    assert argv(local)[1].startswith("--")


def test_one_that_is_unloaded_when_idle_keeps_its_name(local: Local) -> None:
    local.deploy("one", options={"idle_unload": "30s"})
    words = argv(local)
    assert words[words.index("--idle-unload") + 1] == "30s"
    assert "--served-name" in words


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"models": ["absent"]}, NotFoundError, "absent is not there"),
        ({"models": ["other", "other"]}, UsageError, "other is in the deployment twice"),
        ({"models": ["other"], "idle_unload": "soon"}, UsageError, "idle_unload"),
        ({"models": [f"m{n}" for n in range(32)]}, UsageError, "models"),
    ],
)
def test_what_cannot_be_is_said_in_the_plan(
    local: Local, other: Path, options: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        local.deployer.plan(local.spec(options=options))


def test_all_have_to_fit_or_the_largest(
    local: Local, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = local.deployer.plan(local.spec(options={"models": ["other"]}))
    assert plan.need is not None
    room = int(plan.need["total_bytes"] * 1.2)
    monkeypatch.setattr(further_models.sizing, "usable_bytes", lambda *_: room)
    with pytest.raises(NotEnoughError, match="do not fit") as failed:
        local.deployer.plan(local.spec(options={"models": ["other"]}))
    assert "options.idle_unload" in (failed.value.hint or "")
    local.deployer.plan(local.spec(options={"models": ["other"], "idle_unload": "10m"}))


def test_a_state_of_before_there_were_further_models_is_read(local: Local) -> None:
    local.deploy("one")
    path = local.folder.path / "desired.json"
    desired = unseal(path, DesiredState, DESIRED)
    assert desired is not None
    assert [revision.models for revision in desired.revisions.values()] == [{}]
