"""SageMaker's control plane as its documentation and botocore's model describe it.

Endpoints go through Creating, InService, Failed, Updating, RollingBack, Deleting; containers are
started from a copy of the S3 prefix, with the permissions that the execution role has. One
container runs per variant or component, whatever the count. What it cannot prove: the words of
AWS's refusals and the state after a rollback are from documentation and bug reports, hardware is
never there or missing except as told, and nothing here has a price.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support import sagemaker_host as host
from tests.support.sagemaker_refusals import ApiError, failure, refusal

if TYPE_CHECKING:
    from tests.support.sagemaker_plane import Plane

NVME = ("g4dn", "g5", "g6", "g6e", "p4d", "p4de", "p5", "p5e", "p5en")
DEVICES = {"ml.g5.2xlarge": 1, "ml.g5.12xlarge": 4}  # accelerators of a machine
DRIVERS = {  # AMI → highest CUDA version that its driver runs
    "al2-ami-sagemaker-inference-gpu-2": 12.2,
    "al2-ami-sagemaker-inference-gpu-2-1": 12.2,
    "al2-ami-sagemaker-inference-gpu-3-1": 12.4,
    "al2023-ami-sagemaker-inference-gpu-4-1": 13.0,
    "": 11.4,
}


def invalid(problem: str) -> ApiError:
    """A refusal whose words nobody recorded."""
    return refusal("invalid", problem=problem)


def not_found(what: str, arn: str) -> ApiError:
    """The refusal for something that is not there."""
    return refusal("not found", what=what, arn=arn)


def exists(what: str, arn: str) -> ApiError:
    """The refusal for a name that is taken."""
    return refusal("exists", what=what, arn=arn)


@dataclass
class Variant:
    """One production variant of an endpoint, or one component: what runs, and how many."""

    config: dict[str, Any]
    count: int
    container: host.Container | None = None
    folder: Path | None = None

    def close(self) -> None:
        """Stop the container and remove its copy of the weights."""
        if self.container is not None:
            self.container.close()
        if self.folder is not None:
            host.remove_weights(self.folder)
        self.container = self.folder = None


@dataclass
class Endpoint:
    """An endpoint."""

    name: str
    config: str
    status: str
    created: float
    variants: dict[str, Variant] = field(default_factory=dict)
    failure: str = ""
    worker: threading.Thread | None = None
    last_update: dict[str, Any] | None = None
    pending: tuple[str, int, float] | None = None  # configuration, instances, since when


@dataclass
class Component:
    """An inference component."""

    name: str
    request: dict[str, Any]
    status: str
    variant: Variant
    failure: str = ""


class Control:
    """All SageMaker resources of one account and region."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.models: dict[str, dict[str, Any]] = {}
        self.configs: dict[str, dict[str, Any]] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self.components: dict[str, Component] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.created: dict[str, float] = {}
        self._listed: dict[str, int] = {}  # how often something would have been listed
        self.failing: list[str] = []  # reasons for which the next launches fail
        self.lock = threading.RLock()

    # --- the outside ----------------------------------------------------------------------

    def arn(self, kind: str, name: str) -> str:
        """An ARN."""
        return f"arn:aws:sagemaker:{self.plane.region}:{self.plane.account}:{kind}/{name.lower()}"

    def inventory(self) -> list[str]:
        """Everything that exists."""
        kinds = {
            "model": self.models,
            "endpoint-config": self.configs,
            "endpoint": self.endpoints,
            "inference-component": self.components,
        }
        return [f"{kind}/{name}" for kind, found in kinds.items() for name in found]

    def close(self) -> None:
        """Stop every container."""
        for endpoint in list(self.endpoints.values()):
            if endpoint.worker:
                endpoint.worker.join(60)
            for variant in endpoint.variants.values():
                variant.close()
        for component in self.components.values():
            component.variant.close()

    def call(self, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        """Do one operation."""
        with self.lock:
            method: Callable[[dict[str, Any]], dict[str, Any] | None] = getattr(self, operation)
            return method(body) or {}

    def _tag(self, arn: str, body: Mapping[str, Any]) -> None:
        self.tags[arn] = {one["Key"]: one["Value"] for one in body.get("Tags", [])}
        self.created[arn] = self.plane.now()

    # --- tags -----------------------------------------------------------------------------

    def ListTags(self, body: dict[str, Any]) -> dict[str, Any]:
        self._exists(body["ResourceArn"])
        found = self.tags[body["ResourceArn"]]
        return {"Tags": [{"Key": key, "Value": value} for key, value in found.items()]}

    def AddTags(self, body: dict[str, Any]) -> dict[str, Any]:
        self._exists(body["ResourceArn"])
        self.tags[body["ResourceArn"]] |= {one["Key"]: one["Value"] for one in body["Tags"]}
        return {"Tags": body["Tags"]}

    def DeleteTags(self, body: dict[str, Any]) -> None:
        self._exists(body["ResourceArn"])
        for key in body["TagKeys"]:
            self.tags[body["ResourceArn"]].pop(key, None)

    def _exists(self, arn: str) -> None:
        if arn not in self.tags:
            raise refusal("no resource", arn=arn)

    # --- models and configurations --------------------------------------------------------

    def CreateModel(self, body: dict[str, Any]) -> dict[str, Any]:
        arn = self.arn("model", body["ModelName"])
        if body["ModelName"] in self.models:
            raise exists("model", arn)
        self.plane.roles.check(body["ExecutionRoleArn"])
        container = body["PrimaryContainer"]
        self.plane.check_image(container["Image"])
        source = container["ModelDataSource"]["S3DataSource"]
        if source["S3DataType"] == "S3Prefix" and not source["S3Uri"].endswith("/"):
            raise invalid("S3Uri of an S3Prefix must end with /")
        self.plane.roles.check_data(body["ExecutionRoleArn"], source["S3Uri"])
        variables = container.get("Environment", {})
        if sum(len(key) + len(value) for key, value in variables.items()) > 32 << 10:
            raise invalid("Environment is larger than 32 KB")
        self.models[body["ModelName"]] = body
        self._tag(arn, body)
        return {"ModelArn": arn}

    def DescribeModel(self, body: dict[str, Any]) -> dict[str, Any]:
        arn = self.arn("model", body["ModelName"])
        found = self.models.get(body["ModelName"])
        if found is None:
            raise not_found("model", arn)
        known = {key: value for key, value in found.items() if key != "Tags"}
        return known | {"ModelArn": arn, "CreationTime": self.created[arn]}

    def ListModels(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._page("Models", "Model", "model", self.models, body, lambda name: {})

    def DeleteModel(self, body: dict[str, Any]) -> None:
        self.DescribeModel(body)
        del self.models[body["ModelName"]]
        self.tags.pop(self.arn("model", body["ModelName"]))

    def CreateEndpointConfig(self, body: dict[str, Any]) -> dict[str, Any]:
        name = body["EndpointConfigName"]
        arn = self.arn("endpoint-config", name)
        if name in self.configs:
            raise exists("endpoint configuration", arn)
        for variant in body["ProductionVariants"]:
            self._check_variant(body, variant)
        self.configs[name] = body
        self._tag(arn, body)
        return {"EndpointConfigArn": arn}

    def _check_variant(self, body: Mapping[str, Any], variant: Mapping[str, Any]) -> None:
        model = variant.get("ModelName")
        if model is None and "ExecutionRoleArn" not in body:
            raise invalid("ExecutionRoleArn is required for inference component endpoints")
        if model is not None and model not in self.models:
            raise not_found("model", self.arn("model", model))
        if model is not None and "ManagedInstanceScaling" in variant:
            raise refusal("no managed scaling")
        if ("InstanceType" in variant) == ("InstancePools" in variant):
            raise invalid("exactly one of InstanceType and InstancePools is needed")
        for instance in instances(variant):
            if "VolumeSizeInGB" in variant and instance.split(".")[1] in NVME:
                raise invalid(f"VolumeSizeInGB is not supported for {instance}")

    def DescribeEndpointConfig(self, body: dict[str, Any]) -> dict[str, Any]:
        name = body["EndpointConfigName"]
        arn = self.arn("endpoint-config", name)
        found = self.configs.get(name)
        if found is None:
            raise not_found("endpoint configuration", arn)
        known = {key: value for key, value in found.items() if key != "Tags"}
        variants = [{"InitialVariantWeight": 1.0} | one for one in found["ProductionVariants"]]
        known |= {"ProductionVariants": variants, "EnableNetworkIsolation": False} | {
            key: known[key] for key in ("EnableNetworkIsolation",) if key in known
        }
        return known | {"EndpointConfigArn": arn, "CreationTime": self.created[arn]}

    def ListEndpointConfigs(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._page(
            "EndpointConfigs", "EndpointConfig", "endpoint-config", self.configs, body, lambda n: {}
        )

    def DeleteEndpointConfig(self, body: dict[str, Any]) -> None:
        self.DescribeEndpointConfig(body)
        name = body["EndpointConfigName"]
        users = [one.name for one in self.endpoints.values() if one.config == name]
        if users:
            self.plane.problems.append(f"the configuration {name} was deleted in use by {users}")
        del self.configs[name]
        self.tags.pop(self.arn("endpoint-config", name))

    # --- endpoints ------------------------------------------------------------------------

    def _endpoint(self, name: str) -> Endpoint:
        found = self.endpoints.get(name)
        if found is None:
            raise not_found("endpoint", self.arn("endpoint", name))
        return found

    def CreateEndpoint(self, body: dict[str, Any]) -> dict[str, Any]:
        name, arn = body["EndpointName"], self.arn("endpoint", body["EndpointName"])
        if name.lower() in {known.lower() for known in self.endpoints}:
            raise exists("endpoint", arn)
        config = self.DescribeEndpointConfig(body)
        self._check_quota(config, None)
        made = Endpoint(name, body["EndpointConfigName"], "Creating", self.plane.now())
        self.endpoints[name] = made
        self._tag(arn, body)
        self._work(made, lambda: self._create(made, config))
        return {"EndpointArn": arn}

    def _work(self, endpoint: Endpoint, work: Callable[[], None]) -> None:
        endpoint.worker = threading.Thread(target=work, daemon=True)
        endpoint.worker.start()

    def _create(self, endpoint: Endpoint, config: Mapping[str, Any]) -> None:
        variants, problem = self._launch_all(endpoint.name, config)
        with self.lock:
            endpoint.variants = variants
            endpoint.failure = problem
            endpoint.status = "Failed" if problem else "InService"

    def _launch_all(
        self, endpoint: str, config: Mapping[str, Any]
    ) -> tuple[dict[str, Variant], str]:
        variants: dict[str, Variant] = {}
        for each in config["ProductionVariants"]:
            variant = Variant(dict(each), each["InitialInstanceCount"])
            variants[each["VariantName"]] = variant
            problem = self._provision(each)
            if not problem and "ModelName" in each:
                model = self.models[each["ModelName"]]
                where = f"/aws/sagemaker/Endpoints/{endpoint}"
                problem = self._launch(variant, model, each, each, where)
            if problem:
                for one in variants.values():
                    one.close()
                return {}, problem
        return variants, ""

    def _provision(self, variant: Mapping[str, Any]) -> str:
        """Machines; with pools the first type that is there."""
        if any(one not in self.plane.no_capacity for one in instances(variant)):
            return ""
        return failure("no capacity")

    def _launch(
        self,
        variant: Variant,
        model: Mapping[str, Any],
        machine: Mapping[str, Any],
        startup: Mapping[str, Any],
        group: str,
    ) -> str:
        """Start a container; the reason if it does not answer ``/ping``."""
        if self.failing:
            return self.failing.pop(0)
        container = model["PrimaryContainer"]
        wrong_driver = self._driver(container["Image"], machine)
        if wrong_driver:
            return wrong_driver
        uri = container["ModelDataSource"]["S3DataSource"]["S3Uri"]
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        denied = self.plane.roles.denied(model["ExecutionRoleArn"], container["Image"], uri)
        if denied:
            return denied
        objects = self.plane.s3.buckets[bucket].objects
        files = {k[len(prefix) :]: v.path for k, v in objects.items() if k.startswith(prefix)}
        if not files:
            return refusal("no model data", uri=uri).message
        assert startup.get("ModelDataDownloadTimeoutInSeconds", 0) >= 60
        variant.folder = self.plane.new_folder()
        host.place_weights(files, variant.folder)
        variant.container = self.plane.launch(variant.folder, container.get("Environment", {}))
        reason = host.wait_for_ping(variant.container)
        self.plane.write_log(group, "AllTraffic/i-0123456789abcdef0", variant.container.log())
        if not reason:
            return ""
        variant.close()
        return failure("ping", variant="AllTraffic")

    def _driver(self, image: str, machine: Mapping[str, Any]) -> str:
        """The CUDA version of the image against the driver of the AMI, on GPU machines."""
        if not any(one.split(".")[1][0] in "gp" for one in instances(machine)):
            return ""
        needed = self.plane.cuda_of(image)
        driver = DRIVERS[machine.get("InferenceAmiVersion", "")]
        if needed is None or (needed <= driver and not (driver >= 13 > needed)):
            return ""
        return failure("container", variant="AllTraffic")

    def DescribeEndpoint(self, body: dict[str, Any]) -> dict[str, Any]:
        found = self._endpoint(body["EndpointName"])
        arn = self.arn("endpoint", found.name)
        answer: dict[str, Any] = {
            "EndpointName": found.name,
            "EndpointArn": arn,
            "EndpointConfigName": found.config,
            "EndpointStatus": found.status,
            "CreationTime": found.created,
            "LastModifiedTime": self.plane.now(),
            "ProductionVariants": [
                {
                    "VariantName": name,
                    "CurrentInstanceCount": one.count,
                    "DesiredInstanceCount": one.count,
                    "CurrentWeight": 1.0,
                    "DesiredWeight": 1.0,
                    "VariantStatus": [{"Status": "Creating", "StartTime": found.created}],
                    "DeployedImages": [],
                }
                for name, one in found.variants.items()
            ],
        }
        if not found.variants:
            del answer["ProductionVariants"]
        if found.pending:
            config, count, start = found.pending
            counts = {"CurrentInstanceCount": 0, "DesiredInstanceCount": count}
            answer["PendingDeploymentSummary"] = {
                "EndpointConfigName": config,
                "StartTime": start,
                "ProductionVariants": [{"VariantName": "AllTraffic"} | counts],
            }
        if found.failure:
            answer["FailureReason"] = found.failure
        if found.status == "Deleting":
            self._gone(found)
        return answer

    def _gone(self, endpoint: Endpoint) -> None:
        for variant in endpoint.variants.values():
            variant.close()
        del self.endpoints[endpoint.name]
        self.tags.pop(self.arn("endpoint", endpoint.name))

    def ListEndpoints(self, body: dict[str, Any]) -> dict[str, Any]:
        def more(name: str) -> dict[str, Any]:
            found = self.endpoints[name]
            return {"EndpointStatus": found.status, "LastModifiedTime": found.created}

        return self._page("Endpoints", "Endpoint", "endpoint", self.endpoints, body, more)

    def UpdateEndpoint(self, body: dict[str, Any]) -> dict[str, Any]:
        found = self._endpoint(body["EndpointName"])
        arn = self.arn("endpoint", found.name)
        if found.status != "InService":
            raise refusal("in progress", arn=arn)
        if body["EndpointConfigName"] == found.config:
            raise invalid("the endpoint uses this configuration already")
        config = self.DescribeEndpointConfig(body)
        old = self.configs.get(found.config)
        if old is None:
            raise invalid("the configuration in use was deleted")
        self._check_autoscaled(found.name, old, config)
        self._check_deployment(config, body.get("DeploymentConfig", {}))
        self._check_quota(config, found)
        found.status, found.failure, found.last_update = "Updating", "", body
        self._work(found, lambda: self._update(found, config, body))
        return {"EndpointArn": arn}

    def _check_autoscaled(self, name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        changed = instances(old["ProductionVariants"][0]) != instances(new["ProductionVariants"][0])
        if changed and self.plane.others.targets_of(f"endpoint/{name}/"):
            raise refusal("autoscaled")

    def _check_deployment(self, config: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        routing = wanted.get("BlueGreenUpdatePolicy", {}).get("TrafficRoutingConfiguration", {})
        count = config["ProductionVariants"][0]["InitialInstanceCount"]
        gradual = routing.get("Type", "ALL_AT_ONCE") != "ALL_AT_ONCE"
        if count < 2 and (gradual or "RollingUpdatePolicy" in wanted):
            raise invalid("canary, linear and rolling updates need at least two instances")
        for alarm in wanted.get("AutoRollbackConfiguration", {}).get("Alarms", []):
            if self.plane.alarm_state(alarm["AlarmName"]) is None:
                raise invalid(f"Alarm {alarm['AlarmName']} does not exist")

    def _update(
        self, endpoint: Endpoint, config: Mapping[str, Any], body: Mapping[str, Any]
    ) -> None:
        green, problem = self._launch_all(endpoint.name, config)
        alarms = body.get("DeploymentConfig", {}).get("AutoRollbackConfiguration", {})
        ringing = [
            one["AlarmName"]
            for one in alarms.get("Alarms", [])
            if self.plane.alarm_state(one["AlarmName"]) == "ALARM"
        ]
        with self.lock:
            if problem or ringing:
                for variant in green.values():
                    variant.close()
                endpoint.status = "RollingBack"
                endpoint.failure = problem or failure("alarm", alarms=ringing)
            else:
                self._switch(endpoint, green, body)
        self.plane.tick(lambda: self._rolled_back(endpoint))

    def _rolled_back(self, endpoint: Endpoint) -> None:
        if endpoint.status == "RollingBack":
            endpoint.status = "InService"

    def _switch(
        self, endpoint: Endpoint, green: dict[str, Variant], body: Mapping[str, Any]
    ) -> None:
        for name, variant in endpoint.variants.items():
            if body.get("RetainAllVariantProperties") and name in green:
                green[name].count = variant.count
            variant.close()
        endpoint.variants = green
        endpoint.config = str(body["EndpointConfigName"])
        endpoint.status = "InService"

    def UpdateEndpointWeightsAndCapacities(self, body: dict[str, Any]) -> dict[str, Any]:
        found = self._endpoint(body["EndpointName"])
        if found.status != "InService":
            raise refusal("in progress", arn=self.arn("endpoint", found.name))
        for wanted in body["DesiredWeightsAndCapacities"]:
            variant = found.variants[wanted["VariantName"]]
            variant.count = wanted.get("DesiredInstanceCount", variant.count)
        return {"EndpointArn": self.arn("endpoint", found.name)}

    def DeleteEndpoint(self, body: dict[str, Any]) -> None:
        found = self._endpoint(body["EndpointName"])
        if found.status in ("Creating", "Updating", "RollingBack"):
            raise refusal("in progress", arn=self.arn("endpoint", found.name))
        if any(one.request["EndpointName"] == found.name for one in self.components.values()):
            raise refusal("has components")
        if self.plane.others.targets_of(f"endpoint/{found.name}/"):
            if self.plane.is_denied("application-autoscaling:DeregisterScalableTarget"):
                raise refusal("autoscaled and no right to deregister")
            self.plane.problems.append(f"{found.name} was deleted with a scalable target")
        found.status = "Deleting"

    def _check_quota(self, config: Mapping[str, Any], replaced: Endpoint | None) -> None:
        """Instances in use, and those of the new configuration beside them."""
        for variant in config["ProductionVariants"]:
            allowed = [one for one in instances(variant) if self._has_room(one, variant)]
            if not allowed:
                instance = instances(variant)[0]
                limit, used = self.plane.quota(instance), self.used(instance)
                wanted = variant["InitialInstanceCount"]
                known = {"instance": instance, "limit": limit, "used": used, "wanted": wanted}
                raise refusal("quota", **known)

    def _has_room(self, instance: str, variant: Mapping[str, Any]) -> bool:
        wanted = self.used(instance) + int(variant["InitialInstanceCount"])
        return wanted <= self.plane.quota(instance)

    def used(self, instance: str) -> int:
        """Instances of a type that run."""
        return sum(
            variant.count
            for endpoint in self.endpoints.values()
            for variant in endpoint.variants.values()
            if instances(variant.config)[0] == instance
        )

    # --- inference components -------------------------------------------------------------

    def CreateInferenceComponent(self, body: dict[str, Any]) -> dict[str, Any]:
        name = body["InferenceComponentName"]
        arn = self.arn("inference-component", name)
        if name in self.components:
            raise exists("inference component", arn)
        endpoint = self._endpoint(body["EndpointName"])
        if endpoint.status != "InService":
            raise invalid("the endpoint is not InService")
        count = body["RuntimeConfig"]["CopyCount"]
        made = Component(name, body, "Creating", Variant({}, count))
        self.components[name] = made
        self._tag(arn, body)
        self._work(endpoint, lambda: self._start_component(made, endpoint))
        return {"InferenceComponentArn": arn}

    def _start_component(self, component: Component, endpoint: Endpoint) -> None:
        specification = component.request["Specification"]
        machine = endpoint.variants[component.request["VariantName"]].config
        problem = self._no_device(component, machine)
        if component.variant.count and not problem:
            model = self.models[specification["ModelName"]]
            startup = specification["StartupParameters"]
            where = f"/aws/sagemaker/InferenceComponents/{component.name}"
            problem = self._launch(component.variant, model, machine, startup, where)
        with self.lock:
            component.status = "Failed" if problem else "InService"
            component.failure = problem

    def _no_device(self, component: Component, machine: Mapping[str, Any]) -> str:
        """Each copy holds its accelerators, and machines are at most as many as was said."""
        devices = DEVICES.get(instances(machine)[0], 0)
        most = machine.get("ManagedInstanceScaling", {}).get("MaxInstanceCount", 1)
        held = sum(
            one.variant.count
            * one.request["Specification"]["ComputeResourceRequirements"].get(
                "NumberOfAcceleratorDevicesRequired", 0
            )
            for one in self.components.values()
            if one.request["EndpointName"] == component.request["EndpointName"]
        )
        return failure("no device") if devices and held > devices * most else ""

    def _component(self, body: Mapping[str, Any]) -> Component:
        found = self.components.get(body["InferenceComponentName"])
        if found is None:
            arn = self.arn("inference-component", body["InferenceComponentName"])
            raise not_found("inference component", arn)
        return found

    def DescribeInferenceComponent(self, body: dict[str, Any]) -> dict[str, Any]:
        found = self._component(body)
        arn = self.arn("inference-component", found.name)
        request = found.request
        answer = {
            "InferenceComponentName": found.name,
            "InferenceComponentArn": arn,
            "EndpointName": request["EndpointName"],
            "EndpointArn": self.arn("endpoint", request["EndpointName"]),
            "VariantName": request["VariantName"],
            "InferenceComponentStatus": found.status,
            "Specification": {
                key: value for key, value in request["Specification"].items() if key != "Container"
            },
            "RuntimeConfig": {
                "DesiredCopyCount": found.variant.count,
                "CurrentCopyCount": found.variant.count,
            },
            "CreationTime": self.created[arn],
            "LastModifiedTime": self.created[arn],
        }
        if found.failure:
            answer["FailureReason"] = found.failure
        if found.status == "Deleting":
            found.variant.close()
            del self.components[found.name]
            self.tags.pop(arn)
        return answer

    def ListInferenceComponents(self, body: dict[str, Any]) -> dict[str, Any]:
        wanted = body.get("EndpointNameEquals")
        chosen = {
            name: one
            for name, one in self.components.items()
            if wanted in (None, one.request["EndpointName"])
        }

        def more(name: str) -> dict[str, Any]:
            request = self.components[name].request
            endpoint = request["EndpointName"]
            return {
                "EndpointName": endpoint,
                "EndpointArn": self.arn("endpoint", endpoint),
                "VariantName": request["VariantName"],
                "InferenceComponentStatus": self.components[name].status,
                "LastModifiedTime": self.plane.now(),
            }

        return self._page(
            "InferenceComponents", "InferenceComponent", "inference-component", chosen, body, more
        )

    def DeleteInferenceComponent(self, body: dict[str, Any]) -> None:
        self._component(body).status = "Deleting"

    def scale_component(self, name: str, count: int) -> None:
        """As autoscaling would."""
        component = self.components[name]
        component.variant.count = count
        if count == 0:
            component.variant.close()
        elif component.variant.container is None:
            self._start_component(component, self.endpoints[component.request["EndpointName"]])

    def _is_hidden(self, arn: str) -> bool:
        """What was made a moment ago is not listed yet, by so many listings."""
        self._listed[arn] = self._listed.get(arn, 0) + 1
        return self._listed[arn] <= self.plane.listing_lag

    # --- pages ----------------------------------------------------------------------------

    def _page(
        self,
        key: str,
        prefix: str,
        kind: str,
        found: Mapping[str, Any],
        body: Mapping[str, Any],
        more: Callable[[str], dict[str, Any]],
    ) -> dict[str, Any]:
        """A page of at most ``plane.page`` entries."""
        names = sorted(
            name
            for name in found
            if body.get("NameContains", "") in name and not self._is_hidden(self.arn(kind, name))
        )
        start = int(body.get("NextToken", "0"))
        shown = names[start : start + min(self.plane.page, body.get("MaxResults", 100))]
        entries = [
            {
                f"{prefix}Name": name,
                f"{prefix}Arn": self.arn(kind, name),
                "CreationTime": self.created.get(self.arn(kind, name), 0.0),
            }
            | more(name)
            for name in shown
        ]
        end = start + len(shown)
        return {key: entries} | ({"NextToken": str(end)} if end < len(names) else {})


def instances(variant: Mapping[str, Any]) -> list[str]:
    """Machine types of a variant, the preferred one first."""
    if "InstancePools" in variant:
        pools = sorted(variant["InstancePools"], key=lambda pool: pool.get("Priority", 1))
        return [pool["InstanceType"] for pool in pools]
    return [variant["InstanceType"]]
