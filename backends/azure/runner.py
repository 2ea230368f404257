"""The runner of one step of a plan: doing it again after a crash is harmless.

Before a write, what is there is read: an operation that somebody (a run that was
cut off) started is waited for, and what is as wanted is not sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urljoin

from llama_hub.backends.azure import invoke
from llama_hub.backends.azure.bodies import (
    CONTEXT_ROOT,
    routed_again,
    weights_prefix,
    without,
)
from llama_hub.backends.azure.inventory import Inventory
from llama_hub.backends.azure.options import read as read_options
from llama_hub.backends.azure.planning import is_as_wanted, runs
from llama_hub.backends.azure.tags import from_cloud
from llama_hub.backends.azure.values import holds
from llama_hub.deploy.backend import TAG_DEPLOYMENT, Context, Step
from llama_hub.errors import (
    AccessError,
    LlamaHubError,
    NotOursError,
    ProvisioningError,
    TransientError,
    UnconfirmedError,
)

BILLING = ("endpoint", "deployment")  # kinds that cost money by the hour
LOG_LINES = 20  # of each container, in the error of a deployment that failed
LOOKS = 3  # at a mirrored or canary revision, spread over its soak time


class StepRunner:
    """One step in one context."""

    def __init__(self, inventory: Inventory, step: Step, context: Context) -> None:
        self._inventory, self._client = inventory, inventory.client
        self._step, self._context = step, context
        self._scope = inventory.client.scope
        self._told = ""  # the last line of the platform's log that was passed on

    def run(self) -> Mapping[str, Any]:
        """Do it; returns facts for the journal.

        ``AccessError`` names what stays because it may not be removed.
        """
        if self._step.action != "delete":
            return self._makings()[self._step.kind]() or {}
        try:
            return self._removals()[self._step.kind]() or {}
        except AccessError as error:
            if self._step.kind in BILLING:
                raise
            raise AccessError(
                f"{error.message}; {self._step.id} stays. Endpoint and deployments, which bill by "
                "the hour, go first and are gone",
                hint=error.hint,
            ) from error

    def _makings(self) -> dict[str, Callable[[], Mapping[str, Any] | None]]:
        return {
            "weights": self._upload,
            "model": self._register,
            "environment": self._environment,
            "endpoint": self._put_endpoint,
            "deployment": self._deploy,
            "autoscale": self._autoscale,
            "smoke": self._smoke_step,
            "mirror": self._try_out,
            "canary": self._try_out,
            "traffic": self._put_endpoint,
        }

    def _removals(self) -> dict[str, Callable[[], Mapping[str, Any] | None]]:
        return {
            "weights": self._remove_weights,
            "model": self._remove_asset,
            "environment": self._remove_asset,
            "context": self._remove_context,
            "endpoint": self._remove_endpoint,
            "deployment": self._remove_deployment,
            "autoscale": self._remove_autoscale,
            # Not things of the platform, but a cut-off run may have left their names.
            **dict.fromkeys(("smoke", "mirror", "canary", "traffic"), dict),
        }

    # --- storage and registry -----------------------------------------------------------

    def _upload(self) -> Mapping[str, Any]:
        target = self._context.target
        assert target is not None, "weights are made for a target"
        artifact = target.artifact
        prefix = str(self._step.body["prefix"])
        return self._inventory.container.upload(
            artifact.folder, artifact.manifest, prefix, self._context.progress
        )

    def _register(self) -> None:
        found = self._client.get(self._scope.asset("models", self._step.name), "ml")
        uri = {"properties": {"modelUri": self._step.body["properties"]["modelUri"]}}
        if found is None or not holds(uri, found):
            path = self._scope.asset("models", self._step.name)
            self._client.send("PUT", path, "models", self._step.body)

    def _environment(self) -> None:
        build = self._step.body["properties"].get("build")
        target = self._context.target
        if build:
            assert target is not None, "an environment is made for a target"
            within = f"/{self._inventory.workspace.container}/"
            prefix = str(build["contextUri"]).partition(within)[2]
            context = self._inventory.build_context(read_options(target.spec))
            self._inventory.container.put(context, prefix)
        path = self._scope.asset("environments", self._step.name)
        if self._client.get(path, "ml") is None:
            self._client.send("PUT", path, "environments", self._step.body)

    # --- the endpoint -------------------------------------------------------------------

    def _endpoint_path(self, name: str) -> str:
        return f"{self._scope.id}/onlineEndpoints/{name}"

    def _put_endpoint(self) -> None:
        self._route(self._step.name, self._step.body, wait=self._context.wait)

    def _route(self, name: str, body: Mapping[str, Any], *, wait: bool = True) -> None:
        """PUT an endpoint, unless it is so already; never one that is not ours."""
        found = self._inventory.settled(self._endpoint_path(name), self._context.timeout)
        if found is not None:
            _must_be_ours(name, found)
            if _is_routed(body, found):
                return
        poller = self._client.begin("PUT", self._endpoint_path(name), "endpoint", body)
        if wait:
            what = f"create or update the endpoint {name}"
            self._client.wait(poller, what, self._context.timeout)

    # --- deployments --------------------------------------------------------------------

    def _deploy(self) -> None:
        if "properties" not in self._step.body:
            return self._patch()
        # While somebody else updates the endpoint, nothing can be put into it: that takes minutes.
        endpoint = self._step.name.partition("/")[0]
        self._inventory.settled(self._endpoint_path(endpoint), self._context.timeout)
        path = self._scope.deployment(self._step.name)
        found = self._inventory.settled(path, self._context.timeout)
        if found is not None and self._step.action == "replace" and not _is_good(found):
            self._remove_deployment()
            found = None
        if found is not None and _is_good(found) and _is_deployed(self._step.body, found):
            return None
        poller = self._client.begin("PUT", path, "deployment", self._step.body)
        return self._wait_for_deployment(poller)

    def _patch(self) -> None:
        """Scale and tags; a PUT of what was read would lose fields."""
        path = self._scope.deployment(self._step.name)
        found = self._inventory.settled(path, self._context.timeout)
        if found is None or not holds(self._step.body, found):
            self._client.send("PATCH", path, "online", self._step.body)
        if self._context.wait:
            found = self._inventory.settled(path, self._context.timeout)
            if found is None or not _is_good(found):
                raise ProvisioningError(f"{self._step.name} did not take its new scale")

    def _wait_for_deployment(self, poller: Any) -> None:
        if not self._context.wait:
            return
        what = f"create or update the deployment {self._step.name}"
        try:
            self._client.wait(poller, what, self._context.timeout, self._tell)
        except TransientError:
            raise
        except ProvisioningError as error:
            raise ProvisioningError(
                f"{error.message}{self._last_lines()}", hint=error.hint
            ) from error

    def _tell(self) -> None:
        """A sign of life: the last line of the platform's log, whenever there is another."""
        for container in ("InferenceServer", "StorageInitializer"):
            try:
                lines = self._client.log(self._step.name, container, 1).splitlines()
            except LlamaHubError:  # there is no log before there is a machine
                continue
            if lines:
                line = f"{container}: {lines[-1]}"
                if line != self._told:
                    self._context.progress.say(line)
                self._told = line
                return

    def _last_lines(self) -> str:
        parts = []
        for container in ("StorageInitializer", "InferenceServer"):
            try:
                text = self._client.log(self._step.name, container, LOG_LINES).strip()
            except LlamaHubError:
                continue
            if text:
                parts.append(f"\n{container}:\n{text}")
        return "".join(parts)

    def _autoscale(self) -> None:
        path = self._scope.autoscale(self._step.name)
        self._client.send("PUT", path, "autoscale", self._step.body)

    # --- trying a revision --------------------------------------------------------------

    def _smoke_step(self) -> Mapping[str, Any]:
        return self._smoke(self._step.name, self._step.body)

    def _smoke(self, name: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The revision must answer by name, whatever its traffic."""
        endpoint = name.partition("/")[0]
        found = self._client.get(self._endpoint_path(endpoint)) or {}
        properties = found.get("properties", {})
        url = urljoin(str(properties.get("scoringUri", "")), str(body["path"]))
        try:
            headers = self._client.opens(endpoint, str(properties.get("authMode", "")))
            headers[invoke.BY_NAME] = str(body["deployment"])
            answer = b"".join(
                invoke.call(url, headers, body["request"], sleep=self._inventory.sleep)
            )
        except (AccessError, TransientError) as error:
            return self._untried(name, properties, error)
        return {"tried": True, "bytes": len(answer)}

    def _untried(
        self, name: str, properties: Mapping[str, Any], error: LlamaHubError
    ) -> Mapping[str, Any]:
        """What a revision that we could not ask means.

        Its probes say that the model is loaded. A refusal is an answer: whoever may not ask must
        neither wait for it nor tear down what works. Without an older revision it gets the traffic.
        """
        if properties.get("publicNetworkAccess") == "Disabled":
            self._context.progress.say(f"{name} is not tried: its network cannot be reached")
            return {"tried": False}
        if not isinstance(error, AccessError):
            raise ProvisioningError(f"{name} does not answer: {error.message}") from error
        if properties.get("traffic"):
            told = f"{name} is up and may not be asked from here: {error.message}"
            raise UnconfirmedError(told, hint=error.hint) from error
        self._context.progress.say(f"{name} is not tried: {error.message}; {error.hint}")
        return {"tried": False}

    def _try_out(self) -> Mapping[str, Any]:
        """Mirror or canary: change the traffic, look a few times, put it back if it is no good."""
        endpoint = self._step.name.partition("/")[0]
        body = self._step.body
        self._route(endpoint, body["put"])
        try:
            for _ in range(LOOKS):
                self._inventory.sleep(body["soak"] / LOOKS)
                self._smoke(self._step.name, body["smoke"])
        except LlamaHubError as error:
            self._route(endpoint, body["back"])
            raise ProvisioningError(
                f"the {self._step.kind} failed, and all traffic is back at the old revision: "
                f"{error.message}",
                hint=error.hint,
            ) from error
        return {"looks": LOOKS, "soak": body["soak"]}

    # --- removing -----------------------------------------------------------------------

    def _remove_endpoint(self) -> None:
        name, path = self._step.name, self._endpoint_path(self._step.name)
        found = self._inventory.settled(path, self._context.timeout)
        if found is None:
            return
        _must_be_ours(name, found)
        poller = self._client.begin("DELETE", path, "endpoint")
        self._client.wait(poller, f"delete the endpoint {name}", self._context.timeout)
        self._inventory.settled(path, self._context.timeout)

    def _remove_deployment(self) -> None:
        name, path = self._step.name, self._scope.deployment(self._step.name)
        if self._inventory.settled(path, self._context.timeout) is None:
            return
        self._take_traffic(*name.split("/"))
        poller = self._client.begin("DELETE", path, "deployment")
        self._client.wait(poller, f"delete the deployment {name}", self._context.timeout)
        self._inventory.settled(path, self._context.timeout)

    def _take_traffic(self, endpoint: str, deployment: str) -> None:
        """The platform does not remove what still gets requests."""
        found = self._inventory.settled(self._endpoint_path(endpoint), self._context.timeout)
        properties = (found or {}).get("properties", {})
        traffic = properties.get("traffic") or {}
        mirrored = (properties.get("mirrorTraffic") or {}).get(deployment)
        if found is not None and (traffic.get(deployment) or mirrored):
            _must_be_ours(endpoint, found)
            self._route(endpoint, routed_again(found, without(traffic, deployment)))

    def _remove_asset(self) -> None:
        kind = f"{self._step.kind}s"
        path = self._scope.asset(kind, self._step.name)
        found = self._client.get(path, "ml")
        if found is None:
            return
        self._client.send("DELETE", path, "ml")
        build = found["properties"].get("build")
        if build:
            at = str(build["contextUri"]).partition(f"/{self._inventory.workspace.container}/")[2]
            if at.startswith(CONTEXT_ROOT):
                self._inventory.container.delete(at)

    def _remove_context(self) -> Mapping[str, Any]:
        return {"blobs": self._inventory.container.delete(f"{CONTEXT_ROOT}{self._step.name}/")}

    def _remove_weights(self) -> Mapping[str, Any]:
        user = self._inventory.uses(self._step.name)
        if user is not None:
            return {"kept": f"the model {user} uses them"}
        return {"blobs": self._inventory.container.delete(weights_prefix(self._step.name))}

    def _remove_autoscale(self) -> None:
        self._client.send("DELETE", self._scope.autoscale(self._step.name), "autoscale")


def _is_good(found: Mapping[str, Any]) -> bool:
    return bool(found.get("properties", {}).get("provisioningState") == "Succeeded")


def _is_deployed(body: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    return runs(body, found) and holds({"tags": body["tags"], "sku": body["sku"]}, found)


def _is_routed(body: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether the endpoint is as wanted, its traffic compared exactly."""
    properties = found.get("properties", {})
    same = all(
        {name: share for name, share in (properties.get(key) or {}).items() if share}
        == body["properties"][key]
        for key in ("traffic", "mirrorTraffic")
    )
    return same and _is_good(found) and is_as_wanted(body, found)


def _must_be_ours(name: str, found: Mapping[str, Any]) -> None:
    if from_cloud(found.get("tags")).get(TAG_DEPLOYMENT) != name:
        raise NotOursError(
            f"the endpoint {name} exists and was not made by llama-hub",
            hint="choose another --name; names of endpoints are unique in a region",
        )
