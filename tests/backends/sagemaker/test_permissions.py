"""Each read and write denied in turn, least privilege, and what the policies hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from llama_hub.backends.sagemaker import permissions
from llama_hub.deploy import gc
from llama_hub.deploy.backend import Context
from llama_hub.errors import AccessError, LlamaHubError, NotOursError, QuotaError, UsageError
from tests.support.sagemaker_bench import IMAGE, Bench
from tests.support.sagemaker_plane import ACCOUNT, Fault, Plane
from tests.support.tiers import exhaustive, family

IDLE = {"scale_to_zero": True, "replicas_min": 0, "replicas_max": 2}
ENDING = {"sagemaker:DescribeEndpoint", "sagemaker:ListTags", "sagemaker:DeleteEndpoint"}


NOT_MET = {  # by a first deployment whose files are small
    "application-autoscaling:DeregisterScalableTarget", "application-autoscaling:UntagResource",
    "cloudwatch:DeleteAlarms", "cloudwatch:UntagResource", "iam:CreateServiceLinkedRole",
    "cloudwatch:TagResource", "iam:UntagRole", "iam:UpdateAssumeRolePolicy", "iam:DeleteRole",
    "iam:DeleteRolePolicy", "s3:AbortMultipartUpload", "s3:DeleteObject", "sagemaker:AddTags",
    "sagemaker:DeleteTags", "sagemaker:UpdateEndpoint", "codebuild:DeleteProject",
    "sagemaker:UpdateEndpointWeightsAndCapacities",
}  # fmt: skip


def every(*purposes: str) -> list[str]:
    """Actions of the table."""
    found = permissions.actions(purposes or tuple(permissions.PERMISSIONS)).values()
    return sorted({action for named in found for action in named})


def some(actions: list[str]) -> list[str]:
    """All of them, or every seventh on an ordinary day."""
    return actions if exhaustive() else actions[::7]


def live(bench: Bench) -> None:
    """A whole life, each command once, in each of the forms that calls differ for."""
    bench.deploy(replicas_max=2, options={"image": None}, tags={"team": "a"})
    backend = bench.backend()
    assert [one.name for one in backend.list()] == ["x"]
    assert backend.status("x").status == "ready"
    assert list(backend.logs("x", tail=5))
    body = {"messages": [{"role": "user", "content": "one"}]}
    assert b"".join(backend.invoke("x", body, stream=False))
    assert list(backend.invoke("x", body | {"stream": True}, stream=True))
    assert list(backend.orphans()) == []
    bench.deploy(replicas_max=2, options={"image": None}, context=128, tags={"team": "b"})
    bench.deploy(replicas_min=2, replicas_max=2, options={"image": None}, context=128)
    bench.delete()
    bench.deploy(**IDLE, tags={"team": "a"})
    bench.deploy(**IDLE, tags={"b": "a"})
    bench.delete()
    waiting = {"asynchronous": True, "kms_key": "alias/weights"}
    network = {"subnets": ["subnet-1"], "security_groups": ["sg-1"]}
    bench.deploy(**IDLE, options=waiting | network)
    assert b"".join(backend.invoke("x", body, stream=False))
    bench.delete()
    assert list(backend.orphans()) == []
    list(backend.check())


def refusal_of(call: Callable[[], object]) -> AccessError | None:
    """What ``call`` is refused with; ``None`` if it is allowed."""
    try:
        call()
    except AccessError as error:
        return error
    return None


def test_the_policy_is_what_the_code_calls_and_suffices(plane: Plane, bench: Bench) -> None:
    """The whole life with the policy in force, resource by resource."""
    account = bench.backend().inventory.account
    plane.permissions.policies = [permissions.caller_policy(account, "x")]
    live(bench)
    assert plane.inventory() == []
    large = bench.backend().inventory.bucket
    assert large.uploads("") == []
    called = plane.permissions.used
    known = {  # called where the bench does not come: large files, buckets of others, first use
        "s3:ListMultipartUploadParts",
        "s3:AbortMultipartUpload",
        "iam:CreateServiceLinkedRole",  # by the service, for the caller
    }
    assert called <= set(every()) | {"kms:DescribeKey"}
    assert set(every()) - called <= known


@pytest.mark.sized
def test_each_action_denied_in_turn_is_told_by_the_plan(plane: Plane, bench: Bench) -> None:
    """What a deployment needs is told before a write; what it can do without is only missed."""
    needed = {*every("deploy", "role", "alarms")}
    optional = set(every()) - needed
    refused = set()
    asked = some(every())
    for action in asked:
        plane.denied = {action}
        error = refusal_of(bench.plan)
        if error is not None:
            assert action.split(":")[1] in error.message + error.hint, action
            refused.add(action)
    assert needed & set(asked) <= refused
    assert not (refused & optional), refused & optional
    assert plane.writes() == []


@pytest.mark.sized
def test_the_endpoint_can_be_ended_with_three_permissions(plane: Plane, bench: Bench) -> None:
    """Everything else denied, each in turn in the plan and all at once in the act."""
    bench.deploy()
    for action in some(every()):
        plane.denied = {action}
        backend = bench.backend()
        try:
            steps = backend.plan_delete("x", backend.observe("x"))
        except LlamaHubError:
            assert action in ENDING, action
            continue
        assert "endpoint" in [step.kind for step in steps], action
    plane.denied = {action for action in every() if action not in ENDING}
    backend = bench.backend()
    (step,) = backend.plan_delete("x", backend.observe("x"))
    assert step.kind == "endpoint"
    assert "role stays, for it may not be read" in step.note
    backend.execute(step, Context(None))
    assert plane.control.endpoints == {}


def test_what_cannot_be_seen_is_not_called_gone(plane: Plane, bench: Bench) -> None:
    bench.deploy()
    bench.aws.call("sagemaker", "delete_endpoint", EndpointName="x")  # by somebody
    bench.aws.find("sagemaker", "describe_endpoint", EndpointName="x")
    plane.denied = {action for action in every() if action not in ENDING}
    with pytest.raises(AccessError):
        bench.delete()
    plane.denied = set()
    bench.delete()
    assert plane.inventory() == []


READS = {
    "status": lambda bench: bench.backend().status("x"),
    "ps": lambda bench: list(bench.backend().list()),
    "logs": lambda bench: list(bench.backend().logs("x")),
    "gc": lambda bench: list(gc.search(bench.backend(), root=bench.root / "journals")),
    "attest": lambda bench: bench.backend().prove("x", bench.artifact().manifest),
}
DENIED = {
    "status": ["sagemaker:DescribeEndpoint", "sagemaker:ListTags"],
    "ps": ["sagemaker:ListEndpoints", "sagemaker:DescribeEndpoint", "sagemaker:ListTags"],
    "logs": ["logs:DescribeLogStreams", "logs:GetLogEvents"],
    "gc": [
        "sagemaker:ListEndpoints", "sagemaker:ListModels", "sagemaker:ListEndpointConfigs",
        "sagemaker:ListInferenceComponents", "iam:ListRoles", "ecr:DescribeRepositories",
        "cloudwatch:DescribeAlarms", "s3:ListBucket",
    ],
    "attest": ["sagemaker:InvokeEndpoint"],
}  # fmt: skip
CASES = [(command, action) for command in READS for action in DENIED[command]]


@pytest.mark.parametrize(("command", "action"), family(CASES, everyday=6))
def test_what_could_not_be_asked_is_said(
    plane: Plane, bench: Bench, command: str, action: str
) -> None:
    bench.deploy()
    plane.denied = {action}
    with pytest.raises(AccessError) as error:
        READS[command](bench)
    assert action in error.value.message + error.value.hint


@pytest.mark.parametrize("action", ["sagemaker:ListInferenceComponents", "ecr:*", "iam:*"])
def test_what_is_not_needed_to_see_it_is_not_asked_for(
    plane: Plane, bench: Bench, action: str
) -> None:
    bench.deploy()
    plane.denied = {action, "sagemaker:DescribeEndpointConfig"}
    assert bench.backend().status("x").status == "ready"
    assert [one.name for one in bench.backend().list()] == ["x"]
    assert list(bench.backend().logs("x"))


def test_gc_shows_what_it_found_before_what_it_could_not_ask(plane: Plane, bench: Bench) -> None:
    bench.deploy()
    bench.aws.call("sagemaker", "delete_endpoint", EndpointName="x")
    bench.aws.find("sagemaker", "describe_endpoint", EndpointName="x")
    plane.denied = {"iam:*"}
    shown = set()
    error = refusal_of(lambda: shown.update(one.kind for one in bench.backend().orphans()))
    assert error is not None
    assert "of role not all could be asked" in error.message
    assert {"model", "config", "weights"} <= shown


def test_gc_finds_what_is_left_below_an_endpoint_that_works(plane: Plane, bench: Bench) -> None:
    """An update whose last steps were cut off: its old model and configuration are in nobody's
    way, and nobody else would find them."""
    bench.deploy()
    first = {kind: bench.backend().observe("x").find(kind) for kind in ("model", "config")}
    deployer, backend = bench.deployer(), bench.backend()
    target = deployer._target(bench.spec(context=128), backend.observe("x"))
    for step in bench.plan(context=128).steps:
        if step.action not in ("delete", "noop"):
            backend.execute(step, Context(target))
    found = {one.id for one in bench.backend().orphans()}
    assert found == {one.id for one in first.values() if one}
    for left in gc.find(bench.backend(), root=bench.root / "journals"):
        gc.remove(bench.deployer(), left, bench.options)
    assert list(bench.backend().orphans()) == []
    assert bench.backend().status("x").status == "ready"


READING = ("Describe", "List", "Get", "Simulate", "Invoke", "Batch")
WRITES = [
    action
    for action in every("deploy", "role", "alarms", "scale", "image", "bucket")
    if not action.split(":")[1].startswith(READING) and action not in NOT_MET
]


@pytest.mark.parametrize("action", family(WRITES, everyday=4))
def test_each_write_denied_is_told_and_leaves_nothing_that_bills(
    plane: Plane, bench: Bench, action: str
) -> None:
    """Where the simulator could not be asked either, so that the plan knows of nothing."""
    plane.denied = {action, "iam:SimulatePrincipalPolicy"}
    spec = {"replicas_max": 2, "options": {"image": None}}
    error = refusal_of(lambda: bench.deploy(**spec))
    assert error is not None
    assert action.split(":")[1] in error.message + error.hint
    plane.denied = set()
    bills = ("endpoint/", "inference-component/", "scalable-target/", "build-project/")
    assert [one for one in plane.inventory() if one.startswith(bills)] == []
    assert bench.deploy(**spec).status == "ready"
    bench.delete()
    assert plane.inventory() == []


# --- what reads can judge, before anything is made ---------------------------------------------

OTHER = "arn:aws:iam::999999999999:role/r"
ABSENT = f"arn:aws:iam::{ACCOUNT}:role/absent"


def close_key(plane: Plane) -> None:
    plane.keys["alias/weights"] = "PendingDeletion"


def other_vpc(plane: Plane) -> None:
    plane.networks["sg-1"] = "vpc-2"


@pytest.mark.parametrize(
    ("spoil", "options", "said"),
    [
        (None, {"role": OTHER}, "is of account 999999999999"),
        (None, {"role": ABSENT}, "there is no role"),
        (None, {"kms_key": "alias/other"}, "there is no key"),
        (None, {"kms_key": f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/k"}, "of another region"),
        (close_key, {"kms_key": "alias/weights"}, "cannot encrypt"),
        (
            None,
            {"subnets": ["subnet-9"], "security_groups": ["sg-1"]},
            "find all of subnet-9",
        ),
        (other_vpc, {"subnets": ["subnet-1"], "security_groups": ["sg-1"]}, "different VPCs"),
        (None, {"image": IMAGE.replace("763104351884", ACCOUNT)}, "there is no image"),
        (None, {"fallback": ["ml.g99.large"]}, "ml.g99.large"),
        (None, {"fallback": ["ml.g5.2xlarge"]}, "accelerators"),
        (None, {"ami": "al2023-ami"}, "ami"),
    ],
)
def test_what_a_read_can_judge_is_judged_before_anything_is_made(
    plane: Plane,
    bench: Bench,
    spoil: Callable[[Plane], None] | None,
    options: dict[str, Any],
    said: str,
) -> None:
    if spoil:
        spoil(plane)
    with pytest.raises(UsageError, match=said) as error:
        bench.plan(options=options)
    assert error.value.hint
    assert plane.writes() == []


def test_reads_that_are_denied_judge_nothing(plane: Plane, bench: Bench) -> None:
    options = {"subnets": ["subnet-1"], "security_groups": ["sg-1"], "kms_key": "alias/weights"}
    plane.denied = {"kms:*", "ec2:*", "ecr:*", "iam:SimulatePrincipalPolicy"}
    assert bench.deploy(options=options).status == "ready"


def test_reads_that_cannot_be_made_judge_nothing_and_are_not_waited_for(
    plane: Plane, bench: Bench
) -> None:
    """As in a network that has no way to these services."""
    options = {"subnets": ["subnet-1"], "security_groups": ["sg-1"], "kms_key": "alias/weights"}
    asked = ("kms:*", "ec2:*", "iam:SimulatePrincipalPolicy")
    plane.faults = [Fault(one, "ServiceUnavailable", "later", 503, times=99) for one in asked]
    waited: list[float] = []
    bench.aws.sleep = waited.append
    assert bench.plan(options=options).changes
    assert waited == []


def test_a_role_that_does_not_trust_sagemaker(plane: Plane, bench: Bench) -> None:
    trust = {"Version": "2012-10-17", "Statement": []}
    bench.aws.call("iam", "create_role", RoleName="r", AssumeRolePolicyDocument=json.dumps(trust))
    plane.forget()
    with pytest.raises(UsageError, match=r"does not trust sagemaker\.amazonaws\.com"):
        bench.plan(options={"role": f"arn:aws:iam::{ACCOUNT}:role/r"})
    assert plane.writes() == []


def test_both_revisions_count_against_the_quota(plane: Plane, bench: Bench) -> None:
    plane.quotas["ml.m5.large"] = 3
    bench.deploy(replicas_min=2, replicas_max=2)
    plane.forget()
    with pytest.raises(QuotaError, match="x 2 more are needed") as error:
        bench.plan(replicas_min=2, replicas_max=2, context=128)
    assert "rolling" in error.value.hint
    assert plane.writes() == []
    assert bench.plan(replicas_min=2, replicas_max=2).changes == ()
    bench.plan(replicas_min=2, replicas_max=2, context=128, options={"update": "rolling"})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"environment": {"A": "x" * 1025}}, "1024"),
        ({"environment": {f"A{n}": "x" for n in range(100)}}, "100"),
        ({"tags": {"Team": "a", "team": "b"}}, "differ only in case"),
    ],
)
def test_variables_and_tags_that_aws_refuses(
    plane: Plane, bench: Bench, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        bench.plan(**changes)
    assert plane.writes() == []


# --- other people's resources ------------------------------------------------------------------


def their_role(plane: Plane, bench: Bench) -> None:
    trust = json.dumps({"Version": "2012-10-17", "Statement": []})
    name = "llama-hub-x-us-east-1"
    bench.aws.call("iam", "create_role", RoleName=name, AssumeRolePolicyDocument=trust)


def their_repository(plane: Plane, bench: Bench) -> None:
    plane.others.repositories["llama-hub/x"] = {}
    plane.others.repository_tags["llama-hub/x"] = {}


def their_alarm(plane: Plane, bench: Bench) -> None:
    alarm = {"MetricName": "m", "Namespace": "n", "Period": 60, "EvaluationPeriods": 1}
    more = {"Threshold": 1.0, "ComparisonOperator": "GreaterThanThreshold", "Statistic": "Sum"}
    bench.aws.call(
        "cloudwatch", "put_metric_alarm", AlarmName="llama-hub/x/errors", **alarm, **more
    )


@pytest.mark.parametrize("make", [their_role, their_repository, their_alarm])
def test_what_others_have_in_its_place_is_seen_by_the_plan(
    plane: Plane, bench: Bench, make: Callable[[Plane, Bench], None]
) -> None:
    make(plane, bench)
    before = sorted(plane.inventory())
    plane.forget()
    with pytest.raises(NotOursError):
        bench.plan()
    assert plane.writes() == []
    assert list(bench.backend().orphans()) == []
    assert sorted(plane.inventory()) == before


# --- documents ------------------------------------------------------------------------------


def test_the_policies_of_a_plan(bench: Bench) -> None:
    files = bench.backend().export(bench.plan().steps, "policies")
    assert set(files) == {
        "caller-policy.json",
        "execution-role-policy.json",
        "execution-role-trust.json",
    }
    caller = json.loads(files["caller-policy.json"])
    listed = {action for one in caller["Statement"] for action in one["Action"]}
    assert {"iam:PassRole", "sagemaker:CreateEndpoint", "iam:CreateRole"} <= listed
    assert not {"codebuild:StartBuild", "sagemaker:CreateInferenceComponent"} & listed
    given = bench.backend().export(bench.plan(options={"image": None}).steps, "policies")
    assert "build-role-policy.json" in given
    assert "codebuild:StartBuild" in given["caller-policy.json"]


def test_doctor_names_what_the_caller_may_not_do(plane: Plane, bench: Bench) -> None:
    plane.denied = {"iam:PassRole", "codebuild:*", "sagemaker:DeleteEndpoint"}
    lines = {line.name: line for line in bench.backend().check()}
    assert not lines["may deploy"].ok
    assert "iam:PassRole" in lines["may deploy"].detail
    assert lines["may build an image"].ok  # an image can be given
    assert "codebuild:StartBuild" in lines["may build an image"].detail
    assert "sagemaker:DeleteEndpoint" in lines["may stop the costs"].detail
    assert "policies" in lines["may deploy"].hint
    plane.denied = {"iam:SimulatePrincipalPolicy"}
    lines = {line.name: line for line in bench.backend().check()}
    assert "may not be asked" in lines["may deploy"].detail


def test_doctor_takes_the_options_of_deploy(plane: Plane, bench: Bench) -> None:
    options = {"role": ABSENT, "kms_key": "alias/weights", "subnets": ["subnet-1"]}
    spec = bench.spec(region="eu-west-1", options=options | {"security_groups": ["sg-1"]})
    lines = {line.name: line for line in bench.backend().check_for(spec)}
    assert {name for name, line in lines.items() if not line.ok} == {"its region", "its role"}
    assert set(lines) >= {"its bucket", "its key", "its network", "its image", "its permissions"}
