"""The execution role: whom it trusts and the least that it must be allowed. Pure."""

from __future__ import annotations

from typing import Any

from llama_hub.backends.sagemaker.bodies import (
    ROOT,
    Account,
    DesiredState,
    build_prefix,
    repository,
    role_name,
)

POLICY = "llama-hub"  # name of the inline policy
VERSION = "2012-10-17"
PULL = ["ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage"]
NETWORK = [
    "ec2:CreateNetworkInterface", "ec2:CreateNetworkInterfacePermission",
    "ec2:DeleteNetworkInterface", "ec2:DeleteNetworkInterfacePermission",
    "ec2:DescribeNetworkInterfaces", "ec2:DescribeVpcs", "ec2:DescribeDhcpOptions",
    "ec2:DescribeSubnets", "ec2:DescribeSecurityGroups",
]  # fmt: skip
LOGS = [
    "logs:CreateLogGroup",
    "logs:CreateLogStream",
    "logs:PutLogEvents",
    "logs:DescribeLogStreams",
]


def allow(actions: list[str], *resources: str, **more: Any) -> dict[str, Any]:
    """One statement."""
    return {"Effect": "Allow", "Action": actions, "Resource": list(resources)} | more


def trust(account: Account, service: str = "sagemaker") -> dict[str, Any]:
    """Only the service may assume it, and only for this account."""
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": f"{service}.amazonaws.com"},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"aws:SourceAccount": account.id}},
    }
    return {"Version": VERSION, "Statement": [statement]}


def role(desired: DesiredState) -> dict[str, Any]:
    """Name, trust and policy of the role."""
    account = desired.account
    return {
        "role": role_name(desired.name, account.region),
        "arn": desired.role_arn,
        "trust": trust(account),
        "policy": {"Version": VERSION, "Statement": _statements(desired)},
    }


def _statements(desired: DesiredState) -> list[dict[str, Any]]:
    account, options = desired.account, desired.options
    bucket = f"arn:{account.partition}:s3:::{account.bucket}"
    groups = f"arn:{account.partition}:logs:{account.region}:{account.id}:log-group:/aws/sagemaker/"
    found = [
        allow(["s3:GetObject"], f"{bucket}/{ROOT}/models/*"),
        allow(
            ["s3:ListBucket"],
            bucket,
            Condition={"StringLike": {"s3:prefix": [f"{ROOT}/models/*"]}},
        ),
        allow(["ecr:GetAuthorizationToken"], "*"),
        allow(PULL, _repository(desired)),
        allow(LOGS, f"{groups}Endpoints/{desired.name}*", f"{groups}InferenceComponents/*"),
        allow(["cloudwatch:PutMetricData", "cloudwatch:DescribeAlarms"], "*"),
    ]
    if options.data_capture or options.asynchronous:
        folder = "captured" if options.data_capture else "async"
        own = f"{bucket}/{ROOT}/{folder}/{desired.name}/*"
        found.append(allow(["s3:PutObject", "s3:GetObject"], own))
    if options.kms_key:
        found.append(allow(["kms:Decrypt", "kms:GenerateDataKey"], "*"))
    if options.subnets:
        found.append(allow(NETWORK, "*"))
    return found


def _repository(desired: DesiredState) -> str:
    """ARN of the repository that the image is in."""
    account = desired.account
    host, _, rest = desired.image.partition("/")
    owner = host.partition(".")[0]
    name = rest.partition("@")[0].rpartition(":")[0] if "@" not in rest else rest.partition("@")[0]
    return f"arn:{account.partition}:ecr:{account.region}:{owner}:repository/{name}"


def build_role(name: str, account: Account) -> dict[str, Any]:
    """The role of the build, which is removed when the image is there."""
    groups = f"arn:{account.partition}:logs:{account.region}:{account.id}:log-group:/aws/codebuild/"
    where = (
        f"arn:{account.partition}:ecr:{account.region}:{account.id}:repository/{repository(name)}"
    )
    push = [*PULL, "ecr:InitiateLayerUpload", "ecr:UploadLayerPart", "ecr:CompleteLayerUpload"]
    bucket = f"arn:{account.partition}:s3:::{account.bucket}"
    statements = [
        allow(["s3:GetObject", "s3:GetObjectVersion"], f"{bucket}/{build_prefix(name)}*"),
        allow(["ecr:GetAuthorizationToken"], "*"),
        allow([*push, "ecr:PutImage"], where),
        allow(LOGS[:3], f"{groups}{ROOT}-{name}*"),
    ]
    return {
        "role": f"{role_name(name, account.region)}-build",
        "arn": account.role_arn(f"{role_name(name, account.region)}-build"),
        "trust": trust(account, "codebuild"),
        "policy": {"Version": VERSION, "Statement": statements},
    }
