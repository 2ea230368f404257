"""Who may do what in the loopback AWS: IAM actions of each call, policies, the simulator.

Actions and resources are those of the Service Authorization Reference, as far as our calls need
them. Conditions are not evaluated, which a policy of ours that leans on one must not be proven by.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from tests.support.sagemaker_refusals import ApiError, refusal
from tests.support.sagemaker_roles import allows

if TYPE_CHECKING:
    from tests.support.sagemaker_plane import Call, Plane

S3 = {  # the plane's word for a request → the action; sub-resources as in the URL
    "HeadBucket": "s3:ListBucket",
    "GetBucket": "s3:ListBucket",
    "PutBucket": "s3:CreateBucket",
    "DeleteBucket": "s3:DeleteBucket",
    "PutPublicaccessblock": "s3:PutBucketPublicAccessBlock",
    "PutTagging": "s3:PutBucketTagging",
    "GetTagging": "s3:GetBucketTagging",
    "GetLifecycle": "s3:GetLifecycleConfiguration",
    "PutLifecycle": "s3:PutLifecycleConfiguration",
    "DeleteLifecycle": "s3:PutLifecycleConfiguration",
    "GetUploads": "s3:ListBucketMultipartUploads",
    "PostDelete": "s3:DeleteObject",
    "HeadObject": "s3:GetObject",
    "GetObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "PostUploads": "s3:PutObject",
    "PutPart": "s3:PutObject",
    "PostUpload": "s3:PutObject",
    "GetUpload": "s3:ListMultipartUploadParts",
    "DeleteUpload": "s3:AbortMultipartUpload",
}
PREFIXES = {"monitoring": "cloudwatch", "runtime": "sagemaker"}
NAMES = {  # member of a SageMaker request → kind in the ARN
    "EndpointName": "endpoint",
    "EndpointConfigName": "endpoint-config",
    "ModelName": "model",
    "InferenceComponentName": "inference-component",
}
ALIASED = ("GetLifecycleConfiguration", "PutLifecycleConfiguration", "GetBucketTagging")
BOTH = ("CreateEndpoint", "UpdateEndpoint", "CreateInferenceComponent")  # of two resources


@dataclass
class Permissions:
    """What the caller may do, and what was asked for."""

    plane: Plane
    policies: list[Mapping[str, Any]] | None = None  # all of the caller's; ``None``: everything
    used: set[str] = field(default_factory=set)

    def check(self, call: Call) -> None:
        """Refuse what is denied; ``call`` has its body, so far as it has been read."""
        for action, resource in self.needs(call):
            self.used.add(action)
            if self._is_denied(action, resource):
                raise self._denial(action, resource)

    def simulate(self, form: Mapping[str, str]) -> str:
        """The answer of ``SimulatePrincipalPolicy``."""
        actions = [value for key, value in form.items() if key.startswith("ActionNames.")]
        resources = [value for key, value in form.items() if key.startswith("ResourceArns.")]
        self._check_together(actions)
        results = "".join(
            "<member><EvalActionName>{}</EvalActionName><EvalResourceName>{}</EvalResourceName>"
            "<EvalDecision>{}</EvalDecision></member>".format(
                action,
                resource,
                "implicitDeny" if self._is_denied(action, resource) else "allowed",
            )
            for action in actions
            for resource in resources
        )
        inner = f"<IsTruncated>false</IsTruncated><EvaluationResults>{results}</EvaluationResults>"
        return (
            '<SimulatePrincipalPolicyResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/">'
            f"<SimulatePrincipalPolicyResult>{inner}</SimulatePrincipalPolicyResult>"
            "</SimulatePrincipalPolicyResponse>"
        )

    def _check_together(self, actions: list[str]) -> None:
        """Several services, or S3's differently named actions beside others, are taken apart."""
        aliased = {one for one in actions if one.split(":")[1] in ALIASED}
        services = {one.split(":")[0] for one in actions}
        first = {one for one in actions if one.startswith(f"{actions[0].split(':')[0]}:")}
        some = aliased if aliased and aliased != set(actions) else first
        if len(services) > 1 or some is aliased:
            others = ",".join(sorted(set(actions) - some))
            raise refusal("simulated apart", some=",".join(sorted(some)), others=others)

    def _is_denied(self, action: str, resource: str) -> bool:
        if self.plane.is_denied(action):
            return True
        if self.policies is None:
            return False
        return not any(allows(policy, action, resource) for policy in self.policies)

    def _denial(self, action: str, resource: str) -> ApiError:
        who = f"arn:aws:iam::{self.plane.account}:user/you"
        if action == "iam:PassRole":
            return refusal("may not pass", who=who, role=resource)
        return refusal("denied", who=who, action=action, resource=resource)

    def needs(self, call: Call) -> Iterator[tuple[str, str]]:
        """Actions and resources of a call."""
        body = call.body if isinstance(call.body, dict) else {}
        if call.service == "sts" or not call.operation:
            return
        if call.service == "s3":
            place = call.path.strip("/")
            if call.operation == "PostDelete":  # its keys are in the body, which is not read yet
                place += "/llama-hub/x"
            yield S3[call.operation], f"arn:aws:s3:::{place}"
            return
        action = f"{PREFIXES.get(call.service, call.service)}:{call.operation}"
        for resource in self._resources(call, body):
            yield action, resource
        for key in ("ExecutionRoleArn", "serviceRole"):
            if call.write and key in body:
                yield "iam:PassRole", body[key]
        if body.get("tags") and call.operation == "CreateRepository":
            yield "ecr:TagResource", self._ecr(body["repositoryName"])
        if call.operation == "CreateRole":
            yield "iam:TagRole", self._role(body)

    def _resources(self, call: Call, body: Mapping[str, Any]) -> list[str]:
        service, operation = call.service, call.operation
        if service in ("sagemaker", "runtime"):
            return self._sagemaker(operation, body)
        if service == "iam":
            return [self._role(body)] if "RoleName" in body else ["*"]
        if service == "ecr":
            if "resourceArn" in body:
                return [str(body["resourceArn"])]
            named = body.get("repositoryName") or next(iter(body.get("repositoryNames", [])), None)
            return [self._ecr(named)] if named else ["*"]
        place = f"{self.plane.region}:{self.plane.account}"
        if service == "codebuild":
            name = body.get("name") or body.get("projectName")
            name = name or next(iter(body.get("ids", [])), "").partition(":")[0]
            return [f"arn:aws:codebuild:{place}:project/{name}"] if name else ["*"]
        if service == "logs":
            return [f"arn:aws:logs:{place}:log-group:{body['logGroupName']}"]
        if service == "monitoring" and not operation.startswith("Describe"):
            if "ResourceARN" in body:
                return [str(body["ResourceARN"])]
            names = body.get("AlarmNames") or [body["AlarmName"]]
            return [f"arn:aws:cloudwatch:{place}:alarm:{one}" for one in names]
        if service == "application-autoscaling" and not operation.startswith("Describe"):
            return [f"arn:aws:application-autoscaling:{place}:scalable-target/x"]
        return ["*"]

    def _sagemaker(self, operation: str, body: Mapping[str, Any]) -> list[str]:
        if "ResourceArn" in body:
            return [str(body["ResourceArn"])]
        arn = self.plane.control.arn
        if operation in BOTH:
            return [arn(kind, body[key]) for key, kind in NAMES.items() if key in body]
        own = next((key for key in NAMES if operation.endswith(key.removesuffix("Name"))), None)
        own = "EndpointName" if operation.endswith("Capacities") else own
        if operation.startswith("Invoke"):
            own = "EndpointName"
        return [arn(NAMES[own], body[own])] if own in body else ["*"]

    def _role(self, body: Mapping[str, Any]) -> str:
        return f"arn:aws:iam::{self.plane.account}:role/llama-hub/{body['RoleName']}"

    def _ecr(self, name: str) -> str:
        return f"arn:aws:ecr:{self.plane.region}:{self.plane.account}:repository/{name}"


def form_of(body: bytes) -> dict[str, Any]:
    """A form as plain members: ``AlarmNames.member.1`` keeps its name."""
    return {key: values[0] for key, values in parse_qs(body.decode(errors="replace")).items()}
