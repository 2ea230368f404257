"""The plane itself: it refuses what AWS refuses, or no test on it means anything."""

from __future__ import annotations

from typing import Any

import pytest

from llama_hub.backends.sagemaker.client import Aws
from llama_hub.backends.sagemaker.errors import ExistsError
from llama_hub.errors import LlamaHubError, NotFoundError, UsageError
from tests.support.sagemaker_bench import Bench
from tests.support.sagemaker_plane import Plane
from tests.support.sagemaker_shapes import check_answer, check_request

MODEL = {
    "ModelName": "m",
    "PrimaryContainer": {"Image": "x"},
    "ExecutionRoleArn": "arn:aws:iam::123456789012:role/x",
}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"ModelName": None}, "ModelName is missing"),
        ({"ModelName": "a_b"}, "does not match"),
        ({"ModelName": "a" * 64}, "above the maximum of 63"),
        ({"Colour": "red"}, "Colour is unknown"),
        ({"EnableNetworkIsolation": "yes"}, "is not a boolean"),
        ({"VpcConfig": {"SecurityGroupIds": [], "Subnets": ["s"]}}, "below the minimum of 1"),
        ({"PrimaryContainer": {"Mode": "Fast"}}, "none of the enumeration"),
        ({"Tags": [{"Key": "k?", "Value": "v"}]}, "does not match"),
    ],
)
def test_requests_are_held_against_the_service_model(change: dict[str, Any], problem: str) -> None:
    assert check_request("sagemaker", "CreateModel", MODEL) == []
    found = check_request("sagemaker", "CreateModel", MODEL | change)
    assert any(problem in one for one in found), found


def test_unknown_operations_and_answers_are_noticed() -> None:
    assert check_request("sagemaker", "CreateModle", {}) == [
        "sagemaker has no operation CreateModle"
    ]
    assert check_answer("sagemaker", "CreateModel", {"ModelArn": "x" * 20, "More": 1})


def test_boto3_lets_pass_what_the_plane_refuses(plane: Plane, aws: Aws) -> None:
    with pytest.raises(UsageError, match="validation error"):
        aws.call(
            "sagemaker",
            "create_endpoint_config",
            EndpointConfigName="c",
            ProductionVariants=[{"VariantName": "v", "InstanceType": "ml.g99.huge"}],
        )
    assert len(plane.problems) == 1
    plane.problems.clear()


def test_names_are_unique_and_absence_is_told(plane: Plane, bench: Bench, aws: Aws) -> None:
    bench.deploy()
    request = {k: v for k, v in plane.body_of("CreateModel").items() if k != "Tags"}
    with pytest.raises(ExistsError):
        aws.call("sagemaker", "create_model", **request)
    with pytest.raises(NotFoundError):
        aws.call("sagemaker", "describe_model", ModelName="nobody")
    assert aws.find("sagemaker", "delete_model", ModelName="nobody") is None


def test_an_endpoint_in_motion_is_left_alone(plane: Plane, bench: Bench, aws: Aws) -> None:
    bench.deploy()
    plane.control.endpoints["x"].status = "Updating"
    with pytest.raises(LlamaHubError, match="another change of this endpoint"):
        aws.call("sagemaker", "delete_endpoint", EndpointName="x")
    plane.control.endpoints["x"].status = "InService"


def test_deleting_a_configuration_in_use_is_noticed(plane: Plane, bench: Bench, aws: Aws) -> None:
    bench.deploy()
    name = plane.control.endpoints["x"].config
    aws.call("sagemaker", "delete_endpoint_config", EndpointConfigName=name)
    assert "in use" in plane.problems.pop()


def test_components_keep_their_endpoint(plane: Plane, bench: Bench, aws: Aws) -> None:
    bench.deploy(scale_to_zero=True, replicas_min=0, replicas_max=2)
    with pytest.raises(LlamaHubError, match="inference components"):
        aws.call("sagemaker", "delete_endpoint", EndpointName="x")


def test_weights_are_read_only(plane: Plane, bench: Bench) -> None:
    bench.deploy()
    folder = plane.control.endpoints["x"].variants["AllTraffic"].folder
    assert folder is not None
    modes = {path.stat().st_mode & 0o222 for path in [folder, *folder.rglob("*")]}
    assert modes == {0}
