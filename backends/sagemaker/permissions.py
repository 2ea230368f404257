"""Permissions that the caller needs, by purpose and resource, and whether the caller has them.

The table is what this backend calls; the tests compare it with the calls of a whole life of a
deployment. ``export`` writes it as a policy, ``doctor`` and the plan ask IAM's own simulator.
The execution role's and the build's are in ``iam``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from llama_hub.backends.sagemaker import bodies, iam, images
from llama_hub.backends.sagemaker.bodies import ROOT, Account
from llama_hub.errors import LlamaHubError

if TYPE_CHECKING:
    from llama_hub.backends.sagemaker.inventory import Inventory
    from llama_hub.backends.sagemaker.options import Options
    from llama_hub.deploy.spec import DeploymentSpec

APART = "require different authorization information"  # the simulator, of actions together
PASS_ROLE = "iam:PassRole"
EVERY = "*"
_ASSUMED = re.compile(r"arn:(aws[\w-]*):sts::(\d{12}):assumed-role/([^/]+)/.+")

# purpose → kind of resource (see ``arns``) → actions
PERMISSIONS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    # Without these a deployment with a role and an image of yours cannot be made.
    "deploy": {
        "account": ("sagemaker:ListEndpointConfigs", "sagemaker:ListModels"),
        "endpoint": (
            "sagemaker:AddTags",
            "sagemaker:CreateEndpoint",
            "sagemaker:DeleteTags",
            "sagemaker:DescribeEndpoint",
            "sagemaker:ListTags",
            "sagemaker:UpdateEndpoint",
            "sagemaker:UpdateEndpointWeightsAndCapacities",
        ),
        "config": (
            "sagemaker:AddTags",
            "sagemaker:CreateEndpoint",  # and UpdateEndpoint are asked for both resources
            "sagemaker:CreateEndpointConfig",
            "sagemaker:DeleteTags",
            "sagemaker:DescribeEndpointConfig",
            "sagemaker:ListTags",
            "sagemaker:UpdateEndpoint",
        ),
        "model": (
            "sagemaker:AddTags",
            "sagemaker:CreateModel",
            "sagemaker:DeleteTags",
            "sagemaker:DescribeModel",
            "sagemaker:ListTags",
        ),
        "bucket": ("s3:ListBucket", "s3:ListBucketMultipartUploads"),
        "bucket settings": (  # which the simulator does not take beside others
            "s3:GetBucketTagging",
            "s3:GetLifecycleConfiguration",
            "s3:PutLifecycleConfiguration",
        ),
        "objects": (
            "s3:AbortMultipartUpload",
            "s3:GetObject",
            "s3:ListMultipartUploadParts",
            "s3:PutObject",
        ),
        "passed role": ("iam:PassRole",),
    },
    # To make the bucket, where nobody has.
    "bucket": {
        "bucket": ("s3:CreateBucket", "s3:PutBucketPublicAccessBlock", "s3:PutBucketTagging"),
    },
    # To make the execution role: without options.role.
    "role": {
        "role": (
            "iam:CreateRole",
            "iam:GetRole",
            "iam:GetRolePolicy",
            "iam:PutRolePolicy",
            "iam:TagRole",
            "iam:UntagRole",
            "iam:UpdateAssumeRolePolicy",
        ),
    },
    # To have the image built: without options.image.
    "image": {
        "repository": (
            "ecr:CreateRepository",
            "ecr:DescribeImages",
            "ecr:DescribeRepositories",
            "ecr:ListTagsForResource",
            "ecr:TagResource",
        ),
        "project": (
            "codebuild:BatchGetBuilds",
            "codebuild:CreateProject",
            "codebuild:DeleteProject",
            "codebuild:ListBuildsForProject",
            "codebuild:StartBuild",
        ),
        "objects": ("s3:DeleteObject",),
        "role": ("iam:CreateRole", "iam:DeleteRole", "iam:DeleteRolePolicy", "iam:GetRole",
                 "iam:PutRolePolicy", "iam:TagRole"),
    },
    # Where replicas_max is more than replicas_min.
    "scale": {
        "target": (
            "application-autoscaling:DeregisterScalableTarget",
            "application-autoscaling:ListTagsForResource",
            "application-autoscaling:PutScalingPolicy",
            "application-autoscaling:RegisterScalableTarget",
            "application-autoscaling:TagResource",
            "application-autoscaling:UntagResource",
        ),
        "account": (
            "application-autoscaling:DescribeScalableTargets",
            "application-autoscaling:DescribeScalingPolicies",
        ),
        "linked role": ("iam:CreateServiceLinkedRole",),
    },
    # Where scale_to_zero is true.
    "sleep": {
        "account": ("sagemaker:ListInferenceComponents",),
        "component": (
            "sagemaker:AddTags",
            "sagemaker:CreateInferenceComponent",
            "sagemaker:DeleteInferenceComponent",
            "sagemaker:DeleteTags",
            "sagemaker:DescribeInferenceComponent",
            "sagemaker:ListTags",
        ),
        "endpoint": ("sagemaker:CreateInferenceComponent",),
    },
    # Alarms that roll an update back, or wake what sleeps: options.alarms.
    "alarms": {
        "alarm": (
            "cloudwatch:DeleteAlarms",
            "cloudwatch:ListTagsForResource",
            "cloudwatch:PutMetricAlarm",
            "cloudwatch:TagResource",
            "cloudwatch:UntagResource",
        ),
        "account": ("cloudwatch:DescribeAlarms",),
    },
    "ask": {
        "endpoint": (
            "sagemaker:InvokeEndpoint",
            "sagemaker:InvokeEndpointAsync",
            "sagemaker:InvokeEndpointWithResponseStream",
        ),
        "component": ("sagemaker:InvokeEndpoint", "sagemaker:InvokeEndpointWithResponseStream"),
    },
    # To end what bills; with reading the endpoint, all that its removal needs.
    "end": {
        "endpoint": (
            "sagemaker:DeleteEndpoint",
            "sagemaker:DescribeEndpoint",
            "sagemaker:ListTags",
        ),
    },
    # To remove what costs next to nothing as well.
    "clean up": {
        "config": ("sagemaker:DeleteEndpointConfig",),
        "model": ("sagemaker:DeleteModel",),
        "bucket": ("s3:DeleteBucket",),
        "objects": ("s3:DeleteObject",),
        "log": ("logs:DeleteLogGroup",),
        "role": ("iam:DeleteRole", "iam:DeleteRolePolicy"),
        "repository": ("ecr:DeleteRepository",),
        "account": ("ecr:DescribeRepositories", "iam:ListRoles"),
    },
    # Denied, they cost a line of the plan or of doctor: prices, quotas, logs, what others have.
    "optional": {
        "log": ("logs:DescribeLogStreams", "logs:GetLogEvents"),
        "account": (
            "codebuild:ListProjects",
            "ec2:DescribeSecurityGroups",
            "ec2:DescribeSubnets",
            "kms:DescribeKey",
            "pricing:GetProducts",
            "sagemaker:ListEndpoints",
            "servicequotas:ListAWSDefaultServiceQuotas",
            "servicequotas:ListServiceQuotas",
        ),
        "caller": ("iam:SimulatePrincipalPolicy",),
    },
}  # fmt: skip


def purposes_of(spec: DeploymentSpec, options: Options) -> list[str]:
    """What a deployment needs permissions for, besides asking and ending it."""
    idle = spec.scale_to_zero and not options.asynchronous
    wanted = {
        "deploy": True,
        "role": options.role is None,
        "image": images.is_built(options),
        "scale": spec.scale_to_zero or spec.replicas_min != spec.replicas_max,
        "sleep": idle,
        "alarms": spec.scale_to_zero or (options.alarms and not options.asynchronous),
    }
    return [purpose for purpose, is_so in wanted.items() if is_so]


def arns(account: Account, name: str, kind: str, role: str | None = None) -> list[str]:
    """The resources of a kind of deployment ``name`` (``*``: of all)."""
    place = f"{account.region}:{account.id}"
    made = account.role_arn(f"{bodies.role_name(name, account.region)}")
    start = f"arn:{account.partition}"
    return {
        "account": [EVERY],
        "endpoint": [account.arn("endpoint", name)],
        "config": [account.arn("endpoint-config", f"{name}-*")],
        "model": [account.arn("model", f"{name}-*")],
        "component": [account.arn("inference-component", f"{name}-*")],
        "bucket": [f"{start}:s3:::{account.bucket}"],
        "bucket settings": [f"{start}:s3:::{account.bucket}"],
        "objects": [f"{start}:s3:::{account.bucket}/{ROOT}/*"],
        "role": [made, f"{made}-build"],
        "passed role": [role] if role else [made, f"{made}-build"],
        "linked role": [f"{start}:iam::{account.id}:role/aws-service-role/*"],
        "caller": [f"{start}:iam::{account.id}:*"],
        "repository": [f"{start}:ecr:{place}:repository/{bodies.repository(name)}"],
        "project": [f"{start}:codebuild:{place}:project/{ROOT}-{name}"],
        "target": [f"{start}:application-autoscaling:{place}:scalable-target/*"],
        "alarm": [f"{start}:cloudwatch:{place}:alarm:{bodies.alarm_prefix(name)}*"],
        "log": [
            f"{start}:logs:{place}:log-group:/aws/sagemaker/Endpoints/{name}*",
            f"{start}:logs:{place}:log-group:/aws/sagemaker/InferenceComponents/{name}-*",
        ],
    }[kind]


def actions(purposes: Iterable[str]) -> dict[str, list[str]]:
    """Kind of resource → actions, of several purposes together."""
    found: dict[str, set[str]] = {}
    for purpose in purposes:
        for kind, named in PERMISSIONS[purpose].items():
            found.setdefault(kind, set()).update(named)
    return {kind: sorted(named) for kind, named in sorted(found.items())}


def caller_policy(
    account: Account,
    name: str = EVERY,
    *,
    purposes: Iterable[str] = tuple(PERMISSIONS),
    role: str | None = None,
) -> dict[str, Any]:
    """An IAM policy of whoever runs ``llama-hub``; ``role``: the execution role that is given."""
    return {
        "Version": iam.VERSION,
        "Statement": [
            iam.allow(named, *arns(account, name, kind, role), **_condition(kind))
            for kind, named in actions(purposes).items()
        ],
    }


def _condition(kind: str) -> dict[str, Any]:
    if kind == "passed role":
        services = ["sagemaker.amazonaws.com", "codebuild.amazonaws.com"]
        return {"Condition": {"StringEquals": {"iam:PassedToService": services}}}
    return {}


# --- what the caller has --------------------------------------------------------------------


def missing(
    inventory: Inventory,
    name: str,
    purposes: Iterable[str],
    role: str | None = None,
    *,
    lists: bool = True,
) -> list[str] | None:
    """Actions that the caller may not do; ``None`` where IAM's simulator may not be asked.

    ``lists``: also what lists, which who has planned has done already.

    The simulator knows neither organisations' policies nor those of resources in full: what it
    allows may still be refused.
    """
    source = _principal(inventory)
    if source is None:
        return None
    lacking: set[str] = set()
    try:
        for kind, named in actions(purposes).items():
            if kind == "account" and not lists:
                continue
            lacking |= _lacking(inventory, source, arns(inventory.account, name, kind, role), named)
    except LlamaHubError:
        return None
    return sorted(lacking)


def _lacking(
    inventory: Inventory, source: str, patterns: Sequence[str], named: Sequence[str]
) -> set[str]:
    """Service by service, and one by one where the simulator takes some only apart."""
    # A name in the place of the pattern's end: the simulator compares policies with resources.
    resources = [one if one == EVERY else one.replace("*", "x") for one in patterns]
    lacking: set[str] = set()
    for _, group in groupby(sorted(named), key=lambda action: action.partition(":")[0]):
        together = list(group)
        try:
            lacking |= _denied(inventory, source, resources, together)
        except LlamaHubError as error:
            if APART not in error.message or len(together) == 1:
                raise
            for action in together:
                lacking |= _denied(inventory, source, resources, [action])
    return lacking


def _denied(
    inventory: Inventory, source: str, resources: Sequence[str], named: Sequence[str]
) -> set[str]:
    context = {
        "ContextKeyName": "iam:PassedToService",
        "ContextKeyValues": ["sagemaker.amazonaws.com"],
        "ContextKeyType": "string",
    }
    answer = inventory.aws.once(  # a plan must not wait long for what it can do without
        "iam",
        "simulate_principal_policy",
        PolicySourceArn=source,
        ActionNames=list(named),
        ResourceArns=list(resources),
        **({"ContextEntries": [context]} if PASS_ROLE in named else {}),
    )
    return {
        str(one["EvalActionName"])
        for one in answer.get("EvaluationResults", [])
        if one["EvalDecision"] != "allowed"
    }


def _principal(inventory: Inventory) -> str | None:
    """ARN of the user or role behind the caller; ``None`` for root, or where it is not known."""
    arn = inventory.aws.identity["Arn"]
    session = _ASSUMED.fullmatch(arn)
    if session is None:
        return None if arn.endswith(":root") else arn
    try:
        found = inventory.aws.find("iam", "get_role", RoleName=session[3])
    except LlamaHubError:
        found = None
    # Without its path, which only the role itself tells; most have none.
    plain = f"arn:{session[1]}:iam::{session[2]}:role/{session[3]}"
    return str(found["Role"]["Arn"]) if found else plain
