"""What the service refuses in its recorded words, each through the call that meets it."""

from __future__ import annotations

import dataclasses

import pytest

from llama_hub.backends.sagemaker import revisions
from llama_hub.errors import (
    AccessError,
    LlamaHubError,
    NotFoundError,
    ProvisioningError,
    QuotaError,
    UsageError,
)
from tests.support.sagemaker_bench import Bench
from tests.support.sagemaker_plane import Fault, Plane
from tests.support.sagemaker_refusals import FAILURES, OURS, REFUSALS, failure, refusal
from tests.support.tiers import family

ROLE = "arn:aws:iam::123456789012:role/own"
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/vllm:1"
WHO = "arn:aws:iam::123456789012:user/you"
KNOWN = {"role": ROLE, "image": IMAGE, "who": WHO, "uri": "s3://b/p/", "region": "us-east-1"}


YOUNG = ["role not assumed", "no role", "no access to model data"]  # the plane says the others


def times(plane: Plane, operation: str) -> int:
    return [call.operation for call in plane.calls].count(operation)


def test_every_refusal_names_its_source() -> None:
    for name, one in (REFUSALS | FAILURES).items():
        assert one.source.startswith(("https://", "AWS General Reference", "recorded", OURS)), name


def test_a_new_role_is_waited_for_until_sagemaker_can_use_it(plane: Plane, bench: Bench) -> None:
    """It can be assumed late, and its policy is in force later still."""
    assert bench.deploy().status == "ready"
    assert times(plane, "CreateModel") > 2
    assert times(plane, "CreateRole") == 1


def test_a_new_role_is_waited_for_until_codebuild_can_use_it(plane: Plane, bench: Bench) -> None:
    assert bench.deploy(options={"image": None}).status == "ready"
    assert times(plane, "CreateProject") > 1
    assert times(plane, "StartBuild") == 1


@pytest.mark.parametrize("words", family(YOUNG, everyday=1))
def test_each_of_the_words_for_a_young_role_is_known(
    plane: Plane, bench: Bench, words: str
) -> None:
    refused = refusal(words, **KNOWN)
    plane.faults = [Fault("sagemaker:CreateModel", refused.kind, refused.message, times=2)]
    assert bench.deploy().status == "ready"


def test_older_words_of_codebuild(plane: Plane, bench: Bench) -> None:
    message = f"CodeBuild is not authorized to perform: sts:AssumeRole on {ROLE}"
    plane.faults = [Fault("codebuild:CreateProject", "InvalidInputException", message, times=3)]
    assert bench.deploy(options={"image": None}).status == "ready"


def test_a_role_that_never_works_is_told_in_aws_own_words(plane: Plane, bench: Bench) -> None:
    refused = refusal("no role", **KNOWN)
    plane.faults = [Fault("sagemaker:CreateModel", refused.kind, refused.message, times=1000)]
    with pytest.raises(ProvisioningError, match="may not assume the role"):
        bench.deploy()
    assert times(plane, "CreateModel") < 3 * revisions.ROLE_WAIT / revisions.ROLE_LOOK


def test_a_role_of_your_own_is_not_waited_for(plane: Plane, bench: Bench) -> None:
    refused = refusal("no role", **KNOWN)
    bench.deploy("other")
    (role,) = bench.backend().observe("other").all("role")
    plane.forget()
    plane.faults = [Fault("sagemaker:CreateModel", refused.kind, refused.message, times=1000)]
    given = role.body["arn"].replace("/llama-hub/", "/")
    plane.backend("iam").get_role(role.name).path = "/"  # an older one, of somebody
    with pytest.raises(ProvisioningError, match="may not assume the role"):
        bench.deploy("x", options={"role": given})
    assert times(plane, "CreateModel") == 1


def test_an_endpoint_that_failed_for_its_young_role_is_made_again(
    plane: Plane, bench: Bench
) -> None:
    plane.control.failing = [failure("no role", **KNOWN)]
    assert bench.deploy().status == "ready"
    assert times(plane, "CreateEndpoint") == 2


ENDS = {
    "no capacity": (QuotaError, "no free machine of this type", "options.fallback"),
    "no pull": (AccessError, "may not be pulled", "ecr:BatchGetImage"),
    "no image": (ProvisioningError, "the image is not there", "describe-images"),
    "ping": (ProvisioningError, "GET /ping did not answer 200", "last log lines"),
    "container": (ProvisioningError, "driver does not fit", "options.cuda"),
}


@pytest.mark.parametrize("which", family(list(ENDS), everyday=2))
def test_how_an_endpoint_fails_is_told_with_its_cure(
    plane: Plane, bench: Bench, which: str
) -> None:
    kind, said, cure = ENDS[which]
    plane.control.failing = [failure(which, variant="AllTraffic", **KNOWN)]
    with pytest.raises(kind) as caught:
        bench.deploy()
    assert said in caught.value.message
    assert cure in caught.value.hint
    assert not plane.control.endpoints  # a failed one goes on billing


REFUSED = {
    "denied": ("CreateEndpoint", AccessError, "allow sagemaker:CreateEndpoint"),
    "denied by an organisation": ("CreateEndpointConfig", AccessError, "organisation"),
    "may not pass": ("CreateModel", AccessError, "allow iam:PassRole"),
    "repository closed": ("CreateModel", AccessError, "repository's policy"),
    "no image": ("CreateModel", NotFoundError, "describe-images"),
    "no model data": ("CreateModel", ProvisioningError, "uploads what is missing"),
    "quota": ("CreateEndpoint", QuotaError, "servicequotas"),
    "no managed scaling": ("CreateEndpointConfig", UsageError, "scale_to_zero"),
}


@pytest.mark.parametrize("which", family(list(REFUSED), everyday=3))
def test_each_refusal_is_told_with_its_cure(plane: Plane, bench: Bench, which: str) -> None:
    operation, kind, cure = REFUSED[which]
    action = f"sagemaker:{operation}"
    known = KNOWN | {"action": action, "resource": "arn:aws:sagemaker:us-east-1:123456789012:x"}
    numbers = {"instance": "ml.m5.large", "limit": 0, "used": 0, "wanted": 1}
    refused = refusal(which, **known, **numbers)
    plane.faults = [Fault(action, refused.kind, refused.message, refused.status, times=9)]
    with pytest.raises(LlamaHubError) as caught:
        bench.deploy()
    assert isinstance(caught.value, kind), caught.value
    assert cure in caught.value.hint


def test_a_target_that_may_not_be_deregistered_is_named(plane: Plane, bench: Bench) -> None:
    bench.deploy(replicas_max=2)
    plane.denied = {"application-autoscaling:DeregisterScalableTarget"}
    keep = dataclasses.replace(bench.options, on_failure="keep")
    deployer = bench.deployer()
    with pytest.raises(AccessError) as caught:
        deployer.apply(deployer.plan_delete("x"), keep)
    assert "application-autoscaling:DeregisterScalableTarget" in caught.value.hint
    plane.denied = set()
    bench.delete()
    assert plane.inventory() == []
