"""Telling Application Auto Scaling and CloudWatch what ``scaling`` and ``bodies`` plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_hub.backends.sagemaker import scaling
from llama_hub.backends.sagemaker.client import Aws
from llama_hub.deploy.reconcile import holds


def listed(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags as most services want them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


class Scaler:
    """Scaling targets and alarms of one account and region."""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws

    def scale(self, body: Mapping[str, Any]) -> None:
        """Range, policies, and the alarm that calls the policy which wakes."""
        service = "application-autoscaling"
        space = {"ServiceNamespace": scaling.SERVICE}
        self._aws.call(service, "register_scalable_target", **space, **body["target"])
        self._tag_target(str(body["target"]["ResourceId"]), body["tags"])
        arns = {
            policy["PolicyName"]: self._aws.call(service, "put_scaling_policy", **space, **policy)
            for policy in body["policies"]
        }
        if "alarm" in body:
            wakes = str(arns["llama-hub-wake"]["PolicyARN"])
            self.put_alarm(body["alarm"] | {"AlarmActions": [wakes]}, body["tags"])

    def _tag_target(self, resource: str, tags: Mapping[str, str]) -> None:
        found = self._aws.call(
            "application-autoscaling",
            "describe_scalable_targets",
            ServiceNamespace=scaling.SERVICE,
            ResourceIds=[resource],
        )
        arn = str(found["ScalableTargets"][0]["ScalableTargetARN"])
        self._retag("application-autoscaling", arn, tags, dict(tags))

    def deregister(self, resource: str) -> None:
        """Take a target away, with its policies."""
        self._aws.find(
            "application-autoscaling",
            "deregister_scalable_target",
            ServiceNamespace=scaling.SERVICE,
            ResourceId=resource,
            ScalableDimension=scaling.dimension_of(resource),
        )

    def put_alarm(self, request: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Put it unless it is so already; one that is put again keeps its old tags."""
        found = self._find_alarm(request["AlarmName"])
        if found is None or not holds(request, found):
            self._aws.call("cloudwatch", "put_metric_alarm", **request, Tags=listed(tags))
        if found is not None:
            self._retag("cloudwatch", str(found["AlarmArn"]), tags, listed(tags))

    def _find_alarm(self, name: str) -> Mapping[str, Any] | None:
        found = self._aws.call("cloudwatch", "describe_alarms", AlarmNames=[name])
        return next(iter(found.get("MetricAlarms", [])), None)

    def _retag(self, service: str, arn: str, tags: Mapping[str, str], form: Any) -> None:
        """Give a resource these tags and no others; ``form`` is how the service writes them."""
        known = self._aws.call(service, "list_tags_for_resource", ResourceARN=arn)["Tags"]
        there = known if isinstance(known, dict) else {one["Key"]: one["Value"] for one in known}
        stale = sorted(set(there) - set(tags))
        if stale:
            self._aws.call(service, "untag_resource", ResourceARN=arn, TagKeys=stale)
        if any(there.get(key) != value for key, value in tags.items()):
            self._aws.call(service, "tag_resource", ResourceARN=arn, Tags=form)
