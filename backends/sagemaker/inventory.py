"""The inventory of an account: our deployments, by reads alone, found by name and tag."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import Any

from llama_hub.backends.sagemaker import bodies, scaling
from llama_hub.backends.sagemaker.bodies import Account
from llama_hub.backends.sagemaker.buckets import Container
from llama_hub.backends.sagemaker.client import Aws
from llama_hub.backends.sagemaker.iam import POLICY
from llama_hub.backends.sagemaker.storage import Bucket
from llama_hub.deploy.backend import TAG_DEPLOYMENT, Observed, Resource
from llama_hub.errors import AccessError, LlamaHubError, NotFoundError
from llama_hub.hub.manifest import MANIFEST_NAME

KINDS = {  # kind → listing operation, its key, prefix of the entry's keys, kind in an ARN
    "model": ("list_models", "Models", "Model", "model"),
    "config": ("list_endpoint_configs", "EndpointConfigs", "EndpointConfig", "endpoint-config"),
    "component": (
        "list_inference_components",
        "InferenceComponents",
        "InferenceComponent",
        "inference-component",
    ),
}
MADE = re.compile(r"(?P<name>[a-z][a-z0-9-]*)-[0-9a-f]{10}")  # names that end in a digest


class Inventory:
    """One account and region, read."""

    def __init__(self, aws: Aws, bucket: str | None) -> None:
        self.aws = aws
        self._bucket = bucket
        self.lacking: dict[Any, list[str] | None] = {}  # permissions, as IAM's simulator told

    @cached_property
    def account(self) -> Account:
        """Account, region and bucket."""
        account, region = self.aws.account, self.aws.region
        bucket = self._bucket or f"sagemaker-{region}-{account}"
        return Account(account, region, self.aws.partition, bucket)

    @property
    def has_default_bucket(self) -> bool:
        """Whether nobody has named another one."""
        return self._bucket is None

    @cached_property
    def bucket(self) -> Bucket:
        """Where the weights are."""
        return Bucket(self.aws, self.account.bucket)

    def container(self) -> Container:
        """The bucket as something that is made and removed."""
        return Container(self.bucket, self.account.region, self.has_default_bucket)

    def observe(self, name: str) -> Observed:
        """Everything of deployment ``name``.

        Only the endpoint has to be readable: a kind that is not stands in ``unread``.
        """
        unread: dict[str, LlamaHubError] = {}

        def read(kind: str, look: Callable[[], Iterable[Resource]]) -> list[Resource]:
            try:
                return list(look())
            except AccessError as error:
                unread[kind] = error
                return []

        there = self._any_endpoint(name)
        endpoints = [] if there is None else [self._with_config(there)]
        found = [
            *read("weights", lambda: self.weights(name)),
            *read("model", lambda: self._made("model", name)),
            *read("config", lambda: self._made("config", name)),
            *read("component", lambda: self._made("component", name)),
            *endpoints,
            *read("scaling", lambda: self._scaling(name)),
            *read("alarm", lambda: self._alarms(name)),
            *read("role", lambda: _given(self.any_role(bodies.role_name(name, self._region)))),
            *read("image", lambda: _given(self._any_image(name))),
        ]
        ours = [one for one in found if _is_of(one, name)]
        return Observed(tuple(ours), tuple(one for one in found if one not in ours), unread)

    @property
    def _region(self) -> str:
        return self.account.region

    # --- SageMaker ------------------------------------------------------------------------

    def tags(self, kind: str, name: str) -> dict[str, str]:
        """Tags of a resource, ``kind`` as in its ARN; less those that AWS itself has set."""
        arn = self.account.arn(kind, name)
        pages = self.aws.pages("sagemaker", "list_tags", "Tags", ResourceArn=arn)
        known = {str(one["Key"]): str(one["Value"]) for one in pages}
        return {key: value for key, value in known.items() if not key.startswith("aws:")}

    def _made(self, kind: str, name: str) -> Iterator[Resource]:
        """Models, configurations or components whose names we made for ``name``."""
        for full in self.names_of(kind, name):
            match = MADE.fullmatch(full)
            if match is None or match["name"] != name:
                continue
            found = self._described(kind, full)
            if found is not None and found.tags.get(TAG_DEPLOYMENT) == name:
                yield found

    def names_of(self, kind: str, contains: str) -> list[str]:
        """Names of models, configurations or components, ours or not."""
        operation, key, prefix, _ = KINDS[kind]
        given = {"NameContains": contains} if contains else {}
        entries = self.aws.pages("sagemaker", operation, key, **given)
        return [str(one[f"{prefix}Name"]) for one in entries]

    def _described(self, kind: str, name: str) -> Resource | None:
        _, _, prefix, arn_kind = KINDS[kind]
        operation = {
            "model": "describe_model",
            "config": "describe_endpoint_config",
            "component": "describe_inference_component",
        }[kind]
        body = self.aws.find("sagemaker", operation, **{f"{prefix}Name": name})
        if body is None:
            return None
        try:
            tags = self.tags(arn_kind, name)
        except NotFoundError:
            return None
        return Resource(kind, name, str(body.get(f"{prefix}Status", "exists")), tags, _plain(body))

    def config(self, name: str) -> Mapping[str, Any]:
        """A configuration's body; empty if it is gone."""
        found = self.aws.find("sagemaker", "describe_endpoint_config", EndpointConfigName=name)
        return _plain(found or {})

    def state(self, name: str) -> Mapping[str, Any] | None:
        """An endpoint as it is described now."""
        return self.aws.find("sagemaker", "describe_endpoint", EndpointName=name)

    def endpoint(self, name: str) -> Resource | None:
        """The endpoint ``name``, if it is ours."""
        there = self._any_endpoint(name)
        return self._with_config(there) if there and _is_of(there, name) else None

    def _with_config(self, endpoint: Resource) -> Resource:
        """With its configuration in its body; an empty one where that may not be read."""
        config: Mapping[str, Any] = {}
        with suppress(AccessError):
            config = self.config(str(endpoint.body["EndpointConfigName"]))
        return replace(endpoint, body={**endpoint.body, "config": dict(config)})

    def _any_endpoint(self, name: str) -> Resource | None:
        """The endpoint ``name``, whoever has made it."""
        body = self.state(name)
        if body is None:
            return None
        try:
            tags = self.tags("endpoint", name)
        except NotFoundError:
            return None
        return Resource("endpoint", name, str(body["EndpointStatus"]), tags, _plain(body))

    def endpoints(self) -> Iterator[Resource]:
        """Every endpoint of ours; ``AccessError`` if not one of the account's may be read.

        Others' need not be readable, and one that is closed to us is taken for one of theirs.
        """
        closed: AccessError | None = None
        read = 0
        for entry in self.aws.pages("sagemaker", "list_endpoints", "Endpoints"):
            try:
                found = self.endpoint(str(entry["EndpointName"]))
            except AccessError as error:
                closed = error
                continue
            read += 1
            if found is not None:
                yield found
        if closed is not None and not read:
            raise closed

    def components(self, name: str) -> list[Resource]:
        """Inference components of ``name``, the newest first."""
        found = list(self._made("component", name))
        return sorted(found, key=lambda one: str(one.body.get("CreationTime")), reverse=True)

    # --- scaling and alarms ---------------------------------------------------------------

    def _targets(self) -> list[Mapping[str, Any]]:
        pages = self.aws.pages(
            "application-autoscaling",
            "describe_scalable_targets",
            "ScalableTargets",
            ServiceNamespace=scaling.SERVICE,
        )
        return list(pages)

    def _scaling(self, name: str) -> Iterator[Resource]:
        starts = (f"endpoint/{name}/", f"inference-component/{name}-")
        for target in self._targets():
            mine = str(target["ResourceId"]).startswith(starts)
            found = self._target(target) if mine else None
            if found is not None and found.tags.get(TAG_DEPLOYMENT) == name:
                yield found

    def _target(self, target: Mapping[str, Any]) -> Resource | None:
        known = self.aws.find(
            "application-autoscaling",
            "list_tags_for_resource",
            ResourceARN=target["ScalableTargetARN"],
        )
        tags = dict((known or {}).get("Tags", {}))
        if TAG_DEPLOYMENT not in tags:
            return None
        resource = str(target["ResourceId"])
        policies = self.aws.pages(
            "application-autoscaling",
            "describe_scaling_policies",
            "ScalingPolicies",
            ServiceNamespace=scaling.SERVICE,
            ResourceId=resource,
        )
        body = {"target": _plain(target), "policies": [_plain(one) for one in policies]}
        return Resource("scaling", resource, "registered", tags, body)

    def _alarms(self, name: str) -> Iterator[Resource]:
        yield from self.all_alarms(bodies.alarm_prefix(name))

    def all_alarms(self, prefix: str) -> Iterator[Resource]:
        """Alarms whose names begin so, whoever has made them."""
        pages = self.aws.pages(
            "cloudwatch", "describe_alarms", "MetricAlarms", AlarmNamePrefix=prefix
        )
        for alarm in pages:
            known = self.aws.find(
                "cloudwatch", "list_tags_for_resource", ResourceARN=alarm["AlarmArn"]
            )
            tags = {one["Key"]: one["Value"] for one in (known or {}).get("Tags", [])}
            body, state = _plain(alarm), str(alarm.get("StateValue"))
            yield Resource("alarm", str(alarm["AlarmName"]), state, tags, body)

    # --- role, image, weights -------------------------------------------------------------

    def role(self, role: str) -> Resource | None:
        """A role that we made."""
        found = self.any_role(role)
        return found if found and TAG_DEPLOYMENT in found.tags else None

    def any_role(self, role: str) -> Resource | None:
        """A role, whoever has made it."""
        found = self.aws.find("iam", "get_role", RoleName=role)
        if found is None:
            return None
        tags = {one["Key"]: one["Value"] for one in found["Role"].get("Tags", [])}
        policy = self.aws.find("iam", "get_role_policy", RoleName=role, PolicyName=POLICY)
        body = {
            "role": role,
            "arn": found["Role"]["Arn"],
            "trust": _document(found["Role"]["AssumeRolePolicyDocument"]),
            "policy": _document((policy or {}).get("PolicyDocument", {})),
        }
        return Resource("role", role, "exists" if policy else "incomplete", tags, body)

    def _any_image(self, name: str) -> Resource | None:
        """The repository of a deployment's image, whoever has made it."""
        repository = bodies.repository(name)
        found = self.aws.find("ecr", "describe_repositories", repositoryNames=[repository])
        if found is None:
            return None
        arn = found["repositories"][0]["repositoryArn"]
        known = self.aws.call("ecr", "list_tags_for_resource", resourceArn=arn)
        tags = {one["Key"]: one["Value"] for one in known["tags"]}
        images = self.aws.find("ecr", "describe_images", repositoryName=repository) or {}
        there = [tag for one in images.get("imageDetails", []) for tag in one.get("imageTags", [])]
        state = "built" if there else "empty"
        return Resource("image", repository, state, tags, {"images": sorted(there)})

    def weights(self, name: str) -> list[Resource]:
        """What the markers of ``name`` say it uses."""
        return [self._marked(key) for key in self.bucket.keys(bodies.marker_prefix(name))]

    def _marked(self, key: str) -> Resource:
        name, digest = place_of(key)
        marker = json.loads(self.bucket.read(key))
        last = self.bucket.head(bodies.weights_prefix(digest) + MANIFEST_NAME)
        state = "complete" if last is not None else "unfinished"
        return Resource("weights", f"{name}/{digest}", state, marker["tags"], marker)

    def users(self, digest: str) -> set[str]:
        """Deployments that use these weights."""
        keys = self.bucket.keys(bodies.marker_prefix())
        return {place_of(key)[0] for key in keys if place_of(key)[1] == digest}


def place_of(marker: str) -> tuple[str, str]:
    """Deployment and digest of a marker's key."""
    name, _, rest = marker.removeprefix(bodies.marker_prefix()).partition("/")
    return name, rest.partition(".")[0]


def _is_of(found: Resource, name: str) -> bool:
    return found.tags.get(TAG_DEPLOYMENT) == name


def _given(found: Resource | None) -> Iterable[Resource]:
    return () if found is None else (found,)


def _plain(body: Mapping[str, Any]) -> dict[str, Any]:
    """Without the answer's own data, and with times as text."""
    kept = {key: value for key, value in body.items() if key != "ResponseMetadata"}
    found: dict[str, Any] = json.loads(json.dumps(kept, default=_text))
    return found


def _text(value: Any) -> str:
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _document(policy: Any) -> Any:
    return json.loads(policy) if isinstance(policy, str) else policy
