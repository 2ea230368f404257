"""Bodies, names, ids and tags: all that Azure ML is asked for, as data.

Nothing here calls anything. Bodies have the form in which the SDK sends them, so
that a plan shows what will go over the wire; the tests hold both together.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_hub.backends.azure import images
from llama_hub.backends.azure.tags import to_cloud
from llama_hub.backends.azure.values import duration
from llama_hub.deploy.backend import Target
from llama_hub.hub.manifest import canonical

if TYPE_CHECKING:
    from llama_hub.backends.azure.options import Options

PROVIDER = "Microsoft.MachineLearningServices"
DATASTORE = "workspaceblobstore"
MODELS_ROOT = "llama-hub/models/"
CONTEXT_ROOT = "llama-hub/environments/"
KEEP_WEIGHTS = "llama-hub-keep-weights"
KEEP_PREVIOUS = "llama-hub-keep-previous"  # of an endpoint: its older revision may stay
BODY_TAG = "llama-hub-body"  # of a deployment: digest of the properties it was asked for with
# With a GPU, the CPU is idle while the machine is busy. Names: Azure Monitor's list of metrics of
# Microsoft.MachineLearningServices/workspaces/onlineEndpoints/deployments.
METRICS = {True: "GpuUtilizationPercentage", False: "CpuUtilizationPercentage"}
LOAD_RATE = 150e6  # bytes per second at which a cold instance reads its weights, at the least
START_SECONDS = 60  # a process with the framework loaded


@dataclass(frozen=True)
class WorkspaceScope:
    """A workspace, by name."""

    subscription: str
    group: str
    workspace: str

    @property
    def group_id(self) -> str:
        """Resource id of the group."""
        return f"/subscriptions/{self.subscription}/resourceGroups/{self.group}"

    @property
    def id(self) -> str:
        """Resource id of the workspace."""
        return f"{self.group_id}/providers/{PROVIDER}/workspaces/{self.workspace}"

    def asset(self, kind: str, name: str) -> str:
        """Resource id of ``models`` or ``environments``, ``name`` being ``name:version``."""
        base, _, version = name.partition(":")
        return f"{self.id}/{kind}/{base}/versions/{version}"

    def deployment(self, name: str) -> str:
        """Resource id of a deployment, ``name`` being ``endpoint/deployment``."""
        endpoint, _, deployment = name.partition("/")
        return f"{self.id}/onlineEndpoints/{endpoint}/deployments/{deployment}"

    def autoscale(self, name: str) -> str:
        """Resource id of an autoscale setting."""
        return f"{self.group_id}/providers/Microsoft.Insights/autoscalesettings/{name}"


@dataclass(frozen=True)
class Workspace:
    """What a plan has to know about a workspace."""

    scope: WorkspaceScope
    region: str
    account_url: str  # https://<account>.blob.core.windows.net
    container: str


def weights_name(manifest_digest: str) -> str:
    """What folder, model version and step are called: the first 16 digits of the digest."""
    return manifest_digest.removeprefix("sha256:")[:16]


def weights_prefix(name: str) -> str:
    """Folder in the datastore's container for the files of one manifest, see ``weights_name``."""
    return f"{MODELS_ROOT}{name}/"


def context_prefix(deployment: str, digest: str) -> str:
    """Folder in the datastore's container for a build context; nobody else's, so that it can go."""
    return f"{CONTEXT_ROOT}{deployment}/{digest}/"


def context_digest(files: Mapping[str, bytes]) -> str:
    """Identity of a build context: 16 hexadecimal digits."""
    known = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
    return hashlib.sha256(canonical(known)).hexdigest()[:16]


def weights_body(target: Target, workspace: Workspace) -> dict[str, Any]:
    """What is uploaded: every file of the manifest, and the manifest itself."""
    manifest = target.artifact.manifest
    return {
        "container": f"{workspace.account_url}/{workspace.container}",
        "prefix": weights_prefix(weights_name(manifest.digest)),
        "files": len(manifest.files) + 1,
        "bytes": manifest.bytes,
    }


def model_name(target: Target) -> str:
    """``name:version``, the version being bound to the manifest."""
    return f"{target.spec.name}:{weights_name(target.artifact.manifest.digest)}"


def model_body(target: Target, workspace: Workspace, options: Options) -> dict[str, Any]:
    """The registered model: a pointer to the uploaded folder."""
    scope, manifest = workspace.scope, target.artifact.manifest
    tags = to_cloud(target.tags) | ({KEEP_WEIGHTS: "true"} if options.keep_weights else {})
    uri = (
        f"azureml://subscriptions/{scope.subscription}/resourcegroups/{scope.group}"
        f"/workspaces/{scope.workspace}/datastores/{DATASTORE}"
        f"/paths/{weights_prefix(weights_name(manifest.digest))}"
    )
    return {
        "properties": {
            "tags": tags,
            "properties": {},
            "description": f"{manifest.model} for {target.spec.name}, {manifest.digest}",
            "modelType": "custom_model",
            "modelUri": uri,
            "isAnonymous": False,
            "isArchived": False,
        }
    }


def environment_body(
    target: Target, workspace: Workspace, options: Options, context: str
) -> dict[str, Any]:
    """The container: a given image, or the context that Azure ML builds; and its routes."""
    source: dict[str, Any] = (
        {
            "build": {
                "contextUri": f"{workspace.account_url}/{workspace.container}/"
                + context_prefix(target.spec.name, context),
                "dockerfilePath": _dockerfile(target, options),
            }
        }
        if images.is_built(options)
        else {"image": options.image}
    )
    contract = images.CONTRACTS[options.run]
    routes = {
        "livenessRoute": {"port": contract.port, "path": contract.live},
        "readinessRoute": {"port": contract.port, "path": contract.ready},
        "scoringRoute": {"port": contract.port, "path": contract.scoring},
    }
    tags = {"tags": to_cloud(target.tags)}
    fixed = {"isAnonymous": False, "isArchived": False, "inferenceConfig": routes}
    return {"properties": source | tags | fixed}


def _dockerfile(target: Target, options: Options) -> str:
    ours_on_gpu = options.run == "container" and target.offer.accelerators
    return "Dockerfile.cuda" if ours_on_gpu else "Dockerfile"


def environment_name(target: Target, body: Mapping[str, Any]) -> str:
    """``name:version``, the version being the digest of what the image is made from."""
    made_from = {key: body["properties"].get(key) for key in ("image", "build", "inferenceConfig")}
    return f"{target.spec.name}:{hashlib.sha256(canonical(made_from)).hexdigest()[:16]}"


def endpoint_body(
    target: Target,
    workspace: Workspace,
    options: Options,
    traffic: Mapping[str, int],
) -> dict[str, Any]:
    """The endpoint. A PUT replaces all of it, hence ``traffic`` (percent by deployment)."""
    own = {"type": "SystemAssigned"}
    given = {"type": "UserAssigned", "userAssignedIdentities": {options.identity: {}}}
    return {
        "location": workspace.region,
        "identity": given if options.identity else own,
        "properties": {
            "description": f"{target.artifact.manifest.model}, deployed by llama-hub",
            "authMode": {"key": "Key", "aad": "AADToken"}[options.auth],
            "publicNetworkAccess": {"public": "Enabled", "private": "Disabled"}[options.network],
            "properties": {},
            "traffic": {name: share for name, share in traffic.items() if share},
            "mirrorTraffic": {},
        },
        "tags": to_cloud(target.tags) | ({KEEP_PREVIOUS: "true"} if options.keep_previous else {}),
    }


def deployment_body(
    target: Target, workspace: Workspace, options: Options, model: str, environment: str
) -> dict[str, Any]:
    """The machines with the container and the weights; ``model`` and ``environment`` as named."""
    spec = target.spec
    body = {
        "location": workspace.region,
        "properties": {
            "environmentId": workspace.scope.asset("environments", environment),
            "model": workspace.scope.asset("models", model),
            "properties": {},
            "environmentVariables": images.variables(target, options),
            "appInsightsEnabled": options.app_insights,
            "requestSettings": {
                "maxConcurrentRequestsPerInstance": spec.concurrency,  # twice that may wait
                "requestTimeout": duration(options.request_timeout),
            },
            "livenessProbe": liveness(target, options),
            "readinessProbe": readiness(target),
            "instanceType": target.offer.instance,
            "egressPublicNetworkAccess": {"public": "Enabled", "private": "Disabled"}[
                options.egress
            ],
            "endpointComputeType": "Managed",
        },
        "sku": {"name": "Default", "capacity": spec.replicas_min},
    }
    return body | {"tags": to_cloud(target.tags) | {BODY_TAG: digest(body)}}


def load_seconds(target: Target) -> int:
    """How long a cold instance may take from its start to its first answer."""
    return START_SECONDS + math.ceil(target.artifact.manifest.bytes / LOAD_RATE)


def liveness(target: Target, options: Options) -> dict[str, Any]:
    """The process: ours answers while the weights load, so a hung one is noticed within minutes.

    vLLM answers only when they are loaded: until then it must not be taken for a hung one.
    """
    waits = images.CONTRACTS[options.run].loads_before_it_lives
    return {
        "failureThreshold": max(10, math.ceil(2 * load_seconds(target) / 30)) if waits else 10,
        "successThreshold": 1,
        "timeout": duration(10),
        "period": duration(30),
        "initialDelay": duration(START_SECONDS),
    }


def readiness(target: Target) -> dict[str, Any]:
    """The model: no request before it is loaded, and twice the expected time to get there."""
    return {
        "failureThreshold": max(30, math.ceil(2 * load_seconds(target) / 10)),
        "successThreshold": 1,
        "timeout": duration(10),
        "period": duration(10),
        "initialDelay": duration(10),
    }


def digest(body: Mapping[str, Any]) -> str:
    """Ten hexadecimal digits of a deployment's body: all but its scale and tags."""
    return hashlib.sha256(canonical(body["properties"])).hexdigest()[:10]


def revision(body: Mapping[str, Any]) -> str:
    """Name of the deployment for a body: equal unless something but scale and tags differs."""
    return f"rev-{digest(body)}"


def autoscale_name(deployment: str) -> str:
    """Name of the autoscale setting of ``endpoint/deployment``."""
    return f"llama-hub-{deployment.replace('/', '-')}"


def autoscale_body(
    target: Target, workspace: Workspace, options: Options, deployment: str
) -> dict[str, Any]:
    """Azure Monitor's setting: one instance more or less, five minutes apart."""
    id_ = workspace.scope.deployment(deployment)
    spec = target.spec
    metric = options.scale_metric or METRICS[target.offer.accelerators > 0]
    profile = {
        "name": "default",
        "capacity": {  # the service wants numbers as text here
            "minimum": str(spec.replicas_min),
            "maximum": str(spec.replicas_max),
            "default": str(spec.replicas_min),
        },
        "rules": [
            _rule(id_, metric, "GreaterThan", options.scale_out, "Increase"),
            _rule(id_, metric, "LessThan", options.scale_in, "Decrease"),
        ],
    }
    return {
        "location": workspace.region,
        "tags": to_cloud(target.tags),
        "properties": {"enabled": True, "targetResourceUri": id_, "profiles": [profile]},
    }


def _rule(id_: str, metric: str, operator: str, threshold: int, direction: str) -> dict[str, Any]:
    return {
        "metricTrigger": {
            "metricName": metric,
            "metricResourceUri": id_,
            "timeGrain": "PT1M",
            "statistic": "Average",
            "timeWindow": "PT5M",
            "timeAggregation": "Average",
            "operator": operator,
            "threshold": threshold,
        },
        "scaleAction": {
            "direction": direction,
            "type": "ChangeCount",
            "value": "1",
            "cooldown": "PT5M",
        },
    }


def routed_again(
    found: Mapping[str, Any], traffic: Mapping[str, int], mirror: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """The body of an endpoint that was read, for a PUT that changes its traffic alone."""
    properties = found["properties"]
    identity = found.get("identity") or {"type": "SystemAssigned"}
    given = identity.get("userAssignedIdentities")
    return {
        "location": found["location"],
        "identity": {"type": identity["type"]}
        | ({"userAssignedIdentities": {id_: {} for id_ in given}} if given else {}),
        "properties": {
            "description": properties.get("description") or "",
            "authMode": properties["authMode"],
            "publicNetworkAccess": properties.get("publicNetworkAccess") or "Enabled",
            "properties": {},
            "traffic": dict(traffic),
            "mirrorTraffic": dict(mirror or {}),
        },
        "tags": dict(found.get("tags") or {}),
    }


def without(traffic: Mapping[str, int], name: str) -> dict[str, int]:
    """Shares of the others once ``name`` gets none, in the same proportions, 100 in all (or 0)."""
    others = {known: share for known, share in traffic.items() if known != name and share}
    total = sum(others.values())
    if not total:
        return {}
    shares = {known: share * 100 // total for known, share in others.items()}
    shares[next(iter(shares))] += 100 - sum(shares.values())
    return shares
