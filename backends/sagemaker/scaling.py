"""Bodies for Application Auto Scaling: range, target to aim at, waking from zero. Pure."""

from __future__ import annotations

from typing import Any

from llama_hub.backends.sagemaker.bodies import NAMESPACE, VARIANT, DesiredState, alarm_prefix

SERVICE = "sagemaker"
BY_VARIANT = "sagemaker:variant:DesiredInstanceCount"
BY_COPY = "sagemaker:inference-component:DesiredCopyCount"
BUSY_SHARE = 0.7  # of the concurrency, so that there is room while a machine starts
OUT, IN = 60, 300  # seconds of rest after scaling out and in


def dimension_of(resource: str) -> str:
    """The dimension of a resource id."""
    return BY_VARIANT if resource.startswith("endpoint/") else BY_COPY


def resource_of(desired: DesiredState) -> str:
    """What is scaled: the variant, or the component's copies."""
    if desired.idle:
        return f"inference-component/{desired.component['InferenceComponentName']}"
    return f"endpoint/{desired.name}/variant/{VARIANT}"


def body(desired: DesiredState) -> dict[str, Any] | None:
    """Target, policies and the alarm that wakes; ``None`` if the count is fixed."""
    spec = desired.target.spec
    least = 0 if spec.scale_to_zero else spec.replicas_min
    if least == spec.replicas_max:
        return None
    resource = resource_of(desired)
    known = {"ResourceId": resource, "ScalableDimension": dimension_of(resource)}
    target = known | {"MinCapacity": least, "MaxCapacity": spec.replicas_max}
    policies = [known | _tracking(desired)]
    if least:
        return {"target": target, "policies": policies}
    return {
        "target": target,
        "policies": [*policies, known | _wake()],
        "alarm": {"AlarmName": f"{alarm_prefix(desired.name)}wake"} | _calls(desired),
    }


def _tracking(desired: DesiredState) -> dict[str, Any]:
    """Keep the requests under way per instance at the target."""
    spec, options = desired.target.spec, desired.options
    aim = options.scale_target or max(1.0, round(BUSY_SHARE * spec.concurrency, 1))
    rest = 60 * spec.scale_to_zero_minutes if spec.scale_to_zero_minutes else IN
    metric = {
        True: "SageMakerInferenceComponentConcurrentRequestsPerCopyHighResolution",
        False: "SageMakerVariantConcurrentRequestsPerModelHighResolution",
    }[desired.idle]
    known = {"TargetValue": aim, "ScaleInCooldown": rest, "ScaleOutCooldown": OUT}
    what = {"PredefinedMetricSpecification": {"PredefinedMetricType": metric}}
    if options.asynchronous:
        backlog = {
            "MetricName": "ApproximateBacklogSizePerInstance",
            "Namespace": NAMESPACE,
            "Dimensions": [{"Name": "EndpointName", "Value": desired.name}],
            "Statistic": "Average",
        }
        what = {"CustomizedMetricSpecification": backlog}  # type: ignore[dict-item]
    return {
        "PolicyName": "llama-hub-load",
        "PolicyType": "TargetTrackingScaling",
        "TargetTrackingScalingPolicyConfiguration": known | what,
    }


def _wake() -> dict[str, Any]:
    """From zero to one."""
    return {
        "PolicyName": "llama-hub-wake",
        "PolicyType": "StepScaling",
        "StepScalingPolicyConfiguration": {
            "AdjustmentType": "ChangeInCapacity",
            "MetricAggregationType": "Maximum",
            "Cooldown": OUT,
            "StepAdjustments": [{"MetricIntervalLowerBound": 0.0, "ScalingAdjustment": 1}],
        },
    }


def _calls(desired: DesiredState) -> dict[str, Any]:
    """The alarm for requests that found nobody."""
    if desired.options.asynchronous:
        metric, dimension = "HasBacklogWithoutCapacity", ("EndpointName", desired.name)
    else:
        component = desired.component["InferenceComponentName"]
        metric, dimension = "NoCapacityInvocationFailures", ("InferenceComponentName", component)
    return {
        "AlarmDescription": f"wakes {desired.name}",
        "Namespace": NAMESPACE,
        "MetricName": metric,
        "Dimensions": [{"Name": dimension[0], "Value": dimension[1]}],
        "Statistic": "Maximum",
        "Period": 30 if desired.idle else 60,
        "EvaluationPeriods": 1,
        "DatapointsToAlarm": 1,
        "Threshold": 1.0,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "TreatMissingData": "missing",
    }
