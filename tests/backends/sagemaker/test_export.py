"""A plan as CloudFormation: complete, in order, and with the requests that we would send."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llama_hub.backends.sagemaker.backend import SageMakerBackend
from llama_hub.deploy.plan_file import write
from llama_hub.errors import UsageError
from tests.support.command import run
from tests.support.sagemaker_bench import Bench
from tests.support.sagemaker_plane import Plane


def test_the_template_holds_what_the_plan_would_send(plane: Plane, bench: Bench) -> None:
    plan = bench.plan(replicas_max=3, tags={"team": "search"})
    files = bench.backend().export(plan.steps, "cloudformation")
    made = json.loads(files["template.json"])["Resources"]
    assert sorted(one["Type"] for one in made.values()) == [
        "AWS::ApplicationAutoScaling::ScalableTarget",
        "AWS::ApplicationAutoScaling::ScalingPolicy",
        "AWS::CloudWatch::Alarm",
        "AWS::CloudWatch::Alarm",
        "AWS::IAM::Role",
        "AWS::SageMaker::Endpoint",
        "AWS::SageMaker::EndpointConfig",
        "AWS::SageMaker::Model",
    ]
    bodies = {step.kind: step.body for step in plan.steps}
    model = next(one for one in made.values() if one["Type"] == "AWS::SageMaker::Model")
    properties = dict(model["Properties"])
    tags = {one["Key"]: one["Value"] for one in properties.pop("Tags")}
    assert properties == bodies["model"]["request"]
    assert tags["team"] == "search"
    assert plane.writes() == []


def test_everything_waits_for_what_it_refers_to(bench: Bench) -> None:
    idle = {"scale_to_zero": True, "replicas_min": 0, "replicas_max": 2}
    for changes in ({"replicas_max": 2}, idle):
        files = bench.backend().export(bench.plan(**changes).steps, "cloudformation")
        made = json.loads(files["template.json"])["Resources"]
        done: set[str] = set()
        while len(done) < len(made):
            ready = {
                name
                for name, one in made.items()
                if name not in done and set(one.get("DependsOn", [])) <= done
            }
            assert ready, f"a circle among {set(made) - done}"
            done |= ready
        endpoint = next(one for one in made.values() if one["Type"].endswith("::Endpoint"))
        assert any(name.startswith("Config") for name in endpoint["DependsOn"])


def test_what_must_be_there_first_is_said(bench: Bench) -> None:
    text = bench.backend().export(bench.plan().steps, "cloudformation")["README.txt"]
    assert "s3://sagemaker-us-east-1-123456789012/llama-hub/models/" in text


def test_other_forms_are_refused(bench: Bench) -> None:
    with pytest.raises(UsageError, match="cloudformation"):
        SageMakerBackend(aws=bench.aws).export((), "bicep")


def test_the_command_writes_a_saved_plan_as_a_template(
    plane: Plane, bench: Bench, tmp_path: Path
) -> None:
    write(bench.plan(), tmp_path / "plan.json")
    folder = tmp_path / "stack"
    done = run("export", str(tmp_path / "plan.json"), "cloudformation", str(folder), "--json")
    assert done.code == 0, done.stderr
    assert str(folder / "template.json") in done.json["files"]
    assert "Resources" in json.loads((folder / "template.json").read_text())
    assert plane.writes() == []
    again = run("export", str(tmp_path / "plan.json"), "cloudformation", str(folder), "--json")
    assert again.code == 2
