"""Roles of the loopback AWS as its services see them: who trusts whom, who may do what, since when.

The roles themselves are moto's. A new role is assumable late, and a policy that was put a moment
ago takes effect late, as in the service (IAM is eventually consistent; how long is ours).
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from tests.support.sagemaker_refusals import failure, refusal

if TYPE_CHECKING:
    from tests.support.sagemaker_plane import Plane

ROLE_DELAY = 10.0  # virtual seconds until a new role can be assumed
POLICY_DELAY = 15.0  # virtual seconds until a policy that was put is in force


class Roles:
    """All roles of the account."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self._born: dict[str, float] = {}
        self._allowed: dict[str, float] = {}  # since when the role's policies are what they are

    def changed(self, operation: str, body: bytes) -> None:
        """Note when a role or its policy was made."""
        name = parse_qs(body.decode()).get("RoleName", [""])[0]
        if operation == "CreateRole":
            self._born[name] = self.plane.now()
        if operation == "PutRolePolicy":
            self._allowed[name] = self.plane.now()

    def check(self, arn: str) -> None:
        """Refuse a role that SageMaker may not assume."""
        if not self._assumable(arn, "sagemaker.amazonaws.com"):
            raise refusal("no role", role=arn)

    def check_build(self, arn: str) -> None:
        """Refuse a role that CodeBuild may not assume."""
        if not self._assumable(arn, "codebuild.amazonaws.com"):
            raise refusal("role of a build")

    def check_data(self, arn: str, uri: str) -> None:
        """Refuse a model whose role may not read what it refers to, or which is not there."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        needs = list(self._data(uri))
        if self._is_young(self._allowed, arn, POLICY_DELAY) or self._lacking(arn, needs):
            known = {"role": arn, "uri": uri, "region": self.plane.region}
            raise refusal("no access to model data", **known)
        found = self.plane.s3.buckets.get(bucket)
        if found is None or not any(key.startswith(prefix) for key in found.objects):
            raise refusal("no model data", uri=uri)

    def denied(self, arn: str, image: str, uri: str) -> str:
        """Why a container cannot start with this role; empty if it can."""
        if not self._assumable(arn, "sagemaker.amazonaws.com"):
            return failure("no role", role=arn)
        repository = image.partition("/")[2].partition(":")[0].partition("@")[0]
        account = image.split(".")[0]
        where = f"arn:aws:ecr:{self.plane.region}:{account}:repository/{repository}"
        pull = [("ecr:BatchGetImage", where), ("ecr:GetAuthorizationToken", "*")]
        if self._lacking(arn, pull):
            return failure("no pull", role=arn, image=image)
        if self._lacking(arn, self._data(uri)):
            known = {"role": arn, "uri": uri, "region": self.plane.region}
            return refusal("no access to model data", **known).message
        return ""

    # --- inside -------------------------------------------------------------------------------

    def _find(self, arn: str) -> Any:
        known = {role.arn: role for role in self.plane.backend("iam").roles.values()}
        return known.get(arn)

    def _assumable(self, arn: str, service: str) -> bool:
        role = self._find(arn)
        trusted = role is not None and service in str(role.assume_role_policy_document)
        return trusted and not self._is_young(self._born, arn, ROLE_DELAY)

    def _is_young(self, since: Mapping[str, float], arn: str, delay: float) -> bool:
        name = arn.rpartition("/")[2]
        return self.plane.now() - since.get(name, -delay) < delay

    def _data(self, uri: str) -> Iterator[tuple[str, str]]:
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        yield "s3:ListBucket", f"arn:aws:s3:::{bucket}"
        for key in self.plane.s3.buckets[bucket].objects if bucket in self.plane.s3.buckets else ():
            if key.startswith(prefix):
                yield "s3:GetObject", f"arn:aws:s3:::{bucket}/{key}"

    def _lacking(self, arn: str, needs: Any) -> bool:
        policies = [json.loads(text) for text in self._find(arn).policies.values()]
        return not all(
            any(allows(policy, action, resource) for policy in policies)
            for action, resource in needs
        )


def allows(policy: Mapping[str, Any], action: str, resource: str) -> bool:
    """Whether a policy's statements allow ``action`` on ``resource``; conditions are not read."""
    return any(
        statement["Effect"] == "Allow"
        and _any(statement["Action"], action)
        and _any(statement["Resource"], resource)
        for statement in policy["Statement"]
    )


def _any(patterns: str | list[str], value: str) -> bool:
    listed = [patterns] if isinstance(patterns, str) else patterns
    return any(fnmatch.fnmatchcase(value.lower(), pattern.lower()) for pattern in listed)
