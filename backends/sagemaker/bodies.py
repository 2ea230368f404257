"""Names and request bodies of everything that a deployment consists of. Pure.

Models, configurations and components are never changed, only made again: their names end in the
digest of their own body, so that the same target always has the same names.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llama_hub.backends.sagemaker import images, machines
from llama_hub.backends.sagemaker.options import Options
from llama_hub.deploy.backend import TAG_SPEC, TAG_TTL, Target
from llama_hub.hub.manifest import Manifest, canonical

ROOT = "llama-hub"
VARIANT = "AllTraffic"
ROLE_PATH = f"/{ROOT}/"
NAMESPACE = "AWS/SageMaker"
DOWNLOAD_RATE = 50e6  # bytes a second from S3 to an instance that are sure to be reached
COMPILE_SECONDS = 300  # that vLLM may compile and capture graphs before it answers
LOAD_RATE = 100e6  # bytes a second from disk to the accelerators
SHORTEST, LONGEST = 300, 3600  # seconds; SageMaker takes 60 to 3600
ANSWER_SECONDS = 58  # SageMaker cuts a request off after 60
ASYNC_SECONDS = 3600
SOAK = 300  # seconds; an alarm looks at a minute, and its metrics are a minute late
ERROR_SHARE = 0.05  # of the requests of a minute
COPY_MEMORY = 1024  # MiB of host memory of a component whose weights are on accelerators


@dataclass(frozen=True)
class Account:
    """Account, region and bucket of a deployment."""

    id: str  # twelve digits
    region: str
    partition: str
    bucket: str

    @property
    def registry(self) -> str:
        """Host of the account's container registry."""
        return self.registry_of(self.id)

    def registry_of(self, owner: str) -> str:
        """Host of another account's registry in the same region."""
        suffix = "amazonaws.com.cn" if self.partition == "aws-cn" else "amazonaws.com"
        return f"{owner}.dkr.ecr.{self.region}.{suffix}"

    def role_arn(self, role: str) -> str:
        """ARN of a role that we made."""
        return f"arn:{self.partition}:iam::{self.id}:role{ROLE_PATH}{role}"

    def arn(self, kind: str, name: str) -> str:
        """ARN of a SageMaker resource."""
        return f"arn:{self.partition}:sagemaker:{self.region}:{self.id}:{kind}/{name.lower()}"


def digest_of(manifest: Manifest) -> str:
    """64 hexadecimal digits."""
    return manifest.digest.removeprefix("sha256:")


def weights_prefix(digest: str) -> str:
    """Where the files of a model lie."""
    return f"{ROOT}/models/{digest}/"


def marker_prefix(name: str = "") -> str:
    """Where deployments say which weights they use; of one or of all."""
    return f"{ROOT}/deployments/{name}/" if name else f"{ROOT}/deployments/"


def build_prefix(name: str) -> str:
    """Where the image's context lies while it is built."""
    return f"{ROOT}/builds/{name}/"


def async_prefix(name: str) -> str:
    """Where asynchronous questions and answers lie."""
    return f"{ROOT}/async/{name}/"


def role_name(name: str, region: str) -> str:
    """The execution role that is made for a deployment."""
    return f"{ROOT}-{name}-{region}"


def alarm_prefix(name: str) -> str:
    """Begins the names of a deployment's alarms."""
    return f"{ROOT}/{name}/"


def repository(name: str) -> str:
    """The image repository of a deployment."""
    return f"{ROOT}/{name}"


def short(body: Mapping[str, Any]) -> str:
    """Ten digits that stand for a body."""
    return hashlib.sha256(canonical(body)).hexdigest()[:10]


def seconds_for(amount: int, rate: float) -> int:
    """A timeout for ``amount`` bytes, within SageMaker's bounds."""
    return min(LONGEST, SHORTEST + math.ceil(amount / rate))


@dataclass(frozen=True)
class DesiredState:
    """Every body that a target leads to."""

    target: Target
    options: Options
    account: Account
    context: str  # digest of the image's build context; empty with a given image

    @property
    def name(self) -> str:
        """The deployment's own name, which the endpoint has as well."""
        return self.target.spec.name

    @property
    def tags(self) -> dict[str, str]:
        """Tags of what belongs to this revision."""
        return self.target.tags

    @property
    def lasting_tags(self) -> dict[str, str]:
        """Tags of what outlives revisions."""
        return {key: value for key, value in self.tags.items() if key not in (TAG_SPEC, TAG_TTL)}

    @property
    def idle(self) -> bool:
        """Whether it scales to zero as an inference component."""
        return self.target.spec.scale_to_zero and not self.options.asynchronous

    @cached_property
    def machine(self) -> machines.Machine:
        """The chosen machine type."""
        return machines.find(self.target.offer.instance)

    @property
    def digest(self) -> str:
        """Of the manifest."""
        return digest_of(self.target.artifact.manifest)

    @property
    def weights_uri(self) -> str:
        """Where the weights are."""
        return f"s3://{self.account.bucket}/{weights_prefix(self.digest)}"

    @property
    def role_arn(self) -> str:
        """The execution role: the given one, or the one that is made."""
        made = self.account.role_arn(role_name(self.name, self.account.region))
        return self.options.role or made

    @property
    def image(self) -> str:
        """The image: the given one, AWS's own with vLLM, or the one that is built."""
        if self.options.image:
            return self.options.image
        if self.options.run == "vllm":
            registry = self.account.registry_of(images.owner(self.account.region))
            return f"{registry}/{images.VLLM_IMAGE}"
        return f"{self.account.registry}/{repository(self.name)}:{self.context[:16]}"

    @property
    def vpc(self) -> dict[str, Any]:
        """``VpcConfig``, where there is one."""
        if not self.options.subnets:
            return {}
        groups = list(self.options.security_groups)
        return {"VpcConfig": {"SecurityGroupIds": groups, "Subnets": list(self.options.subnets)}}

    # --- model ----------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the container."""
        limit = ASYNC_SECONDS if self.options.asynchronous else ANSWER_SECONDS
        return images.environment(self.target, self.options, self.image, request_timeout=limit)

    @cached_property
    def model(self) -> dict[str, Any]:
        """``CreateModel``."""
        source = {
            "S3Uri": self.weights_uri,
            "S3DataType": "S3Prefix",
            "CompressionType": "None",
        }
        body = {
            "PrimaryContainer": {
                "Image": self.image,
                "Environment": self.environment,
                "ModelDataSource": {"S3DataSource": source},
            },
            "ExecutionRoleArn": self.role_arn,
            "EnableNetworkIsolation": self.options.network_isolation,
        } | self.vpc
        return {"ModelName": f"{self.name}-{short(body)}"} | body

    # --- endpoint -------------------------------------------------------------------------

    @property
    def timeouts(self) -> dict[str, int]:
        """Both start-up timeouts, from the model's size."""
        size = self.target.artifact.manifest.bytes
        start = seconds_for(size, LOAD_RATE)
        if self.options.run == "vllm":
            start = min(LONGEST, start + COMPILE_SECONDS)
        return {
            "ModelDataDownloadTimeoutInSeconds": seconds_for(size, DOWNLOAD_RATE),
            "ContainerStartupHealthCheckTimeoutInSeconds": start,
        }

    @property
    def count(self) -> int:
        """Instances to begin with."""
        return max(1, self.target.spec.replicas_min)

    @cached_property
    def variant(self) -> dict[str, Any]:
        """The one production variant, without its count."""
        body: dict[str, Any] = {"VariantName": VARIANT} | self.timeouts | self._machines()
        body["RoutingConfig"] = {"RoutingStrategy": self.options.routing}
        ami = self.options.ami or machines.ami_for(
            self.machine,
            None if images.is_built(self.options) else self.image,
            self.options.cuda,
        )
        if ami:
            body["InferenceAmiVersion"] = ami
        if not self.machine.nvme:
            size = self.target.artifact.manifest.bytes
            body["VolumeSizeInGB"] = min(512, 30 + math.ceil(1.3 * size / 1e9))
        if not self.idle:
            return body | {"ModelName": self.model["ModelName"]}
        most = self.target.spec.replicas_max
        scaling = {"Status": "ENABLED", "MinInstanceCount": 0, "MaxInstanceCount": most}
        return body | {"ManagedInstanceScaling": scaling}

    def _machines(self) -> dict[str, Any]:
        first = self.target.offer.instance
        if not self.options.fallback:
            return {"InstanceType": first}
        types = list(dict.fromkeys([first, *self.options.fallback]))
        return {
            "InstancePools": [
                {"InstanceType": one, "Priority": place} for place, one in enumerate(types, 1)
            ],
            "VariantInstanceProvisionTimeoutInSeconds": self.options.provision_timeout,
        }

    @cached_property
    def config(self) -> dict[str, Any]:
        """``CreateEndpointConfig``; its name does not depend on the count, which may change."""
        body: dict[str, Any] = {"ProductionVariants": [self.variant]}
        if self.options.kms_key and not self.machine.nvme:
            body["KmsKeyId"] = self.options.kms_key  # refused for machines with local disks
        if self.options.data_capture:
            body["DataCaptureConfig"] = self._capture()
        if self.options.asynchronous:
            body["AsyncInferenceConfig"] = self._asynchronous()
        if self.idle:
            isolated = {"EnableNetworkIsolation": self.options.network_isolation}
            body |= {"ExecutionRoleArn": self.role_arn} | isolated | self.vpc
        named = {"EndpointConfigName": f"{self.name}-{short(body)}"} | body
        counted = self.variant | {"InitialInstanceCount": self.count}
        return named | {"ProductionVariants": [counted]}

    def _uri(self, folder: str) -> str:
        return f"s3://{self.account.bucket}/{ROOT}/{folder}/{self.name}/"

    def _capture(self) -> dict[str, Any]:
        key = {"KmsKeyId": self.options.kms_key} if self.options.kms_key else {}
        return {
            "EnableCapture": True,
            "InitialSamplingPercentage": self.options.data_capture,
            "DestinationS3Uri": self._uri("captured"),
            "CaptureOptions": [{"CaptureMode": "InputAndOutput"}],
            "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
        } | key

    def _asynchronous(self) -> dict[str, Any]:
        where = self._uri("async")
        return {
            "OutputConfig": {"S3OutputPath": f"{where}out/", "S3FailurePath": f"{where}failed/"},
            "ClientConfig": {
                "MaxConcurrentInvocationsPerInstance": self.target.spec.concurrency,
            },
        }

    @property
    def endpoint(self) -> dict[str, Any]:
        """``CreateEndpoint``."""
        config = self.config["EndpointConfigName"]
        return {"EndpointName": self.name, "EndpointConfigName": config}

    @property
    def deployment(self) -> dict[str, Any]:
        """``DeploymentConfig`` of an update."""
        if self.idle:
            return {}
        names = [{"AlarmName": name} for name in self.alarms]
        back = {"AutoRollbackConfiguration": {"Alarms": names}} if names else {}
        return self._policy() | back

    @property
    def soak(self) -> int:
        """Seconds for which an alarm can bring the old revision back."""
        if self.options.soak is not None:
            return self.options.soak
        return SOAK if self.alarms else 0

    def _policy(self) -> dict[str, Any]:
        kind, step, soak = self.options.update, self.options.step, self.soak
        if kind == "rolling":
            batch = {"Type": "CAPACITY_PERCENT", "Value": step}
            rolling = {"MaximumBatchSize": batch, "WaitIntervalInSeconds": soak}
            return {"RollingUpdatePolicy": rolling}
        routing: dict[str, Any] = {
            "Type": kind.upper().replace("-", "_"),
            "WaitIntervalInSeconds": soak,
        }
        sizes = {"canary": "CanarySize", "linear": "LinearStepSize"}
        if kind in sizes:
            routing[sizes[kind]] = {"Type": "CAPACITY_PERCENT", "Value": max(10, step)}
        return {
            "BlueGreenUpdatePolicy": {
                "TrafficRoutingConfiguration": routing,
                "TerminationWaitInSeconds": soak,
                "MaximumExecutionTimeoutInSeconds": 28800,
            }
        }

    # --- alarms ---------------------------------------------------------------------------

    @property
    def alarms(self) -> dict[str, dict[str, Any]]:
        """``PutMetricAlarm`` by name: what rolls an update back."""
        if not self.options.alarms or self.idle or self.options.asynchronous:
            return {}
        start = alarm_prefix(self.name)
        errors = self._alarm("Invocation5XXErrors", ERROR_SHARE) | {"Statistic": "Average"}
        latency = self._alarm("ModelLatency", self.options.latency * 1e6)  # microseconds
        latency["ExtendedStatistic"] = "p99"
        return {f"{start}errors": errors, f"{start}latency": latency}

    def _alarm(self, metric: str, threshold: float) -> dict[str, Any]:
        dimensions = [("EndpointName", self.name), ("VariantName", VARIANT)]
        return {
            "AlarmDescription": f"rolls an update of {self.name} back",
            "Namespace": NAMESPACE,
            "MetricName": metric,
            "Dimensions": [{"Name": key, "Value": value} for key, value in dimensions],
            "Period": 60,
            "EvaluationPeriods": 1,
            "Threshold": float(threshold),
            "ComparisonOperator": "GreaterThanThreshold",
            "TreatMissingData": "notBreaching",
        }

    # --- component ------------------------------------------------------------------------

    @cached_property
    def component(self) -> dict[str, Any]:
        """``CreateInferenceComponent``."""
        devices = self.target.offer.accelerators
        host = COPY_MEMORY if devices else math.ceil(self.target.need.total_bytes / 2**20)
        needs: dict[str, Any] = {"MinMemoryRequiredInMb": host}
        if devices:
            needs["NumberOfAcceleratorDevicesRequired"] = devices
        specification = {
            "ModelName": self.model["ModelName"],
            "StartupParameters": self.timeouts,
            "ComputeResourceRequirements": needs,
        }
        body = {
            "EndpointName": self.name,
            "VariantName": VARIANT,
            "Specification": specification,
        }
        copies = {"CopyCount": self.count}
        named = {"InferenceComponentName": f"{self.name}-{short(body)}"}
        return named | body | {"RuntimeConfig": copies}
