"""What goes wrong at AWS comes out in plain words, and what was made is removed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from llama_hub.errors import (
    AccessError,
    LlamaHubError,
    NotEnoughError,
    ProvisioningError,
    QuotaError,
    UsageError,
)
from tests.support import sagemaker_host as host
from tests.support.sagemaker_bench import Bench
from tests.support.sagemaker_plane import Fault, Plane

KEPT = ("s3://", "bucket/")  # weights stay for the next try


def assert_removed(plane: Plane) -> None:
    """Only weights are left, which ``gc`` finds."""
    assert [one for one in plane.inventory() if not one.startswith(KEPT)] == []


def broken(folder: Path, variables: Mapping[str, str]) -> host.Container:
    """A container that never answers ``/ping`` well."""
    made = host.Stub(folder, variables)
    made.ping = 503
    return made


def test_a_failed_ping_is_explained_with_log_lines(plane: Plane, bench: Bench) -> None:
    plane.launch = broken
    with pytest.raises(ProvisioningError, match="GET /ping did not answer 200") as caught:
        bench.deploy()
    assert "loading the weights" in caught.value.message
    assert_removed(plane)
    assert (bench.root / "journals" / "sagemaker" / "x").glob("failure-*.log")


def test_a_failed_one_can_be_kept_and_is_replaced(plane: Plane, bench: Bench) -> None:
    good, plane.launch = plane.launch, broken
    keep = dataclasses.replace(bench.options, on_failure="keep")
    with pytest.raises(ProvisioningError):
        bench.deploy(how=keep)
    assert bench.backend().status("x").status == "failed"
    plane.launch = good
    plan = bench.plan()
    assert [f"{step.action} {step.kind}" for step in plan.changes] == ["replace endpoint"]
    assert bench.deploy().status == "ready"


def test_no_capacity(plane: Plane, bench: Bench) -> None:
    plane.no_capacity = {"ml.m5.large"}
    with pytest.raises(QuotaError, match="no free machine of this type") as caught:
        bench.deploy()
    assert "options.fallback" in caught.value.hint
    assert_removed(plane)


def test_a_quota_that_the_list_does_not_show(plane: Plane, bench: Bench) -> None:
    message = (
        "The account-level service limit 'ml.m5.large for endpoint usage' is 0 Instances, with "
        "current utilization of 0 Instances and a request delta of 1 Instances."
    )
    plane.faults = [Fault("sagemaker:CreateEndpoint", "ResourceLimitExceeded", message)]
    with pytest.raises(NotEnoughError, match="is 0; 0 are in use and 1 more are wanted"):
        bench.deploy()
    assert_removed(plane)


def test_no_room_for_two_during_an_update(plane: Plane, bench: Bench) -> None:
    bench.deploy(replicas_min=8, replicas_max=8)
    before = plane.control.endpoints["x"].config
    with pytest.raises(QuotaError):
        bench.deploy(replicas_min=8, replicas_max=8, context=128, instance="ml.m5.large")
    assert plane.control.endpoints["x"].config == before
    assert plane.control.endpoints["x"].status == "InService"


def test_an_update_that_does_not_start_keeps_the_old_one(plane: Plane, bench: Bench) -> None:
    bench.deploy()
    before = sorted(plane.inventory())
    plane.launch = broken
    with pytest.raises(ProvisioningError, match="the revision before is back"):
        bench.deploy(context=128)
    assert sorted(plane.inventory()) == before
    assert bench.backend().status("x").status == "ready"


@pytest.mark.parametrize(
    "pattern",
    [
        "iam:CreateRole",
        "s3:PutBucket",
        "s3:PutObject",
        "sagemaker:CreateModel",
        "sagemaker:CreateEndpointConfig",
        "monitoring:PutMetricAlarm",
        "sagemaker:CreateEndpoint",
    ],
)
def test_access_denied_names_the_action(plane: Plane, bench: Bench, pattern: str) -> None:
    plane.denied = {pattern}
    with pytest.raises(AccessError) as caught:
        bench.deploy()
    assert pattern.split(":")[1] in caught.value.message + caught.value.hint
    plane.denied = set()
    assert_removed(plane)


def test_a_role_of_your_own_that_may_too_little(plane: Plane, bench: Bench) -> None:
    bench.deploy("other")
    (role,) = bench.backend().observe("other").all("role")
    bench.aws.call("iam", "delete_role_policy", RoleName=role.name, PolicyName="llama-hub")
    statement = {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    bench.aws.call(
        "iam", "put_role_policy", RoleName=role.name, PolicyName="own", PolicyDocument=policy
    )
    plane.sleep(60)
    with pytest.raises(ProvisioningError, match="s3:ListBucket"):
        bench.deploy("x", options={"role": role.body["arn"]})


@pytest.mark.parametrize("skew", [3600.0, -3600.0])
def test_a_wrong_clock_is_told(plane: Plane, bench: Bench, skew: float) -> None:
    plane.skew = skew
    with pytest.raises(AccessError, match="this machine's clock is wrong") as caught:
        bench.plan()
    assert "timedatectl" in caught.value.hint


@pytest.mark.parametrize(
    ("image", "options", "ami"),
    [
        ("vllm:0.11-gpu-cu124", {}, "al2-ami-sagemaker-inference-gpu-3-1"),
        ("djl-inference:0.36.0-lmi28.0.0-cu130", {}, "al2023-ami-sagemaker-inference-gpu-4-1"),
        (
            "vllm:server-sagemaker-cuda-v2.3",
            {},
            "al2023-ami-sagemaker-inference-gpu-4-1",
        ),
        ("mine:v1", {"cuda": 12.8}, "al2-ami-sagemaker-inference-gpu-3-1"),
        ("mine:v1", {"ami": "al2-ami-sagemaker-inference-gpu-2-1"}, None),
    ],
)
def test_the_driver_fits_the_image(
    bench: Bench, image: str, options: dict[str, object], ami: str | None
) -> None:
    uri = f"763104351884.dkr.ecr.us-east-1.amazonaws.com/{image}"
    plan = bench.plan(instance="ml.g5.2xlarge", options={"image": uri} | options)
    (config,) = [step for step in plan.steps if step.kind == "config"]
    variant = config.body["request"]["ProductionVariants"][0]
    assert variant["InferenceAmiVersion"] == (ami or options["ami"])


def test_an_unknown_cuda_version_is_refused(plane: Plane, bench: Bench) -> None:
    uri = "763104351884.dkr.ecr.us-east-1.amazonaws.com/mine:v1"
    with pytest.raises(UsageError, match="CUDA version of .*mine:v1 is not known"):
        bench.plan(instance="ml.g5.2xlarge", options={"image": uri})
    assert bench.plan(options={"image": uri}).changes  # a CPU needs none


def test_a_wrong_driver_is_explained(plane: Plane, bench: Bench) -> None:
    uri = "763104351884.dkr.ecr.us-east-1.amazonaws.com/mine:v1"
    plane.images[uri] = 12.9
    wrong = {"image": uri, "ami": "al2023-ami-sagemaker-inference-gpu-4-1"}
    with pytest.raises(ProvisioningError, match="driver does not fit") as caught:
        bench.deploy(instance="ml.g5.2xlarge", options=wrong)
    assert "never wrote a line" in caught.value.message
    assert_removed(plane)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"access": "public"}, "access must be private"),
        ({"replicas_min": 0}, "replicas_min 0 needs scale_to_zero"),
        ({"options": {"update": "canary"}}, "two instances"),
        ({"environment": {"HF_TOKEN": "x"}}, "may hold no secrets"),
        ({"tags": {"a": "ü?*"}}, "tags may hold"),
        ({"tags": {"aws:x": "1"}}, "belong to AWS"),
        ({"options": {"subnets": ["subnet-1"]}}, "belong together"),
        ({"options": {"image": "docker.io/x:1"}}, "image"),
        ({"options": {"asynchronous": True, "data_capture": 5}}, "exclude each other"),
        ({"options": {"bukket": "x"}}, "did you mean 'bucket'"),
        ({"region": "eu-west-1"}, "looks at us-east-1"),
        ({"instance": "ml.t2.medium"}, "not offered"),
        (
            {"options": {"image": "763104351884.dkr.ecr.eu-west-1.amazonaws.com/vllm:cu130"}},
            "must be in us-east-1",
        ),
    ],
)
def test_what_sagemaker_would_refuse_is_refused_here(
    plane: Plane, bench: Bench, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(LlamaHubError, match=words):
        bench.plan(**changes)
    assert plane.writes() == []


def test_without_credentials(plane: Plane, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from llama_hub.backends.sagemaker.backend import SageMakerBackend

    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    backend = SageMakerBackend()
    assert not backend.configured()
    lines = {line.name: line for line in backend.check()}
    assert not lines["identity"].ok
    assert "aws configure" in lines["identity"].hint


def test_doctor_finds_what_is_missing(plane: Plane, bench: Bench) -> None:
    plane.denied = {"ecr:*", "servicequotas:*"}
    lines = {line.name: line for line in bench.backend().check()}
    wrong = {name for name, line in lines.items() if not line.ok}
    assert wrong == {"may read images", "quota"}
    assert "ecr:DescribeRepositories" in lines["may read images"].hint
    plane.denied = set()
    plane.quotas = dict.fromkeys(plane.quotas, 0)
    quota = {line.name: line for line in bench.backend().check()}["quota"]
    assert (quota.ok, "ml.g5.2xlarge" in quota.hint) == (False, True)


def test_an_assumed_role_is_used(plane: Plane, bench: Bench) -> None:
    from llama_hub.backends.sagemaker.client import Aws

    plane.forget()
    role = f"arn:aws:iam::{plane.account}:role/deployer"
    who = Aws(assume_role=role, sleep=plane.sleep).identity
    assert "assumed-role/deployer/llama-hub" in who["Arn"]
    assert "AssumeRole" in [call.operation for call in plane.calls]


ODD_PRODUCTS = [
    {"product": {"attributes": {"usagetype": "USE1-Host:ml.m5.large-Free"}}, "terms": {}},
    {"product": {"attributes": {}}},
    {"terms": []},
    [],
    {
        "product": {"attributes": {"usagetype": "Host:ml.m5.large"}},
        "terms": {
            "OnDemand": {
                "x": {"priceDimensions": {"y": {"unit": "GB-Mo", "pricePerUnit": {"USD": "0.14"}}}}
            }
        },
    },
]


@pytest.mark.parametrize("odd", ODD_PRODUCTS)
def test_one_odd_product_of_the_price_list_hides_no_other(
    plane: Plane, bench: Bench, odd: object
) -> None:
    plane.prices, plane.odd_products = {"ml.m5.large": 0.2}, [odd]
    offer = bench.plan().offer
    assert offer is not None
    assert offer.price_per_hour == 0.2


def test_a_quota_that_is_not_listed_is_not_known(plane: Plane, bench: Bench) -> None:
    """The list of one's own may lack what was never changed; the defaults are the second source."""
    del plane.quotas["ml.m5.large"]
    plane.default_quotas = {"ml.m5.large": 3}
    offer = bench.plan().offer
    assert (offer and offer.quota_left) == 3
    plane.default_quotas = {}
    offer = bench.plan().offer
    assert offer is not None
    assert offer.quota_left is None


def test_the_quota_of_all_types_counts_as_well(plane: Plane, bench: Bench) -> None:
    plane.quotas["Number of instances across active endpoints"] = 1
    bench.deploy("other", instance="ml.m5.xlarge")
    with pytest.raises(QuotaError, match="the quota leaves 0"):
        bench.plan(instance="ml.m5.large")


@pytest.mark.parametrize("denied", ["sagemaker:ListEndpoints", "servicequotas:*", "pricing:*"])
def test_offers_need_neither_others_endpoints_nor_quotas_nor_prices(
    plane: Plane, bench: Bench, denied: str
) -> None:
    bench.deploy("other")
    plane.denied = {denied}
    assert bench.deploy().status == "ready"


def test_the_price_of_today_or_the_dated_table(plane: Plane, bench: Bench) -> None:
    plane.prices = {"ml.m5.large": 0.2}
    offer = bench.plan().offer
    assert offer is not None
    assert (offer.price_per_hour, "Pricing API" in offer.price_source) == (0.2, True)
    plane.denied = {"pricing:*"}
    offer = bench.plan().offer
    assert offer is not None
    assert (offer.price_per_hour, "2026-11-23" in offer.price_source) == (0.115, True)
