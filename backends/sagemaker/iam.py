"""The execution role: whom it trusts and the least that it must be allowed. Pure."""

from __future__ import annotations

from typing import Any

from llama_hub.backends.sagemaker.resources import (
    ROOT,
    Site,
    Wanted,
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


def trust(site: Site, service: str = "sagemaker") -> dict[str, Any]:
    """Only the service may assume it, and only for this account."""
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": f"{service}.amazonaws.com"},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"aws:SourceAccount": site.account}},
    }
    return {"Version": VERSION, "Statement": [statement]}


def role(wanted: Wanted) -> dict[str, Any]:
    """Name, trust and policy of the role."""
    site = wanted.site
    return {
        "role": role_name(wanted.name, site.region),
        "arn": wanted.role_arn,
        "trust": trust(site),
        "policy": {"Version": VERSION, "Statement": _statements(wanted)},
    }


def _statements(wanted: Wanted) -> list[dict[str, Any]]:
    site, options = wanted.site, wanted.options
    bucket = f"arn:{site.partition}:s3:::{site.bucket}"
    groups = f"arn:{site.partition}:logs:{site.region}:{site.account}:log-group:/aws/sagemaker/"
    found = [
        allow(["s3:GetObject"], f"{bucket}/{ROOT}/models/*"),
        allow(
            ["s3:ListBucket"],
            bucket,
            Condition={"StringLike": {"s3:prefix": [f"{ROOT}/models/*"]}},
        ),
        allow(["ecr:GetAuthorizationToken"], "*"),
        allow(PULL, _repository(wanted)),
        allow(LOGS, f"{groups}Endpoints/{wanted.name}*", f"{groups}InferenceComponents/*"),
        allow(["cloudwatch:PutMetricData", "cloudwatch:DescribeAlarms"], "*"),
    ]
    if options.data_capture or options.asynchronous:
        folder = "captured" if options.data_capture else "async"
        own = f"{bucket}/{ROOT}/{folder}/{wanted.name}/*"
        found.append(allow(["s3:PutObject", "s3:GetObject"], own))
    if options.kms_key:
        found.append(allow(["kms:Decrypt", "kms:GenerateDataKey"], "*"))
    if options.subnets:
        found.append(allow(NETWORK, "*"))
    return found


def _repository(wanted: Wanted) -> str:
    """ARN of the repository that the image is in."""
    site = wanted.site
    host, _, rest = wanted.image.partition("/")
    account = host.partition(".")[0]
    name = rest.partition("@")[0].rpartition(":")[0] if "@" not in rest else rest.partition("@")[0]
    return f"arn:{site.partition}:ecr:{site.region}:{account}:repository/{name}"


def build_role(name: str, site: Site) -> dict[str, Any]:
    """The role of the build, which is removed when the image is there."""
    groups = f"arn:{site.partition}:logs:{site.region}:{site.account}:log-group:/aws/codebuild/"
    where = f"arn:{site.partition}:ecr:{site.region}:{site.account}:repository/{repository(name)}"
    push = [*PULL, "ecr:InitiateLayerUpload", "ecr:UploadLayerPart", "ecr:CompleteLayerUpload"]
    bucket = f"arn:{site.partition}:s3:::{site.bucket}"
    statements = [
        allow(["s3:GetObject", "s3:GetObjectVersion"], f"{bucket}/{build_prefix(name)}*"),
        allow(["ecr:GetAuthorizationToken"], "*"),
        allow([*push, "ecr:PutImage"], where),
        allow(LOGS[:3], f"{groups}{ROOT}-{name}*"),
    ]
    return {
        "role": f"{role_name(name, site.region)}-build",
        "arn": site.role_arn(f"{role_name(name, site.region)}-build"),
        "trust": trust(site, "codebuild"),
        "policy": {"Version": VERSION, "Statement": statements},
    }
