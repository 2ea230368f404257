"""Azure Resource Manager for one workspace: state, long-running operations, refusals.

PUT bodies are checked with Microsoft's published schemas and then with the rules
that those do not state (names, traffic, timeouts, what may not change, quota with
its 20 % reserve). An operation needs ``polls`` looks before it ends. A deployment
comes up only if its image can be built and its model's files are all in storage;
its scoring URL is then served by whatever ``launch`` starts. What is shown is what the service
would show: without what is empty or a default, with what it adds, in its own spelling.
"""

from __future__ import annotations

import copy
import json
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support import azure_rules
from tests.support.azure_blob import CONTAINER, Blobs
from tests.support.azure_online import OnlineEndpoints, without_empty
from tests.support.azure_refusals import refusal
from tests.support.azure_roles import BLOB_CONTRIBUTOR, ROLE_IDS
from tests.support.azure_scoring import relay
from tests.support.azure_state import ML, Online, Place, Service
from tests.support.azure_wire import Reply, Request

Route = tuple[str, re.Pattern[str], Callable[..., Reply], str]


class Arm(OnlineEndpoints):
    """State and answers of ``management.azure.com`` and of the scoring hosts."""

    def __init__(
        self, place: Place, blobs: Blobs, mounts: Path, problems: list[str], names: set[str]
    ) -> None:
        super().__init__(place, blobs, mounts, problems, names)
        self._routes = self._table()

    # --- hosts --------------------------------------------------------------------------

    def serves(self, host: str) -> bool:
        """Whether a host belongs to this workspace; one that is nobody's is a leak."""
        return host == f"{self.blobs.account}.blob.core.windows.net" or host.endswith(
            f".{self.region}.inference.ml.azure.com"
        )

    def close(self) -> None:
        """Stop every service."""
        for online in self.deployments.values():
            for service in online.services:
                service.close()

    # --- dispatch -----------------------------------------------------------------------

    def _table(self) -> list[Route]:
        """Path, handler, and the action that the caller needs at the path as scope.

        A look at an operation needs none: its address is signed.
        """
        workspace, at = re.escape(self.root), re.escape(f"/subscriptions/{self.subscription}")
        group = rf"{at}/resourceGroups/{re.escape(self.group)}"
        endpoint = rf"{workspace}/onlineEndpoints/([^/]+)"
        deployment = rf"{endpoint}/deployments/([^/]+)"
        asset = rf"{workspace}/(models|environments)/([^/]+)"
        autoscale = rf"{group}/providers/Microsoft.Insights/autoscalesettings"
        registry = rf"{group}/providers/Microsoft.ContainerRegistry/registries/([^/]+)"
        place = rf"{at}/providers/{ML}/locations/[^/]+"
        online, down = f"{ML}/workspaces/onlineEndpoints", "deployments"
        versions = f"{ML}/workspaces/{{0}}/versions"
        scaling = "Microsoft.Insights/autoscaleSettings"
        routes: list[tuple[str, str, Callable[..., Reply], str]] = [
            ("GET", at, self._subscription, "Microsoft.Resources/subscriptions/read"),
            (
                "GET",
                rf"{at}/providers/([^/]+)",
                self._provider,
                "Microsoft.Resources/subscriptions/providers/read",
            ),
            ("GET", rf"{place}/mfeOperationsStatus/([^/]+)", self._operation, ""),
            ("GET", rf"{place}/usages", self._usages, f"{ML}/locations/usages/read"),
            ("GET", rf"{place}/vmSizes", self._sizes, f"{ML}/locations/vmSizes/read"),
            ("GET", workspace, self._workspace, f"{ML}/workspaces/read"),
            (
                "GET",
                rf"{workspace}/datastores/workspaceblobstore",
                self._datastore,
                f"{ML}/workspaces/datastores/read",
            ),
            (
                "GET",
                r"(.*)/providers/Microsoft.Authorization/permissions",
                self._permissions,
                "Microsoft.Authorization/permissions/read",
            ),
            (
                "GET",
                registry,
                self._registry,
                "Microsoft.ContainerRegistry/registries/read",
            ),
            (
                "GET",
                r"(.*/providers/Microsoft.ManagedIdentity/userAssignedIdentities/[^/]+)",
                self._user_identity,
                "Microsoft.ManagedIdentity/userAssignedIdentities/read",
            ),
            (
                "GET",
                r"(.*)/providers/Microsoft.Authorization/roleAssignments",
                self._role_assignments,
                "Microsoft.Authorization/roleAssignments/read",
            ),
            ("GET", rf"{workspace}/onlineEndpoints", self._list_endpoints, f"{online}/read"),
            ("GET", endpoint, self._get_endpoint, f"{online}/read"),
            ("PUT", endpoint, self._put_endpoint, f"{online}/write"),
            ("DELETE", endpoint, self._delete_endpoint, f"{online}/delete"),
            ("POST", rf"{endpoint}/listKeys", self._keys, f"{online}/listKeys/action"),
            (
                "GET",
                rf"{endpoint}/deployments",
                self._list_deployments,
                f"{online}/{down}/read",
            ),
            ("GET", deployment, self._get_deployment, f"{online}/{down}/read"),
            ("PUT", deployment, self._put_deployment, f"{online}/{down}/write"),
            ("PATCH", deployment, self._patch_deployment, f"{online}/{down}/write"),
            ("DELETE", deployment, self._delete_deployment, f"{online}/{down}/delete"),
            (
                "POST",
                rf"{deployment}/getLogs",
                self._logs,
                f"{online}/{down}/getLogs/action",
            ),
            (
                "GET",
                rf"{workspace}/(models|environments)",
                self._list_containers,
                f"{ML}/workspaces/{{0}}/read",
            ),
            ("GET", asset, self._get_container, f"{ML}/workspaces/{{0}}/read"),
            ("GET", rf"{asset}/versions", self._list_versions, f"{versions}/read"),
            ("GET", rf"{asset}/versions/([^/]+)", self._get_version, f"{versions}/read"),
            ("PUT", rf"{asset}/versions/([^/]+)", self._put_version, f"{versions}/write"),
            ("DELETE", rf"{asset}/versions/([^/]+)", self._delete_version, f"{versions}/delete"),
            ("GET", autoscale, self._list_autoscale, f"{scaling}/read"),
            ("GET", rf"{autoscale}/([^/]+)", self._get_autoscale, f"{scaling}/read"),
            ("PUT", rf"{autoscale}/([^/]+)", self._put_autoscale, f"{scaling}/write"),
            ("DELETE", rf"{autoscale}/([^/]+)", self._delete_autoscale, f"{scaling}/delete"),
        ]
        return [
            (method, re.compile(pattern, re.IGNORECASE), handler, action)
            for method, pattern, handler, action in routes
        ]

    def handle(self, request: Request) -> Reply:
        """Answer a request to Resource Manager."""
        with self._lock:
            for method, pattern, handler, action in self._routes:
                match = pattern.fullmatch(request.path)
                if method == request.method and match:
                    denied = self._refused(action.format(*match.groups()), request.path)
                    return denied or handler(request, *match.groups())
            return refusal("not found", what=request.path)

    def _refused(self, action: str, path: str) -> Reply | None:
        """Why this action is refused: the role, or a provider that is not registered."""
        denied = self.permissions.problem(action, path) if action else None
        namespace = action.partition("/")[0]
        if denied is None and self.providers.get(namespace, "Registered") != "Registered":
            return refusal("not registered", namespace=namespace)
        return denied

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
                "properties": {
                    "storageAccount": self.storage_id,
                    "friendlyName": self.workspace,
                    "containerRegistry": self.registry_id,
                    "imageBuildCompute": self.image_build_compute,
                },
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
        """Each role that holds there; a blob role is a fact of the account."""
        given = [role.to_json() for role in self.permissions.at(scope)]
        for role in given:
            role["notActions"] += self.permissions.denied
        if self.blobs.writable and "/storageAccounts/" in scope:
            given.append(BLOB_CONTRIBUTOR.to_json())
        return Reply(200, {"value": given})

    def _registry(self, request: Request, name: str) -> Reply:
        if name != self.registry:
            return refusal("not found", what=request.path)
        private = "Disabled" if self.registry_is_private else "Enabled"
        sku = {"name": "Premium" if self.registry_is_private else "Standard"}
        return Reply(
            200,
            {
                "id": self.registry_id,
                "name": name,
                "sku": sku,
                "properties": {"publicNetworkAccess": private, "adminUserEnabled": False},
            },
        )

    def _user_identity(self, request: Request, id_: str) -> Reply:
        if id_ not in self.identities:
            return refusal("not found", what=id_)
        principal = str(uuid.uuid5(uuid.NAMESPACE_URL, id_))
        return Reply(200, {"id": id_, "properties": {"principalId": principal}})

    def _role_assignments(self, request: Request, scope: str) -> Reply:
        wanted = request.query.get("$filter", "")
        roles = {"AcrPull": "/registries/", "Storage Blob Data Reader": "/storageAccounts/"}
        given = [
            {"properties": {"roleDefinitionId": f"{scope}/x/{ROLE_IDS[role]}"}}
            for id_, known in self.identities.items()
            if str(uuid.uuid5(uuid.NAMESPACE_URL, id_)) in wanted
            for role in known
            if roles[role] in scope
        ]
        return Reply(200, {"value": given})

    def _usages(self, request: Request) -> Reply:
        used = self._cores_used()
        values: list[dict[str, Any]] = [
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
        if self.total_quota is not None:
            total = "Total Cluster Dedicated Regional vCPUs"
            values.append(
                {
                    "id": f"{self.root}/usages/total",
                    "type": f"{ML}/totalDedicatedCores/usages",
                    "currentValue": sum(used.values()),
                    "limit": self.total_quota,
                    "name": {"value": total, "localizedValue": total},
                    "unit": "Count",
                }
            )
        return Reply(200, {"value": values})

    def _sizes(self, request: Request) -> Reply:
        return Reply(200, {"value": azure_rules.sizes()})

    def _operation(self, request: Request, name: str) -> Reply:
        operation = self.operations.get(name)
        if operation is None:
            return refusal("not found", what=name)
        operation.look()
        body: dict[str, Any] = {"status": operation.status}
        if operation.error:
            body["error"] = operation.error
        return Reply(200, body)

    # --- models and environments --------------------------------------------------------

    def _list_containers(self, request: Request, kind: str) -> Reply:
        names = sorted({known[1] for known in self.assets if known[0] == kind})
        return self._page(request, [self._id(kind, name) | {"properties": {}} for name in names])

    def _get_container(self, request: Request, kind: str, name: str) -> Reply:
        if not any(known[:2] == (kind, name) for known in self.assets):
            return refusal("not found", what=f"{kind} container {name}")
        properties = {"tags": {}, "properties": {}, "isArchived": False}
        return Reply(200, self._id(kind, name) | {"properties": properties})

    def _shown_version(self, key: tuple[str, str, str]) -> dict[str, Any]:
        kind, name, version = key
        body = without_empty(copy.deepcopy(self.assets[key]))
        if kind == "models":
            body["properties"].setdefault("flavors", {})
            body["properties"]["modelUri"] = body["properties"]["modelUri"].rstrip("/")
        at = f"{self.root}/{kind}/{name}/versions/{version}"
        system = body.pop("systemData")
        return body | {"id": at, "name": version, "systemData": system}

    def _list_versions(self, request: Request, kind: str, name: str) -> Reply:
        keys = [key for key in self.assets if key[:2] == (kind, name)]
        return self._page(request, [self._shown_version(key) for key in keys])

    def _get_version(self, request: Request, kind: str, name: str, version: str) -> Reply:
        if (kind, name, version) not in self.assets:
            return refusal("not found", what=f"{kind} {name}:{version}")
        return Reply(200, self._shown_version((kind, name, version)))

    def _put_version(self, request: Request, kind: str, name: str, version: str) -> Reply:
        self._check_schema(request, f"workspaces_{kind}_versions", version)
        body, old = request.json, self.assets.get((kind, name, version))
        fixed = ("modelUri", "image", "build")
        if old and any(old["properties"].get(key) != body["properties"].get(key) for key in fixed):
            return refusal("asset is fixed", name=f"{kind} {name}:{version}")
        if not old:
            self._is_new(f"{self.root}/{kind}/{name}/versions/{version}")
        system = old["systemData"] if old else self._created()
        self.assets[kind, name, version] = body | {"systemData": system}
        return Reply(200 if old else 201, self._shown_version((kind, name, version)))

    def _delete_version(self, request: Request, kind: str, name: str, version: str) -> Reply:
        used = f"/{kind}/{name}/versions/{version}"
        for online in self.deployments.values():
            if used in json.dumps(online.body):
                return refusal("asset in use", name=used)
        found = self.assets.pop((kind, name, version), None)
        return Reply(200 if found else 204)

    # --- autoscale ----------------------------------------------------------------------

    def _list_autoscale(self, request: Request) -> Reply:
        return self._page(request, list(self.autoscale.values()))

    def _get_autoscale(self, request: Request, name: str) -> Reply:
        if name not in self.autoscale:
            return refusal("not found", what=name)
        return Reply(200, self.autoscale[name])

    def _put_autoscale(self, request: Request, name: str) -> Reply:
        problem = azure_rules.autoscale_problem(request.json)
        target = request.json.get("properties", {}).get("targetResourceUri", "")
        ids = [
            f"{self.root}/onlineEndpoints/{e}/deployments/{d}".lower() for e, d in self.deployments
        ]
        if problem or target.lower() not in ids:
            return refusal("invalid", problem=problem or f"{target} does not exist.")
        status = 200 if name in self.autoscale else 201
        self.autoscale[name] = request.json | {"id": request.path, "name": name}
        return Reply(status, self.autoscale[name])

    def _delete_autoscale(self, request: Request, name: str) -> Reply:
        return Reply(200 if self.autoscale.pop(name, None) else 204)

    # --- schemas and scoring ------------------------------------------------------------

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
            token = scope == "https://ml.azure.com/" and not self.permissions.problem(
                f"{ML}/workspaces/onlineEndpoints/score/action",
                f"{self.root}/onlineEndpoints/{endpoint}",
            )
            if not (key if properties["authMode"] == "Key" else token):
                return Reply(401, b"key_auth_bad_header_authorization_missing_or_wrong")
            name = self._routed(request, endpoint, properties)
            deployment = self.deployments.get((endpoint, name or ""))
            if (
                name is None
                or deployment is None
                or deployment.state not in ("Succeeded", "Updating", "Scaling")
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
