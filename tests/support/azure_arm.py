"""Azure Resource Manager for one workspace: state, long-running operations, refusals.

PUT bodies are checked with Microsoft's published schemas and then with the rules
that those do not state (names, traffic, timeouts, what may not change, quota with
its 20 % reserve). An operation needs ``polls`` looks before it ends. A deployment
comes up only if its image can be built and its model's files are all in storage;
its scoring URL is then served by whatever ``launch`` starts.
"""

from __future__ import annotations

import copy
import json
import re
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.support import azure_rules
from tests.support.azure_blob import CONTAINER, Blobs
from tests.support.azure_scoring import relay
from tests.support.azure_wire import Reply, Request, refused

ML = "Microsoft.MachineLearningServices"


class Service(Protocol):
    """What answers behind a scoring URL."""

    url: str

    def close(self) -> None:
        """Stop it."""


Launch = Callable[[Path, dict[str, str]], Service]  # model folder, environment → service


@dataclass
class Operation:
    """Something that takes a while; ``finish`` returns why it failed, if it did."""

    kind: str  # oe (endpoint) or od (deployment)
    polls: int
    finish: Callable[[], dict[str, str] | None]
    status: str = "InProgress"
    error: dict[str, str] | None = None

    def look(self) -> None:
        """One look from outside brings it one step on."""
        if self.status == "InProgress":
            self.polls -= 1
            if self.polls < 0:
                self.error = self.finish()
                self.status = "Failed" if self.error else "Succeeded"


@dataclass
class Online:
    """An endpoint or a deployment with the operation that works on it."""

    body: dict[str, Any]
    system: dict[str, str]
    state: str = "Creating"
    operation: Operation | None = None
    services: list[Service] = field(default_factory=list)


class Arm:
    """State and answers of ``management.azure.com`` and of the scoring hosts."""

    def __init__(self, region: str, blobs: Blobs, mounts: Path, problems: list[str]) -> None:
        self.region, self.blobs, self.mounts, self.problems = region, blobs, mounts, problems
        self.subscription = "44444444-4444-4444-4444-444444444444"
        self.group, self.workspace = "rg", "ws"
        self.root = (
            f"/subscriptions/{self.subscription}/resourceGroups/{self.group}"
            f"/providers/{ML}/workspaces/{self.workspace}"
        )
        self.storage_id = (
            f"/subscriptions/{self.subscription}/resourceGroups/{self.group}"
            f"/providers/Microsoft.Storage/storageAccounts/{blobs.account}"
        )
        self.polls = 1
        self.page = 2
        self.providers = dict.fromkeys(
            (ML, "Microsoft.Insights", "Microsoft.Storage"), "Registered"
        )
        self.actions = ["*"]
        self.data_actions = ["Microsoft.Storage/storageAccounts/blobServices/containers/blobs/*"]
        self.quota = dict(azure_rules.QUOTA)  # family → cores
        self.endpoints: dict[str, Online] = {}
        self.deployments: dict[tuple[str, str], Online] = {}
        self.assets: dict[tuple[str, str, str], dict[str, Any]] = {}  # kind, name, version
        self.autoscale: dict[str, dict[str, Any]] = {}
        self.failures: list[tuple[str, str]] = []  # code and message of the next deployments
        self.image_polls = 3  # further looks while an image is built for the first time
        self.images: set[str] = set()  # environments whose image is built
        self.logs = {"StorageInitializer": "mounting model\n", "InferenceServer": "started\n"}
        self.mirrored: Counter[str] = Counter()
        self.served: Counter[str] = Counter()  # requests answered, by deployment
        self.launch: Launch | None = None
        self.endpoint_key = "an-endpoint-key-that-nobody-may-print"
        self.operations: dict[str, Operation] = {}
        self._clock = 0
        self._lock = threading.RLock()
        self._routes = self._table()

    # --- hosts --------------------------------------------------------------------------

    def hosts(self) -> list[str]:
        """Names for the certificate."""
        return [
            "management.azure.com",
            "login.microsoftonline.com",
            "*.blob.core.windows.net",
            f"*.{self.region}.inference.ml.azure.com",
        ]

    def serves(self, host: str) -> bool:
        """Whether a host belongs to this plane; every other one is a leak."""
        return host in (
            "management.azure.com",
            "login.microsoftonline.com",
            f"{self.blobs.account}.blob.core.windows.net",
        ) or host.endswith(f".{self.region}.inference.ml.azure.com")

    def close(self) -> None:
        """Stop every service."""
        for online in self.deployments.values():
            for service in online.services:
                service.close()

    # --- dispatch -----------------------------------------------------------------------

    def _table(self) -> list[tuple[str, re.Pattern[str], Callable[..., Reply]]]:
        workspace, at = re.escape(self.root), re.escape(f"/subscriptions/{self.subscription}")
        endpoint = rf"{workspace}/onlineEndpoints/([^/]+)"
        deployment = rf"{endpoint}/deployments/([^/]+)"
        asset = rf"{workspace}/(models|environments)/([^/]+)"
        autoscale = rf"{at}/resourceGroups/[^/]+/providers/Microsoft.Insights/autoscalesettings"
        place = rf"{at}/providers/{ML}/locations/[^/]+"
        routes: list[tuple[str, str, Callable[..., Reply]]] = [
            ("GET", at, self._subscription),
            ("GET", rf"{at}/providers/([^/]+)", self._provider),
            ("GET", rf"{place}/mfeOperationsStatus/([^/]+)", self._operation),
            ("GET", rf"{place}/usages", self._usages),
            ("GET", rf"{place}/vmSizes", self._sizes),
            ("GET", workspace, self._workspace),
            ("GET", rf"{workspace}/datastores/workspaceblobstore", self._datastore),
            ("GET", r"(.*)/providers/Microsoft.Authorization/permissions", self._permissions),
            ("GET", rf"{workspace}/onlineEndpoints", self._list_endpoints),
            ("GET", endpoint, self._get_endpoint),
            ("PUT", endpoint, self._put_endpoint),
            ("DELETE", endpoint, self._delete_endpoint),
            ("POST", rf"{endpoint}/listKeys", self._keys),
            ("GET", rf"{endpoint}/deployments", self._list_deployments),
            ("GET", deployment, self._get_deployment),
            ("PUT", deployment, self._put_deployment),
            ("PATCH", deployment, self._patch_deployment),
            ("DELETE", deployment, self._delete_deployment),
            ("POST", rf"{deployment}/getLogs", self._logs),
            ("GET", rf"{workspace}/(models|environments)", self._list_containers),
            ("GET", asset, self._get_container),
            ("GET", rf"{asset}/versions", self._list_versions),
            ("GET", rf"{asset}/versions/([^/]+)", self._get_version),
            ("PUT", rf"{asset}/versions/([^/]+)", self._put_version),
            ("DELETE", rf"{asset}/versions/([^/]+)", self._delete_version),
            ("GET", autoscale, self._list_autoscale),
            ("GET", rf"{autoscale}/([^/]+)", self._get_autoscale),
            ("PUT", rf"{autoscale}/([^/]+)", self._put_autoscale),
            ("DELETE", rf"{autoscale}/([^/]+)", self._delete_autoscale),
        ]
        return [
            (method, re.compile(pattern, re.IGNORECASE), handler)
            for method, pattern, handler in routes
        ]

    def handle(self, request: Request) -> Reply:
        """Answer a request to Resource Manager."""
        with self._lock:
            for method, pattern, handler in self._routes:
                match = pattern.fullmatch(request.path)
                if method == request.method and match:
                    return handler(request, *match.groups())
            if not request.path.lower().startswith(f"/subscriptions/{self.subscription}"):
                return refused(404, "SubscriptionNotFound", "The subscription was not found.")
            what = f"The Resource '{request.path}' was not found."
            return refused(404, "ResourceNotFound", what)

    # --- account and workspace ----------------------------------------------------------

    def _subscription(self, request: Request) -> Reply:
        return Reply(200, {"subscriptionId": self.subscription, "displayName": "loopback"})

    def _provider(self, request: Request, name: str) -> Reply:
        state = self.providers.get(name, "NotRegistered")
        return Reply(200, {"namespace": name, "registrationState": state})

    def _workspace(self, request: Request) -> Reply:
        return Reply(
            200,
            {
                "id": self.root,
                "name": self.workspace,
                "type": f"{ML}/workspaces",
                "location": self.region,
                "identity": {"type": "SystemAssigned", "principalId": str(uuid.uuid4())},
                "sku": {"name": "Basic", "tier": "Basic"},
                "properties": {"storageAccount": self.storage_id, "friendlyName": self.workspace},
            },
        )

    def _datastore(self, request: Request) -> Reply:
        return Reply(
            200,
            {
                "id": f"{self.root}/datastores/workspaceblobstore",
                "name": "workspaceblobstore",
                "properties": {
                    "datastoreType": "AzureBlob",
                    "accountName": self.blobs.account,
                    "containerName": CONTAINER,
                    "endpoint": "core.windows.net",
                    "protocol": "https",
                    "credentials": {"credentialsType": "None"},
                    "isDefault": True,
                },
            },
        )

    def _permissions(self, request: Request, scope: str) -> Reply:
        data = self.data_actions if "/storageAccounts/" in scope else []
        known = {"actions": self.actions, "notActions": [], "dataActions": data}
        return Reply(200, {"value": [known | {"notDataActions": []}]})

    def _usages(self, request: Request) -> Reply:
        used = self._cores_used()
        values = [
            {
                "id": f"{self.root}/usages/{family}",
                "type": f"{ML}/vmFamily/dedicatedCores/usages",
                "currentValue": used[family],
                "limit": limit,
                "name": {"value": family, "localizedValue": family},
                "unit": "Count",
            }
            for family, limit in self.quota.items()
        ]
        return Reply(200, {"value": values})

    def _sizes(self, request: Request) -> Reply:
        return Reply(200, {"value": azure_rules.sizes()})

    def _created(self) -> dict[str, str]:
        """``systemData`` of something new: a second later each time."""
        self._clock += 1
        at = f"2026-11-23T08:{self._clock // 60:02}:{self._clock % 60:02}.0000000Z"
        who = {"createdBy": "somebody", "createdByType": "User", "createdAt": at}
        return who | {"lastModifiedAt": at, "lastModifiedBy": "somebody"}

    # --- operations ---------------------------------------------------------------------

    def _start(self, kind: str, polls: int, finish: Callable[[], dict[str, str] | None]) -> str:
        name = f"{kind}:{uuid.uuid4()}:{uuid.uuid4()}"
        self.operations[name] = Operation(kind, polls, finish)
        return name

    def _accepted(self, name: str, status: int, body: dict[str, Any] | None) -> Reply:
        at = f"https://management.azure.com/subscriptions/{self.subscription}/providers/{ML}"
        url = f"{at}/locations/{self.region}/mfeOperationsStatus/{name}?api-version=2023-04-01"
        headers = {"Azure-AsyncOperation": url, "x-ms-async-operation-timeout": "PT1H"}
        if status == 202:
            headers["Location"] = url
        return Reply(status, body, headers)

    def _operation(self, request: Request, name: str) -> Reply:
        operation = self.operations.get(name)
        if operation is None:
            return refused(404, "OperationNotFound", name)
        operation.look()
        body: dict[str, Any] = {"status": operation.status}
        if operation.error:
            body["error"] = operation.error
        return Reply(200, body)

    def _busy(self, online: Online | None, what: str) -> Reply | None:
        if online is None or online.operation is None or online.operation.status != "InProgress":
            return None
        message = f"{what} is in {online.state} provisioning state. Please try again later."
        return refused(409, "Conflict", message)

    # --- endpoints ----------------------------------------------------------------------

    def _shown_endpoint(self, name: str, online: Online) -> dict[str, Any]:
        body = copy.deepcopy(online.body)
        host = f"https://{name}.{self.region}.inference.ml.azure.com"
        properties = body["properties"]
        properties["properties"] = dict(properties.get("properties") or {}) | {
            "azureml.onlineendpointid": f"{self.root}/onlineEndpoints/{name}",
            "createdBy": "somebody",
            "createdAt": online.system["createdAt"],
        }
        path = "/score"
        for (endpoint, _), deployment in self.deployments.items():
            path = self._scoring_path(deployment) if endpoint == name else path
        properties |= {
            "provisioningState": online.state,
            "scoringUri": f"{host}{path}",
            "swaggerUri": f"{host}/swagger.json",
        }
        properties.setdefault("publicNetworkAccess", "Enabled")
        return body | {
            "id": f"{self.root}/onlineEndpoints/{name}",
            "name": name,
            "kind": "Managed",
            "type": f"{ML}/workspaces/onlineEndpoints",
            "systemData": online.system,
        }

    def _page(self, request: Request, shown: list[dict[str, Any]]) -> Reply:
        start = int(request.query.get("$skip", "0"))
        body: dict[str, Any] = {"value": shown[start : start + self.page]}
        if start + self.page < len(shown):
            version = request.query.get("api-version", "")
            body["nextLink"] = (
                f"https://management.azure.com{request.path}"
                f"?api-version={version}&$skip={start + self.page}"
            )
        return Reply(200, body)

    def _list_endpoints(self, request: Request) -> Reply:
        shown = [self._shown_endpoint(name, online) for name, online in self.endpoints.items()]
        return self._page(request, shown)

    def _get_endpoint(self, request: Request, name: str) -> Reply:
        online = self.endpoints.get(name)
        if online is not None and online.operation is not None:
            online.operation.look()
        if name not in self.endpoints:
            return refused(404, "ResourceNotFound", f"Endpoint {name} was not found.")
        return Reply(200, self._shown_endpoint(name, self.endpoints[name]))

    def _put_endpoint(self, request: Request, name: str) -> Reply:
        body, old = request.json, self.endpoints.get(name)
        self._check_schema(request, "workspaces_onlineEndpoints", name)
        names = {known for endpoint, known in self.deployments if endpoint == name}
        problem = azure_rules.endpoint_problem(name, body, names)
        if problem:
            return refused(400, "BadRequest", problem, "InferencingClientCreateEndpointFailed")
        busy = self._busy(old, f"The endpoint {name}")
        if busy:
            return busy
        online = old or Online(body, self._created())
        online.body, online.state = body, "Updating" if old else "Creating"
        self.endpoints[name] = online

        def finish() -> None:
            online.state = "Succeeded"

        operation = self._start("oe", self.polls, finish)
        online.operation = self.operations[operation]
        shown = self._shown_endpoint(name, online)
        return self._accepted(operation, 200 if old else 201, shown)

    def _delete_endpoint(self, request: Request, name: str) -> Reply:
        online = self.endpoints.get(name)
        if online is None:
            return Reply(204)
        busy = self._busy(online, f"The endpoint {name}")
        if busy:
            return busy
        online.state = "Deleting"

        def finish() -> None:
            self.endpoints.pop(name, None)
            for key in [key for key in self.deployments if key[0] == name]:
                self._drop(key)

        operation = self._start("oe", self.polls, finish)
        online.operation = self.operations[operation]
        return self._accepted(operation, 202, None)

    def _keys(self, request: Request, name: str) -> Reply:
        if name not in self.endpoints:
            return refused(404, "ResourceNotFound", f"Endpoint {name} was not found.")
        return Reply(200, {"primaryKey": self.endpoint_key, "secondaryKey": "second"})

    # --- deployments --------------------------------------------------------------------

    def _shown_deployment(self, key: tuple[str, str], online: Online) -> dict[str, Any]:
        body = copy.deepcopy(online.body)
        body["properties"] |= {
            "provisioningState": online.state,
            "scaleSettings": {"scaleType": "Default"},
            "properties": {"AzureAsyncOperationUri": "https://management.azure.com/x"},
        }
        body["properties"].setdefault("egressPublicNetworkAccess", "Enabled")
        return body | {
            "id": f"{self.root}/onlineEndpoints/{key[0]}/deployments/{key[1]}",
            "name": key[1],
            "kind": "Managed",
            "type": f"{ML}/workspaces/onlineEndpoints/deployments",
            "systemData": online.system,
        }

    def _list_deployments(self, request: Request, endpoint: str) -> Reply:
        if endpoint not in self.endpoints:
            return refused(404, "ResourceNotFound", f"Endpoint {endpoint} was not found.")
        shown = [
            self._shown_deployment(key, online)
            for key, online in self.deployments.items()
            if key[0] == endpoint
        ]
        return self._page(request, shown)

    def _get_deployment(self, request: Request, endpoint: str, name: str) -> Reply:
        online = self.deployments.get((endpoint, name))
        if online is not None and online.operation is not None:
            online.operation.look()
        if (endpoint, name) not in self.deployments:
            return refused(404, "ResourceNotFound", f"Deployment {name} was not found.")
        return Reply(
            200, self._shown_deployment((endpoint, name), self.deployments[endpoint, name])
        )

    def _put_deployment(self, request: Request, endpoint: str, name: str) -> Reply:
        key, body = (endpoint, name), request.json
        old = self.deployments.get(key)
        self._check_schema(request, "workspaces_onlineEndpoints_deployments", name)
        if endpoint not in self.endpoints:
            return refused(404, "ResourceNotFound", f"Endpoint {endpoint} was not found.")
        problem = self._deployment_problem(name, body, old)
        if problem:
            return problem
        for online, what in ((self.endpoints[endpoint], endpoint), (old, name)):
            busy = self._busy(online, f"The resource {what}")
            if busy:
                return busy
        online = old or Online(body, self._created())
        online.body, online.state = body, "Updating" if old else "Creating"
        self.deployments[key] = online
        return self._roll_out(key, online, 200 if old else 201)

    def _deployment_problem(
        self, name: str, body: dict[str, Any], old: Online | None
    ) -> Reply | None:
        problem = azure_rules.deployment_problem(name, body, old.body if old else None)
        if problem:
            return refused(400, "BadRequest", problem)
        properties = body["properties"]
        for kind, id_ in (("models", "model"), ("environments", "environmentId")):
            found = re.search(rf"/{kind}/([^/]+)/versions/([^/]+)$", properties[id_])
            if found is None or (kind, *found.groups()) not in self.assets:
                return refused(400, "BadRequest", f"{properties[id_]} does not exist.")
        return self._quota_problem(body, old)

    def _quota_problem(self, body: dict[str, Any], old: Online | None) -> Reply | None:
        instance = body["properties"]["instanceType"]
        family, cores, exempt = azure_rules.SIZES[instance][:3]
        wanted = azure_rules.reserved(body["sku"]["capacity"], cores, exempt)
        held = azure_rules.reserved(old.body["sku"]["capacity"], cores, exempt) if old else 0
        used, limit = self._cores_used()[family], self.quota.get(family, 0)
        if used + wanted - held <= limit:
            return None
        message = (
            f"Not enough quota available for {instance} in SubscriptionId {self.subscription}. "
            f"Current usage/limit: {used}/{limit}. Additional needed: {wanted - held} "
            "Please see troubleshooting guide, available here: https://aka.ms/oe-tsg#error-outofquota"
        )
        embedded = json.dumps({"errors": {"VmSize": [message]}, "type": "x", "status": 400})
        return refused(
            400,
            "BadRequest",
            f"The request is invalid. {embedded}",
            "InferencingClientCreateDeploymentFailed",
        )

    def _cores_used(self) -> Counter[str]:
        used: Counter[str] = Counter()
        for online in self.deployments.values():
            family, cores, exempt = azure_rules.SIZES[online.body["properties"]["instanceType"]][:3]
            used[family] += azure_rules.reserved(online.body["sku"]["capacity"], cores, exempt)
        return used

    def _patch_deployment(self, request: Request, endpoint: str, name: str) -> Reply:
        online, change = self.deployments.get((endpoint, name)), request.json
        if online is None:
            return refused(404, "ResourceNotFound", f"Deployment {name} was not found.")
        if set(change) - {"sku", "tags"}:
            return refused(400, "BadRequest", "Only tags and sku can be patched.")
        busy = self._busy(online, f"The deployment {name}")
        if busy:
            return busy
        body = copy.deepcopy(online.body)
        body["sku"] = body["sku"] | change.get("sku", {})
        body["tags"] = change.get("tags", body.get("tags", {}))
        problem = self._quota_problem(body, online)
        if problem:
            return problem
        online.body, online.state = body, "Updating"
        return self._roll_out((endpoint, name), online, 200)

    def _roll_out(self, key: tuple[str, str], online: Online, status: int) -> Reply:
        environment = online.body["properties"]["environmentId"]
        build = self._version_of(environment)["properties"].get("build")
        waiting = self.image_polls if build and environment not in self.images else 0

        def finish() -> dict[str, str] | None:
            error = self._why_it_fails(online.body["properties"])
            online.state = "Failed" if error else "Succeeded"
            return error

        operation = self._start("od", self.polls + waiting, finish)
        online.operation = self.operations[operation]
        return self._accepted(operation, status, self._shown_deployment(key, online))

    def _why_it_fails(self, properties: dict[str, Any]) -> dict[str, str] | None:
        if self.failures:
            code, message = self.failures.pop(0)
            return {"code": code, "message": message}
        environment = properties["environmentId"]
        build = self._version_of(environment)["properties"].get("build")
        if build:
            folder = build["contextUri"].partition(f"{CONTAINER}/")[2]
            if f"{folder}{build.get('dockerfilePath', 'Dockerfile')}" not in self.blobs.blobs:
                return {"code": "ImageBuildFailure", "message": "no Dockerfile in the context"}
            self.images.add(environment)
        missing = self._missing_files(self._prefix(properties))
        if missing:
            return {"code": "ModelFileNotFound", "message": f"{missing} is not in storage"}
        return None

    def _version_of(self, id_: str) -> dict[str, Any]:
        kind, name, _, version = id_.split("/")[-4:]
        return self.assets[kind, name, version]

    def _prefix(self, properties: dict[str, Any]) -> str:
        uri = self._version_of(properties["model"])["properties"]["modelUri"]
        return str(uri).partition("/paths/")[2].rstrip("/") + "/"

    def _missing_files(self, prefix: str) -> str | None:
        manifest = self.blobs.blobs.get(f"{prefix}llama-hub.json")
        if manifest is None:
            return "llama-hub.json"
        for entry in json.loads(manifest.data)["files"]:
            blob = self.blobs.blobs.get(prefix + entry["path"])
            if blob is None or len(blob.data) != entry["size"]:
                return str(entry["path"])
        return None

    def _delete_deployment(self, request: Request, endpoint: str, name: str) -> Reply:
        key = (endpoint, name)
        online = self.deployments.get(key)
        if online is None:
            return Reply(204)
        busy = self._busy(online, f"The deployment {name}") or self._busy(
            self.endpoints[endpoint], f"The endpoint {endpoint}"
        )
        if busy:
            return busy
        traffic = self.endpoints[endpoint].body["properties"].get("traffic") or {}
        if traffic.get(name):
            message = f"Deployment {name} has {traffic[name]}% of live traffic."
            return refused(400, "BadRequest", message)
        online.state = "Deleting"

        def finish() -> None:
            self._drop(key)

        operation = self._start("od", self.polls, finish)
        online.operation = self.operations[operation]
        return self._accepted(operation, 202, None)

    def _drop(self, key: tuple[str, str]) -> None:
        online = self.deployments.pop(key, None)
        for service in online.services if online else []:
            service.close()

    def _logs(self, request: Request, endpoint: str, name: str) -> Reply:
        if (endpoint, name) not in self.deployments:
            return refused(404, "ResourceNotFound", f"Deployment {name} was not found.")
        wanted = request.json
        lines = self.logs[wanted["containerType"]].splitlines(keepends=True)
        return Reply(200, {"content": "".join(lines[-wanted["tail"] :])})

    # --- models and environments --------------------------------------------------------

    def _id(self, kind: str, name: str) -> dict[str, Any]:
        at = f"{self.root}/{kind}/{name}"
        return {"id": at, "name": name, "type": f"{ML}/workspaces/{kind}"}

    def _list_containers(self, request: Request, kind: str) -> Reply:
        names = sorted({known[1] for known in self.assets if known[0] == kind})
        return self._page(request, [self._id(kind, name) | {"properties": {}} for name in names])

    def _get_container(self, request: Request, kind: str, name: str) -> Reply:
        if not any(known[:2] == (kind, name) for known in self.assets):
            return refused(404, "UserError", f"{kind} container {name} was not found.")
        properties = {"tags": {}, "properties": {}, "isArchived": False}
        return Reply(200, self._id(kind, name) | {"properties": properties})

    def _shown_version(self, key: tuple[str, str, str]) -> dict[str, Any]:
        kind, name, version = key
        body = copy.deepcopy(self.assets[key])
        if kind == "models":
            body["properties"].setdefault("flavors", {})
        at = f"{self.root}/{kind}/{name}/versions/{version}"
        system = body.pop("systemData")
        return body | {"id": at, "name": version, "systemData": system}

    def _list_versions(self, request: Request, kind: str, name: str) -> Reply:
        keys = [key for key in self.assets if key[:2] == (kind, name)]
        return self._page(request, [self._shown_version(key) for key in keys])

    def _get_version(self, request: Request, kind: str, name: str, version: str) -> Reply:
        if (kind, name, version) not in self.assets:
            return refused(404, "UserError", f"{kind} {name}:{version} was not found.")
        return Reply(200, self._shown_version((kind, name, version)))

    def _put_version(self, request: Request, kind: str, name: str, version: str) -> Reply:
        self._check_schema(request, f"workspaces_{kind}_versions", version)
        body, old = request.json, self.assets.get((kind, name, version))
        fixed = ("modelUri", "image", "build")
        if old and any(old["properties"].get(key) != body["properties"].get(key) for key in fixed):
            return refused(409, "Conflict", f"{kind} {name}:{version} cannot be changed.")
        system = old["systemData"] if old else self._created()
        self.assets[kind, name, version] = body | {"systemData": system}
        return Reply(200 if old else 201, self._shown_version((kind, name, version)))

    def _delete_version(self, request: Request, kind: str, name: str, version: str) -> Reply:
        used = f"/{kind}/{name}/versions/{version}"
        for online in self.deployments.values():
            if used in json.dumps(online.body):
                return refused(409, "Conflict", f"{used} is in use.")
        found = self.assets.pop((kind, name, version), None)
        return Reply(200 if found else 204)

    # --- autoscale ----------------------------------------------------------------------

    def _list_autoscale(self, request: Request) -> Reply:
        return self._page(request, list(self.autoscale.values()))

    def _get_autoscale(self, request: Request, name: str) -> Reply:
        if name not in self.autoscale:
            return refused(404, "ResourceNotFound", f"{name} was not found.")
        return Reply(200, self.autoscale[name])

    def _put_autoscale(self, request: Request, name: str) -> Reply:
        problem = azure_rules.autoscale_problem(request.json)
        target = request.json.get("properties", {}).get("targetResourceUri", "")
        ids = [
            f"{self.root}/onlineEndpoints/{e}/deployments/{d}".lower() for e, d in self.deployments
        ]
        if problem or target.lower() not in ids:
            return refused(400, "BadRequest", problem or f"{target} does not exist.")
        status = 200 if name in self.autoscale else 201
        self.autoscale[name] = request.json | {"id": request.path, "name": name}
        return Reply(status, self.autoscale[name])

    def _delete_autoscale(self, request: Request, name: str) -> Reply:
        return Reply(200 if self.autoscale.pop(name, None) else 204)

    # --- schemas and scoring ------------------------------------------------------------

    def _check_schema(self, request: Request, resource: str, name: str) -> None:
        version = request.query["api-version"]
        self.problems += azure_rules.schema_problems(version, resource, name, request.json)

    def _scoring_path(self, deployment: Online) -> str:
        environment = self._version_of(deployment.body["properties"]["environmentId"])
        route = environment["properties"]["inferenceConfig"]["scoringRoute"]
        return str(route["path"])

    def score(self, request: Request, scope: str | None) -> Reply:
        """Answer a request to a scoring host: authentication, routing, then the service itself."""
        with self._lock:
            endpoint = request.host.partition(".")[0]
            online = self.endpoints.get(endpoint)
            if online is None:
                return Reply(404, b"no such endpoint")
            properties = online.body["properties"]
            if properties.get("publicNetworkAccess") == "Disabled":
                return Reply(403, b"public network access is disabled")
            key = request.headers.get("Authorization", "") == f"Bearer {self.endpoint_key}"
            allowed = key if properties["authMode"] == "Key" else scope == "https://ml.azure.com/"
            if not allowed:
                return Reply(401, b"key_auth_bad_header_authorization_missing_or_wrong")
            name = self._routed(request, endpoint, properties)
            deployment = self.deployments.get((endpoint, name or ""))
            if (
                name is None
                or deployment is None
                or deployment.state not in ("Succeeded", "Updating")
            ):
                return Reply(404, b"no deployment takes this request")
            path = self._scoring_path(deployment)
            if path != "/" and request.path != path:
                return Reply(404, b"no such route")
            service = self._service((endpoint, name), deployment)
            self.served[name] += 1
            for mirror, share in (properties.get("mirrorTraffic") or {}).items():
                self.mirrored[mirror] += 1 if share else 0
        return relay(request, service.url)

    def _routed(self, request: Request, endpoint: str, properties: dict[str, Any]) -> str | None:
        named = request.headers.get("azureml-model-deployment")
        if named:
            return named
        traffic = {name: share for name, share in properties.get("traffic", {}).items() if share}
        if not traffic:
            return None
        turn = sum(self.served[name] for name in traffic) * 37 % 100  # spread, and repeatable
        for name, share in traffic.items():
            if turn < share:
                return name
            turn -= share
        return None

    def _service(self, key: tuple[str, str], deployment: Online) -> Service:
        if not deployment.services:
            assert self.launch is not None, "the test has not said what serves"
            properties = deployment.body["properties"]
            folder = self._mount(self._prefix(properties), "-".join(key))
            variables = dict(properties.get("environmentVariables") or {})
            variables["AZUREML_MODEL_DIR"] = str(folder)
            deployment.services.append(self.launch(folder, variables))
        return deployment.services[0]

    def _mount(self, prefix: str, name: str) -> Path:
        """The model's files as the platform's storage initialiser lays them out."""
        folder = self.mounts / name
        for path, blob in self.blobs.blobs.items():
            if path.startswith(prefix):
                file = folder / path.removeprefix(prefix)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(blob.data)
        return folder
