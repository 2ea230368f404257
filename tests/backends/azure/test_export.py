"""What is exported is what would be sent."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from llama_hub.backends.azure.backend import AzureBackend
from llama_hub.deploy.backend import Artifact, Step
from llama_hub.errors import UsageError
from tests.backends.azure.conftest import Driver
from tests.support.azure_plane import Plane
from tests.support.bicep import read_resources

# The SDK's own use of marshmallow 3, on which it insists.
pytestmark = pytest.mark.filterwarnings("ignore:.*marshmallow 4")
IDENTITY = (
    "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/i"
)


def plan(drive: Driver, artifact: Artifact, **keys: Any) -> dict[str, Step]:
    """The steps by kind."""
    return {step.kind: step for step in drive.plan(drive.target(artifact, **keys))}


def rest(entity: Any, *arguments: str) -> Any:
    """The body that the SDK would send for an entity."""
    name = (
        "_to_rest_online_endpoint"
        if hasattr(entity, "_to_rest_online_endpoint")
        else "_to_rest_object"
    )
    return getattr(entity, name)(*arguments).as_dict()


@pytest.mark.parametrize(
    "options", [{}, {"image": "r.azurecr.io/x:1", "auth": "aad", "identity": IDENTITY}]
)
def test_az_yaml_comes_back_through_the_sdks_loader(
    plane: Plane, drive: Driver, artifact: Artifact, tmp_path: Path, options: dict[str, Any]
) -> None:
    from azure.ai.ml import (
        load_environment,
        load_model,
        load_online_deployment,
        load_online_endpoint,
    )

    steps = plan(drive, artifact, options=options, tags={"team": "sea: rch"})
    for name, text in drive.backend.export(list(steps.values()), "az-yaml").items():
        (tmp_path / name).write_text(text)
    model = rest(load_model(tmp_path / "model.yml"))
    assert model["properties"] == steps["model"].body["properties"]
    environment = rest(load_environment(tmp_path / "environment.yml"))
    assert environment["properties"] == steps["environment"].body["properties"]
    endpoint = rest(load_online_endpoint(tmp_path / "endpoint.yml"), "eastus")
    wanted = {**steps["endpoint"].body}
    assert endpoint["identity"] == wanted["identity"]
    assert endpoint["tags"] == wanted["tags"]
    assert lower(endpoint["properties"]) == lower(wanted["properties"])
    deployment = load_online_deployment(tmp_path / "deployment.yml")
    assert deployment.name == steps["deployment"].name.partition("/")[2]
    assert deployment.endpoint_name == "support"
    body = steps["deployment"].body
    deployment.model, deployment.environment = (
        body["properties"]["model"],
        body["properties"]["environmentId"],
    )
    sent = rest(deployment, "eastus")
    assert sent["tags"] == body["tags"]
    assert sent["sku"] == body["sku"]
    assert lower(sent["properties"]) == lower(body["properties"])


def lower(properties: Any) -> Any:
    """The YAML's ``enabled`` is ``Enabled`` on the wire; the service takes both."""
    return {
        key: value.lower() if key.lower().endswith("networkaccess") else value
        for key, value in properties.items()
    }


def test_references_are_those_of_the_exported_assets(
    plane: Plane, drive: Driver, artifact: Artifact
) -> None:
    made = drive.backend.export(drive.plan(drive.target(artifact)), "az-yaml")
    deployment, model = yaml.safe_load(made["deployment.yml"]), yaml.safe_load(made["model.yml"])
    assert deployment["model"] == f"azureml:{model['name']}:{model['version']}"
    for line in made["deploy.sh"].splitlines():
        for name in re.findall(r"--file (\S+)", line):
            assert name in made


def test_the_commands_scale_and_bring_the_build_context(
    plane: Plane, drive: Driver, artifact: Artifact
) -> None:
    made = drive.backend.export(drive.plan(drive.target(artifact, replicas_max=3)), "az-yaml")
    lines = made["deploy.sh"].splitlines()
    (upload,) = [line for line in lines if "upload-batch" in line]
    (create,) = [line for line in lines if line.startswith("az monitor autoscale create")]
    rules = [line for line in lines if line.startswith("az monitor autoscale rule create")]
    build = yaml.safe_load(made["environment.yml"])["build"]["path"]
    words = shlex.split(upload)
    at = words[words.index("--destination") + 1], words[words.index("--destination-path") + 1]
    assert build.endswith("/".join(at))
    assert f"--account-name {plane.blobs.account}" in upload
    assert lines.index(upload) < lines.index("az ml environment create --file environment.yml")
    assert "--min-count 1 --max-count 3 --count 1" in create
    assert "'CpuUtilizationPercentage > 70 avg 5m' --scale out 1" in rules[0]
    assert "'CpuUtilizationPercentage < 30 avg 5m' --scale in 1" in rules[1]


def test_vllms_three_lines_come_along(plane: Plane, drive: Driver, artifact: Artifact) -> None:
    steps = drive.plan(drive.target(artifact, options={"run": "vllm"}))
    made = drive.backend.export(steps, "az-yaml")
    assert made["context/Dockerfile"].startswith("FROM vllm/vllm-openai:")
    assert "image write" not in made["deploy.sh"]
    with pytest.raises(UsageError, match="score is for our own service"):
        drive.backend.export(steps, "score")


def test_roles_are_the_least(plane: Plane, drive: Driver, artifact: Artifact) -> None:
    made = drive.backend.export(drive.plan(drive.target(artifact)), "roles")
    role = json.loads(made["caller-role.json"])
    assert role["AssignableScopes"] == [
        f"/subscriptions/{plane.arm.subscription}/resourceGroups/{plane.arm.group}"
    ]
    assert not any("*" in action for action in role["Actions"] + role["DataActions"])
    assert not any("Insights" in action for action in role["Actions"])
    subprocess.run(["sh", "-n"], input=made["assign.sh"], text=True, check=True)
    scaled = drive.backend.export(drive.plan(drive.target(artifact, replicas_max=2)), "roles")
    assert "autoscaleSettings/write" in scaled["caller-role.json"]


def test_the_stock_servers_environment_is_no_version_of_ours(
    plane: Plane, drive: Driver, artifact: Artifact
) -> None:
    steps = plan(drive, artifact)
    made = drive.backend.export(list(steps.values()), "score")
    environment = yaml.safe_load(made["environment.yml"])
    deployment = yaml.safe_load(made["deployment.yml"])
    assert f"{environment['name']}:{environment['version']}" != steps["environment"].name
    assert deployment["environment"] == f"azureml:support:{environment['version']}"


def test_bicep_has_the_bodies_of_the_plan(plane: Plane, drive: Driver, artifact: Artifact) -> None:
    steps = plan(drive, artifact, replicas_max=2, tags={"it's": "a ${b}\\c"})
    made = read_resources(drive.backend.export(list(steps.values()), "bicep")["main.bicep"])
    for kind in ("model", "environment", "deployment", "autoscale"):
        resource = made[kind]
        for key, value in steps[kind].body.items():
            assert resource[key] == value, (kind, key)
    assert made["deployment"]["parent"] == "endpoint"
    assert made["deployment"]["dependsOn"] == ["model", "environment"]
    assert made["endpoint"]["parent"] == "workspace"
    assert made["endpoint"]["properties"]["traffic"] == {}
    assert made["model"]["name"] == steps["model"].name.partition(":")[2]


def test_the_stock_servers_files_load_too(
    plane: Plane, drive: Driver, artifact: Artifact, tmp_path: Path
) -> None:
    from azure.ai.ml import load_environment, load_online_deployment

    made = drive.backend.export(drive.plan(drive.target(artifact)), "score")
    for name, text in made.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    deployment = load_online_deployment(tmp_path / "deployment.yml")
    assert deployment.code_configuration.scoring_script == "score.py"
    assert deployment.environment_variables["WORKER_COUNT"] == "1"
    compile(made["code/score.py"], "score.py", "exec")
    conda = load_environment(tmp_path / "environment.yml").conda_file
    # Nothing is taken from PyPI under a name of ours: the package comes along, its needs pinned.
    server, *pinned = conda["dependencies"][-1]["pip"]
    assert server == "azureml-inference-server-http"
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pinned)
    assert not {line.partition("==")[0] for line in pinned} & {"llama-hub", "llama2-hub"}
    look = (
        "import sys; sys.path.insert(0, 'code'); import llama_hub.cli.main as m; print(m.__file__)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", look], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip().endswith("code/llama_hub/cli/main.py")


def test_an_unknown_form_names_the_known_ones(backend: AzureBackend) -> None:
    with pytest.raises(UsageError, match="az-yaml, bicep, score"):
        backend.export([], "pulumi")
