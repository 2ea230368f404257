"""A plan as CloudFormation: for teams that deploy with their own pipeline.

Weights and image are not CloudFormation's to make: the template takes their places as they are
planned, and its description says what must be there first. Names that the plan gives are kept, so
that a stack and ``llama-hub`` speak of the same things.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llama_hub.backends.sagemaker import iam, permissions
from llama_hub.backends.sagemaker.bodies import Account
from llama_hub.deploy.backend import Step
from llama_hub.errors import UsageError

FORM = "cloudformation"
POLICIES = "policies"
TYPES = {
    "role": "AWS::IAM::Role",
    "model": "AWS::SageMaker::Model",
    "config": "AWS::SageMaker::EndpointConfig",
    "endpoint": "AWS::SageMaker::Endpoint",
    "component": "AWS::SageMaker::InferenceComponent",
    "alarm": "AWS::CloudWatch::Alarm",
}
POLICY_KEYS = {
    "TargetTrackingScalingPolicyConfiguration",
    "StepScalingPolicyConfiguration",
    "PolicyName",
    "PolicyType",
}


def files(steps: Sequence[Step], form: str) -> Mapping[str, str]:
    """``cloudformation``: the template, and what has to be there before; ``policies``.

    ``UsageError`` for another form.
    """
    if form == POLICIES:
        return policies(steps)
    if form != FORM:
        raise UsageError(
            f"sagemaker exports {FORM} and {POLICIES}, not {form!r}", hint=f"--form {FORM}"
        )
    wanted = [step for step in steps if step.action != "delete"]
    found: dict[str, Any] = {}
    for step in wanted:
        found |= _resources(step)
    template = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": _description(wanted),
        "Resources": _chained(found),
        "Outputs": {"EndpointName": {"Value": {"Ref": _endpoint(found)}}},
    }
    text = json.dumps(template, indent=2)
    return {"template.json": text + "\n", "README.txt": _before(wanted)}


def policies(steps: Sequence[Step]) -> Mapping[str, str]:
    """``caller-policy.json``: of whoever runs ``llama-hub``; ``execution-role-*.json``: of the
    endpoint, as far as the plan makes one; ``build-role-*.json``: of the image's build."""
    found = {step.kind: step for step in steps if step.action != "delete"}
    model = found["model"].body["request"]
    role = str(model["ExecutionRoleArn"])
    _, partition, _, _, owner, _ = role.split(":", 5)
    region = str(model["PrimaryContainer"]["Image"]).split(".")[3]
    account = Account(owner, region, partition, str(found["weights"].body["bucket"]))
    name = found["endpoint"].name
    purposes = [
        purpose
        for purpose in permissions.PERMISSIONS
        if NEEDED_BY.get(purpose) is None or NEEDED_BY[purpose] in found
    ]
    given = None if "role" in found else role
    caller = permissions.caller_policy(account, name, purposes=purposes, role=given)
    documents = {"caller-policy": caller}
    if "role" in found:
        documents["execution-role-trust"] = found["role"].body["trust"]
        documents["execution-role-policy"] = found["role"].body["policy"]
    if "image" in found:
        build = iam.build_role(name, account)
        documents |= {"build-role-trust": build["trust"], "build-role-policy": build["policy"]}
    return {f"{key}.json": json.dumps(value, indent=2) + "\n" for key, value in documents.items()}


# purpose → the kind of step that needs it; the others are always needed
NEEDED_BY = {
    "role": "role",
    "image": "image",
    "scale": "scaling",
    "sleep": "component",
    "alarms": "alarm",
}


def logical(kind: str, name: str) -> str:
    """Letters and digits."""
    return kind.capitalize() + "".join(re.findall(r"[A-Za-z0-9]+", name.title()))


def _resources(step: Step) -> dict[str, Any]:
    makers = {"role": _role, "scaling": _scaling, "alarm": _alarm}
    if step.kind in makers:
        return makers[step.kind](step)
    if step.kind not in TYPES:
        return {}
    body = {**step.body["request"], "Tags": _tags(step.body["tags"])}
    made: dict[str, Any] = {"Type": TYPES[step.kind], "Properties": body}
    if step.kind == "endpoint" and step.body["deployment"]:
        body["DeploymentConfig"] = step.body["deployment"]
        body["RetainAllVariantProperties"] = True
    return {logical(step.kind, step.name): made}


def _role(step: Step) -> dict[str, Any]:
    body = step.body
    properties = {
        "RoleName": body["role"],
        "Path": "/llama-hub/",
        "AssumeRolePolicyDocument": body["trust"],
        "Policies": [{"PolicyName": "llama-hub", "PolicyDocument": body["policy"]}],
        "Tags": _tags(body["tags"]),
    }
    return {logical("role", step.name): {"Type": TYPES["role"], "Properties": properties}}


def _alarm(step: Step) -> dict[str, Any]:
    body = {"AlarmName": step.name} | dict(step.body["request"])
    properties = body | {"Tags": _tags(step.body["tags"])}
    return {logical("alarm", step.name): {"Type": TYPES["alarm"], "Properties": properties}}


def _scaling(step: Step) -> dict[str, Any]:
    target, name = step.body["target"], logical("target", step.name)
    found: dict[str, Any] = {
        name: {
            "Type": "AWS::ApplicationAutoScaling::ScalableTarget",
            "Properties": {"ServiceNamespace": "sagemaker"} | dict(target),
        }
    }
    for policy in step.body["policies"]:
        known = {key: value for key, value in policy.items() if key in POLICY_KEYS}
        found[logical("policy", policy["PolicyName"])] = {
            "Type": "AWS::ApplicationAutoScaling::ScalingPolicy",
            "Properties": known | {"ScalingTargetId": {"Ref": name}},
        }
    if "alarm" in step.body:
        calls = {"AlarmActions": [{"Ref": logical("policy", "llama-hub-wake")}]}
        wakes = dict(step.body["alarm"]) | calls
        found["AlarmWake"] = {"Type": TYPES["alarm"], "Properties": wakes}
    return found


def _chained(found: Mapping[str, Any]) -> dict[str, Any]:
    """Each kind after the kinds that the plan has it wait for."""
    waits = {
        "AWS::SageMaker::Model": ("AWS::IAM::Role",),
        "AWS::SageMaker::EndpointConfig": ("AWS::SageMaker::Model",),
        "AWS::SageMaker::Endpoint": ("AWS::SageMaker::EndpointConfig", TYPES["alarm"]),
        "AWS::SageMaker::InferenceComponent": ("AWS::SageMaker::Endpoint", TYPES["model"]),
        "AWS::ApplicationAutoScaling::ScalableTarget": (
            "AWS::SageMaker::Endpoint",
            "AWS::SageMaker::InferenceComponent",
        ),
    }
    chained = {}
    for name, made in found.items():
        before = [
            other
            for other, one in found.items()
            if one["Type"] in waits.get(made["Type"], ()) and other != "AlarmWake"
        ]
        chained[name] = made | ({"DependsOn": before} if before else {})
    return chained


def _endpoint(found: Mapping[str, Any]) -> str:
    return next(name for name, made in found.items() if made["Type"] == TYPES["endpoint"])


def _tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _description(steps: Sequence[Step]) -> str:
    endpoint = next(step for step in steps if step.kind == "endpoint")
    return f"llama-hub deployment {endpoint.name}; see README.txt for what must be there first"


def _before(steps: Sequence[Step]) -> str:
    """Where weights and image have to be."""
    lines = ["Before the stack is made, these must be in place:"]
    for step in steps:
        if step.kind == "weights":
            where = f"s3://{step.body['bucket']}/{step.body['prefix']}"
            lines.append(f"- the model folder's files below {where} (not packed)")
        if step.kind == "image":
            lines.append(f"- the image {step.body['image']}")
    lines.append("`llama-hub deploy sagemaker …` puts both there, and does all of this itself.")
    return "\n".join(lines) + "\n"
