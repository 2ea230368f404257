"""Endpoints and deployments of the loopback Azure: how they come up, change, fail and go."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from typing import Any

from tests.support import azure_rules
from tests.support.azure_blob import CONTAINER
from tests.support.azure_refusals import QUOTA, REFUSALS, embedded, refusal
from tests.support.azure_state import ML, Online, State
from tests.support.azure_wire import Reply, Request

# What is so unless somebody says otherwise. Whether the service shows it is not recorded, so it is
# left out here: a client that needs it back cannot rely on it.
DEFAULTS: dict[str, Any] = {
    "successThreshold": 1,
    "appInsightsEnabled": False,
    "egressPublicNetworkAccess": "Enabled",
}


def without_empty(document: dict[str, Any]) -> dict[str, Any]:
    """As the service returns a document: nulls, empty texts, lists and objects are left out."""
    return {
        key: without_empty(value) if isinstance(value, dict) else value
        for key, value in document.items()
        if value not in (None, "", [], {}) and DEFAULTS.get(key, object()) != value
    }


class OnlineEndpoints(State):
    """The part of Resource Manager below ``onlineEndpoints``."""

    def _shown_endpoint(self, name: str, online: Online) -> dict[str, Any]:
        body = without_empty(copy.deepcopy(online.body))
        host = f"https://{name}.{self.region}.inference.ml.azure.com"
        properties = body["properties"]
        properties["properties"] = dict(properties.get("properties") or {}) | {
            "azureml.onlineendpointid": f"{self.root}/onlineEndpoints/{name}".lower(),
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
        return body | {
            "id": f"{self.root}/onlineEndpoints/{name}",
            "name": name,
            "kind": "Managed",
            "type": f"{ML}/workspaces/onlineEndpoints",
            "systemData": online.system,
        }

    def _list_endpoints(self, request: Request) -> Reply:
        shown = [self._shown_endpoint(name, online) for name, online in self.endpoints.items()]
        return self._page(request, shown)

    def _get_endpoint(self, request: Request, name: str) -> Reply:
        online = self.endpoints.get(name)
        if online is not None and online.operation is not None:
            online.operation.look()
        if name not in self.endpoints:
            return refusal("not found", what=name)
        return Reply(200, self._shown_endpoint(name, self.endpoints[name]))

    def _put_endpoint(self, request: Request, name: str) -> Reply:
        body, old = request.json, self.endpoints.get(name)
        self._check_schema(request, "workspaces_onlineEndpoints", name)
        names = {known for endpoint, known in self.deployments if endpoint == name}
        problem = azure_rules.endpoint_problem(name, body, names)
        if problem:
            return refusal("invalid", problem=problem)
        if name in self.names_elsewhere:
            taken = (
                "There is already an endpoint with this name, Endpoint name needs to be unique "
                "within a region. Try some other name."
            )
            return refusal("name taken", embedded=embedded(**{"": taken}))
        if old and _identity(old.body) != _identity(body):
            return refusal("identity", name=name)
        busy = self._busy(old, name)
        if busy:
            return busy
        if not old:
            self._is_new(f"{self.root}/onlineEndpoints/{name}")
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
        busy = self._busy(online, name)
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
            return refusal("not found", what=name)
        return Reply(200, {"primaryKey": self.endpoint_key, "secondaryKey": "second"})

    def _shown_deployment(self, key: tuple[str, str], online: Online) -> dict[str, Any]:
        body = without_empty(copy.deepcopy(online.body))
        for probe in ("livenessProbe", "readinessProbe"):
            body["properties"][probe]["timeout"] = "PT10.0S"  # another spelling of the same
        body["properties"] |= {
            "provisioningState": online.state,
            "scaleSettings": {"scaleType": "Default"},
            "properties": {"AzureAsyncOperationUri": "https://management.azure.com/x"},
        }
        # The service adds variables of its own: a public record of a live deployment shows it.
        body["properties"].setdefault("environmentVariables", {})
        body["properties"]["environmentVariables"]["AZUREML_MODEL_DIR"] = "/var/azureml-app/models"
        return body | {
            "id": f"{self.root}/onlineEndpoints/{key[0]}/deployments/{key[1]}",
            "name": key[1],
            "kind": "Managed",
            "type": f"{ML}/workspaces/onlineEndpoints/deployments",
            "systemData": online.system,
        }

    def _list_deployments(self, request: Request, endpoint: str) -> Reply:
        if endpoint not in self.endpoints:
            return refusal("not found", what=endpoint)
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
            return refusal("not found", what=name)
        return Reply(
            200, self._shown_deployment((endpoint, name), self.deployments[endpoint, name])
        )

    def _put_deployment(self, request: Request, endpoint: str, name: str) -> Reply:
        key, body = (endpoint, name), request.json
        old = self.deployments.get(key)
        self._check_schema(request, "workspaces_onlineEndpoints_deployments", name)
        if endpoint not in self.endpoints:
            return refusal("not found", what=endpoint)
        problem = self._deployment_problem(name, body, old)
        if problem:
            return problem
        above = self.endpoints[endpoint]
        if self._busy(above, endpoint):
            return refusal("endpoint moves", name=endpoint, state=above.state)
        busy = self._busy(old, name)
        if busy:
            return busy
        if not old:
            self._is_new(f"{self.root}/onlineEndpoints/{endpoint}/deployments/{name}")
        online = old or Online(body, self._created())
        online.body, online.state = body, "Updating" if old else "Creating"
        self.deployments[key] = online
        return self._roll_out(key, online, 200 if old else 201)

    def _deployment_problem(
        self, name: str, body: dict[str, Any], old: Online | None
    ) -> Reply | None:
        problem = azure_rules.deployment_problem(name, body, old.body if old else None)
        if problem:
            return refusal("invalid", problem=problem)
        properties = body["properties"]
        for kind, id_ in (("models", "model"), ("environments", "environmentId")):
            found = re.search(rf"/{kind}/([^/]+)/versions/([^/]+)$", properties[id_])
            if found is None or (kind, *found.groups()) not in self.assets:
                return refusal("invalid", problem=f"{properties[id_]} does not exist.")
        return self._quota_problem(body, old)

    def _quota_problem(self, body: dict[str, Any], old: Online | None) -> Reply | None:
        instance = body["properties"]["instanceType"]
        family, cores, exempt = azure_rules.SIZES[instance][:3]
        wanted = azure_rules.reserved(body["sku"]["capacity"], cores, exempt)
        held = azure_rules.reserved(old.body["sku"]["capacity"], cores, exempt) if old else 0
        used, needed = self._cores_used(), wanted - held
        limits = [(used[family], self.quota.get(family, 0))]
        if self.total_quota is not None:
            limits.append((sum(used.values()), self.total_quota))
        for taken, limit in limits:
            if needed > 0 and taken + needed > limit:
                known = {"size": instance, "subscription": self.subscription}
                text = QUOTA.format(used=taken, limit=limit, needed=needed, **known)
                return refusal("quota", embedded=embedded(VmSize=text))
        return None

    def _cores_used(self) -> Counter[str]:
        """Of every deployment of the subscription in the region, by family."""
        used = Counter(self.used_elsewhere)
        for online in self.deployments.values():
            family, cores, exempt = azure_rules.SIZES[online.body["properties"]["instanceType"]][:3]
            used[family] += azure_rules.reserved(online.body["sku"]["capacity"], cores, exempt)
        return used

    def _patch_deployment(self, request: Request, endpoint: str, name: str) -> Reply:
        online, change = self.deployments.get((endpoint, name)), request.json
        if online is None:
            return refusal("not found", what=name)
        if set(change) - {"sku", "tags"}:
            return refusal("invalid", problem="Only tags and sku can be patched.")
        busy = self._busy(online, name)
        if busy:
            return busy
        body = copy.deepcopy(online.body)
        body["sku"] = body["sku"] | change.get("sku", {})
        body["tags"] = change.get("tags", body.get("tags", {}))
        problem = self._quota_problem(body, online)
        if problem:
            return problem
        moved = body["sku"] != online.body["sku"]
        online.body, online.state = body, "Scaling" if moved else "Updating"
        return self._roll_out((endpoint, name), online, 200)

    def _roll_out(self, key: tuple[str, str], online: Online, status: int) -> Reply:
        environment = online.body["properties"]["environmentId"]
        build = self._version_of(environment)["properties"].get("build")
        waiting = self.image_polls if build and environment not in self.images else 0

        def finish() -> dict[str, str] | None:
            error = self._why_it_fails(self.endpoints[key[0]].body, online.body["properties"])
            online.state = "Failed" if error else "Succeeded"
            return error

        operation = self._start("od", self.polls + waiting, finish)
        online.operation = self.operations[operation]
        return self._accepted(operation, status, self._shown_deployment(key, online))

    def _why_it_fails(
        self, endpoint: dict[str, Any], properties: dict[str, Any]
    ) -> dict[str, str] | None:
        if self.failures:
            code, message = self.failures.pop(0)
            return {"code": code, "message": message}
        return (
            self._why_no_image(properties["environmentId"])
            or self._why_no_access(endpoint)
            or self._why_no_model(properties)
        )

    def _why_no_image(self, environment: str) -> dict[str, str] | None:
        build = self._version_of(environment)["properties"].get("build")
        if not build or environment in self.images:
            return None
        if not self.image_build_compute and not (
            self.tasks_permitted and not self.registry_is_private
        ):
            return REFUSALS["tasks"].as_failure(
                registry=self.registry, subscription=self.subscription
            )
        folder = build["contextUri"].partition(f"{CONTAINER}/")[2]
        if f"{folder}{build.get('dockerfilePath', 'Dockerfile')}" not in self.blobs.blobs:
            return REFUSALS["no dockerfile"].as_failure()
        self.images.add(environment)
        return None

    def _why_no_access(self, endpoint: dict[str, Any]) -> dict[str, str] | None:
        """The service gives an endpoint's own identity its roles; a user's own had to get them."""
        for identity in endpoint.get("identity", {}).get("userAssignedIdentities", {}):
            roles = self.identities.get(identity, set())
            if "AcrPull" not in roles:
                return REFUSALS["no pull"].as_failure()
            if "Storage Blob Data Reader" not in roles:
                return REFUSALS["no blob read"].as_failure()
        return None

    def _why_no_model(self, properties: dict[str, Any]) -> dict[str, str] | None:
        missing = self._missing_files(self._prefix(properties))
        return REFUSALS["no model file"].as_failure(file=missing) if missing else None

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
        busy = self._busy(online, name) or self._busy(self.endpoints[endpoint], endpoint)
        if busy:
            return busy
        traffic = self.endpoints[endpoint].body["properties"].get("traffic") or {}
        if traffic.get(name):
            return refusal("live traffic", name=name, share=traffic[name])
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
            return refusal("not found", what=name)
        wanted = request.json
        lines = self.logs[wanted["containerType"]].splitlines(keepends=True)
        return Reply(200, {"content": "".join(lines[-wanted["tail"] :])})


def _identity(body: dict[str, Any]) -> tuple[str, frozenset[str]]:
    identity = body.get("identity") or {"type": "SystemAssigned"}
    return identity["type"], frozenset(identity.get("userAssignedIdentities") or {})
