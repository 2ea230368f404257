"""Endpoints: created, brought to a new configuration, scaled by hand, deleted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_hub.backends.sagemaker import bodies, logs
from llama_hub.backends.sagemaker.actions import Actions
from llama_hub.backends.sagemaker.errors import ExistsError, YoungRoleError, failed
from llama_hub.backends.sagemaker.planning import desired_count, types_of
from llama_hub.backends.sagemaker.revisions import with_young_role
from llama_hub.backends.sagemaker.scaler import listed
from llama_hub.backends.sagemaker.status import MOVING
from llama_hub.deploy.backend import TAG_DEPLOYMENT, Resource
from llama_hub.errors import NotFoundError, NotOursError

STATE = "EndpointStatus"


class EndpointActions(Actions):
    """The endpoint of a deployment."""

    def make(self) -> None:
        """Create, replace a failed one, or bring in the new configuration."""
        if self.context.wait:
            with_young_role(self._make, self.step.id, self.aws.sleep)
        else:
            self._make()
        self.tag(self.step.body["tags"])

    def _make(self) -> None:
        found = self._ours_or_nothing()
        wanted = str(self.step.body["request"]["EndpointConfigName"])
        if found is not None and self.step.action == "replace" and not _is_good(found, wanted):
            self._delete()
            found = None
        if found is None:
            self._create()
        elif found["EndpointConfigName"] != wanted:
            self._update(found)
        if self.context.wait:
            self._wait_for_arrival(is_new=found is None)

    def _wait_for_arrival(self, *, is_new: bool) -> None:
        """``YoungRoleError`` only where creating the endpoint again may help."""
        try:
            self.poll(self._arrived)
        except YoungRoleError:
            if is_new:
                self._delete()  # nothing else can be done with one that is Failed
            raise

    def _ours_or_nothing(self) -> Mapping[str, Any] | None:
        """The endpoint, settled; ``NotOursError`` if somebody else has made it."""
        found = self.endpoint()
        if found is None:
            return None
        name = self.name
        if self.inventory.endpoint(name) is None and self.endpoint() is not None:
            raise NotOursError(
                f"the endpoint {name} exists and was not made by llama-hub",
                hint="choose another --name",
            )
        wanted = self.step.body["request"]["EndpointConfigName"]
        if found[STATE] == "Creating" and found["EndpointConfigName"] == wanted:
            return found
        return self.settled(self.endpoint, STATE)

    def _create(self) -> None:
        body = self.step.body
        try:
            self.aws.call(
                "sagemaker", "create_endpoint", **body["request"], Tags=listed(body["tags"])
            )
        except ExistsError:
            self.context.progress.say(f"{self.step.id} is there already")

    def _update(self, found: Mapping[str, Any]) -> None:
        body = self.step.body
        old = types_of(self.inventory.config(str(found["EndpointConfigName"])))
        if old != types_of(self.inventory.config(str(body["request"]["EndpointConfigName"]))):
            self.scaler.deregister(f"endpoint/{self.name}/variant/{bodies.VARIANT}")
        deployment = {"DeploymentConfig": body["deployment"]} if body["deployment"] else {}
        self.aws.call(
            "sagemaker",
            "update_endpoint",
            **body["request"],
            RetainAllVariantProperties=True,
            **deployment,
        )

    def _arrived(self) -> bool | None:
        """Whether the endpoint serves the wanted configuration; raises where it never will."""
        found = self.endpoint()
        if found is None:
            return None  # a new one may show late
        state = str(found[STATE])
        if state in MOVING:
            return None
        reason = str(found.get("FailureReason", ""))
        wanted = self.step.body["request"]["EndpointConfigName"]
        if state == "InService" and found["EndpointConfigName"] == wanted:
            return True
        if state == "InService":
            reason = f"{reason or 'no reason given'}; the revision before is back"
        raise failed(f"bring {self.step.id} to its configuration", reason, self.last_lines())

    # --- removal ----------------------------------------------------------------------------

    def remove(self) -> None:
        """Delete it, wait for its end, and remove what only it has made."""
        self._delete()
        self.remove_traces()

    def remove_traces(self) -> None:
        """Its log, questions and answers in S3."""
        self.remove_log(f"{logs.ENDPOINTS}{self.name}")
        prefix = bodies.async_prefix(self.name)
        self.optional(f"what is below {prefix} in S3", lambda: self.inventory.bucket.delete(prefix))

    def _delete(self) -> None:
        name = self.name
        found = self.endpoint()
        if found is None:
            return
        self._must_be_ours(name)
        self.optional(
            "its scaling target",
            lambda: self.scaler.deregister(f"endpoint/{name}/variant/{bodies.VARIANT}"),
        )
        if found[STATE] != "Deleting":
            if self.settled(self.endpoint, STATE) is None:
                return
            self.aws.find("sagemaker", "delete_endpoint", EndpointName=name)
        self.until_gone(self.endpoint)

    def _must_be_ours(self, name: str) -> None:
        if self.inventory.tags("endpoint", name).get(TAG_DEPLOYMENT) != name:
            raise NotOursError(f"the endpoint {name} was not made by llama-hub")

    # --- instances --------------------------------------------------------------------------

    def set_count(self) -> None:
        """Bring the number of instances to what is wanted."""

        def reached() -> bool | None:
            found = self.endpoint()
            if found is None:
                raise NotFoundError(f"there is no endpoint {self.name}")
            if found[STATE] in MOVING:
                return None
            shown = Resource("endpoint", self.name, "", {}, found)
            return True if desired_count(shown) == wanted else None

        wanted = self.step.body["DesiredWeightsAndCapacities"][0]["DesiredInstanceCount"]
        self.settled(self.endpoint, STATE)
        if not reached():
            self.aws.call("sagemaker", "update_endpoint_weights_and_capacities", **self.step.body)
        if self.context.wait:
            self.poll(reached)


def _is_good(found: Mapping[str, Any], wanted: str) -> bool:
    return bool(found[STATE] == "InService" and found["EndpointConfigName"] == wanted)
