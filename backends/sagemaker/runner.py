"""The runner of one step, also after a crash: what is there already is not made twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from llama_hub.backends.sagemaker import bodies, logs
from llama_hub.backends.sagemaker.errors import ExistsError, failed
from llama_hub.backends.sagemaker.inventory import Inventory
from llama_hub.backends.sagemaker.planning import desired_count, types_of
from llama_hub.backends.sagemaker.roles import ensure_role, remove_role
from llama_hub.backends.sagemaker.scaler import Scaler, listed
from llama_hub.backends.sagemaker.status import MOVING
from llama_hub.deploy.backend import TAG_DEPLOYMENT, Context, Resource, Step
from llama_hub.deploy.waiting import until_gone, until_settled, wait_for
from llama_hub.errors import NotFoundError, ProvisioningError

LOOK = 10.0  # seconds between two looks at something that takes minutes
ROLE_WAIT = 180.0  # seconds that a new role may take until SageMaker can assume it
LAST_LINES = 20
CREATE = {
    "model": "create_model",
    "config": "create_endpoint_config",
    "component": "create_inference_component",
}
DELETE = {
    "model": ("delete_model", "ModelName"),
    "config": ("delete_endpoint_config", "EndpointConfigName"),
}
ARN_KIND = {
    "model": "model",
    "config": "endpoint-config",
    "component": "inference-component",
    "endpoint": "endpoint",
}


class StepRunner:
    """One step of a plan."""

    def __init__(self, inventory: Inventory, step: Step, context: Context) -> None:
        self._inventory, self._step, self._context = inventory, step, context
        self._aws = inventory.aws
        self._scaler = Scaler(inventory.aws)

    def run(self) -> Mapping[str, Any]:
        """Do it; returns facts for the journal."""
        table = self._removing if self._step.action == "delete" else self._making
        return table[self._step.kind]() or {}

    @property
    def _making(self) -> Mapping[str, Callable[[], Mapping[str, Any] | None]]:
        return {
            "role": self._make_role,
            "image": self._build,
            "weights": self._upload,
            "model": self._make_fixed,
            "config": self._make_fixed,
            "alarm": self._put_alarm,
            "endpoint": self._make_endpoint,
            "component": self._make_component,
            "scaling": self._scale,
            "capacity": self._set_count,
        }

    @property
    def _removing(self) -> Mapping[str, Callable[[], Mapping[str, Any] | None]]:
        return {
            "scaling": self._remove_scaling,
            "component": self._remove_component,
            "endpoint": self._remove_endpoint,
            "alarm": self._remove_alarm,
            "config": self._remove_fixed,
            "model": self._remove_fixed,
            "weights": self._remove_weights,
            "image": self._remove_image,
            "role": self._remove_role,
            "capacity": dict,  # not a thing of the platform
        }

    @property
    def _name(self) -> str:
        """The deployment's."""
        if self._step.action == "delete" and "deployment" in self._step.body:
            return str(self._step.body["deployment"])
        target = self._context.target
        return target.spec.name if target else self._step.name

    # --- foundations ----------------------------------------------------------------------

    def _make_role(self) -> Mapping[str, Any]:
        ensure_role(self._inventory, self._step.body, self._step.body["tags"])
        return {"arn": self._step.body["arn"]}

    def _build(self) -> Mapping[str, Any]:
        from llama_hub.backends.sagemaker.image import Builder

        builder = Builder(self._inventory, self._name)
        return builder.build(self._step.body, self._context.timeout, self._context.progress)

    def _upload(self) -> Mapping[str, Any]:
        """The marker first, so that whatever a crash leaves can be found; the manifest last."""
        target = self._context.target
        assert target is not None, "weights are made for a target"
        body, bucket = self._step.body, self._inventory.bucket
        self._inventory.container().ensure()
        bucket.kms_key = body["kms_key"]
        at = datetime.now(UTC).isoformat(timespec="seconds")
        marker = {"tags": dict(body["tags"]), "at": at, "bytes": body["bytes"]}
        key = f"{bodies.marker_prefix()}{self._step.name}.json"
        bucket.put(key, json.dumps(marker, sort_keys=True).encode())
        artifact = target.artifact
        return bucket.upload(
            artifact.folder, artifact.manifest, str(body["prefix"]), self._context.progress
        )

    # --- models, configurations, components -----------------------------------------------

    def _make_fixed(self) -> Mapping[str, Any] | None:
        """Create it, or give it its tags if it is there."""
        if self._step.action == "update" and self._only_tagged():
            return None
        if self._step.kind == "model":
            self._prove_weights()
        wait_for(
            self._created,
            f"{self._step.id}",
            timeout=ROLE_WAIT,
            every=5.0,
            sleep=self._aws.sleep,
        )
        return None

    def _only_tagged(self) -> bool:
        """Whether it was there, so that new tags were all it needed."""
        try:
            self._tag(self._step.body["tags"])
        except NotFoundError:
            return False
        return True

    def _created(self) -> bool | None:
        """``None`` while SageMaker may not assume the role yet, which passes for a new one."""
        body = self._step.body
        try:
            self._aws.call(
                "sagemaker",
                CREATE[self._step.kind],
                **body["request"],
                Tags=listed(body["tags"]),
            )
        except ExistsError:
            self._tag(body["tags"])
        except ProvisioningError as error:
            if "Could not assume role" in error.message and self._made_role():
                return None
            raise
        return True

    def _made_role(self) -> bool:
        return bodies.ROLE_PATH in str(self._step.body["request"].get("ExecutionRoleArn", ""))

    def _prove_weights(self) -> None:
        """S3 must state the manifest's digests before a model refers to the files."""
        target = self._context.target
        if target is None:
            return
        manifest = target.artifact.manifest
        prefix = bodies.weights_prefix(bodies.digest_of(manifest))
        wrong = [
            f"{path} {words}"
            for path, ok, words in self._inventory.bucket.prove(manifest, prefix)
            if not ok
        ]
        if wrong:
            raise ProvisioningError(
                f"S3 does not hold what the manifest says: {'; '.join(wrong)}",
                hint="run the same command again: it uploads what is missing",
            )

    def _tag(self, tags: Mapping[str, str]) -> None:
        arn = self._inventory.account.arn(ARN_KIND[self._step.kind], self._step.name)
        found = self._inventory.tags(ARN_KIND[self._step.kind], self._step.name)
        stale = sorted(set(found) - set(tags))
        if stale:
            self._aws.call("sagemaker", "delete_tags", ResourceArn=arn, TagKeys=stale)
        self._aws.call("sagemaker", "add_tags", ResourceArn=arn, Tags=listed(tags))

    def _remove_fixed(self) -> None:
        if self._step.kind == "model" and self._state() is None:
            self._remove_traces()  # of an endpoint whose removal was cut off
        operation, key = DELETE[self._step.kind]
        self._aws.find("sagemaker", operation, **{key: self._step.name})

    def _make_component(self) -> None:
        if self._step.action == "replace":
            self._remove_component()
        self._make_fixed()
        if self._context.wait:
            self._wait_for_component()

    def _component(self) -> Mapping[str, Any] | None:
        return self._aws.find(
            "sagemaker", "describe_inference_component", InferenceComponentName=self._step.name
        )

    def _wait_for_component(self) -> None:
        def ready() -> bool | None:
            found = self._component()
            state = str((found or {}).get("InferenceComponentStatus", "Creating"))
            if state == "Failed":
                reason = str((found or {}).get("FailureReason", ""))
                raise failed(f"start {self._step.id}", reason, self._last_lines())
            return True if state == "InService" else None

        self._poll(ready)

    def _remove_component(self) -> None:
        name = self._step.name
        found = self._component()
        if found is None:
            return
        self._scaler.deregister(f"inference-component/{name}")
        if found["InferenceComponentStatus"] != "Deleting":
            self._settled(self._component, "InferenceComponentStatus")
            self._aws.find("sagemaker", "delete_inference_component", InferenceComponentName=name)
        self._until_gone(self._component)
        self._remove_log(f"{logs.COMPONENTS}{name}")

    # --- the endpoint -----------------------------------------------------------------------

    def _state(self) -> Mapping[str, Any] | None:
        return self._inventory.state(self._name)

    def _settled(
        self, look: Callable[[], Mapping[str, Any] | None], key: str
    ) -> Mapping[str, Any] | None:
        """What is there once no change is under way; ``None`` if it is gone by then."""
        return until_settled(
            look,
            lambda shown: shown[key] in MOVING,
            self._step.id,
            timeout=self._context.timeout,
            every=LOOK,
            sleep=self._aws.sleep,
        )

    def _until_gone(self, look: Callable[[], Any]) -> None:
        until_gone(look, self._step.id, timeout=self._context.timeout, sleep=self._aws.sleep)

    def _make_endpoint(self) -> None:
        """Create, replace a failed one, or bring in the new configuration."""
        found = self._ours_or_nothing()
        wanted = str(self._step.body["request"]["EndpointConfigName"])
        if found is not None and self._step.action == "replace" and not _is_good(found, wanted):
            self._delete_endpoint()
            found = None
        if found is None:
            self._create_endpoint()
        elif found["EndpointConfigName"] != wanted:
            self._update_endpoint(found)
        if self._context.wait:
            self._poll(self._arrived)
        self._tag(self._step.body["tags"])

    def _ours_or_nothing(self) -> Mapping[str, Any] | None:
        """The endpoint, settled; ``ProvisioningError`` if somebody else has made it."""
        found = self._state()
        if found is None:
            return None
        name = self._name
        if self._inventory.endpoint(name) is None and self._state() is not None:
            raise ProvisioningError(
                f"the endpoint {name} exists and was not made by llama-hub",
                hint="choose another --name",
            )
        wanted = self._step.body["request"]["EndpointConfigName"]
        if found["EndpointStatus"] == "Creating" and found["EndpointConfigName"] == wanted:
            return found
        return self._settled(self._state, "EndpointStatus")

    def _create_endpoint(self) -> None:
        body = self._step.body
        try:
            self._aws.call(
                "sagemaker", "create_endpoint", **body["request"], Tags=listed(body["tags"])
            )
        except ExistsError:
            self._context.progress.say(f"{self._step.id} is there already")

    def _update_endpoint(self, found: Mapping[str, Any]) -> None:
        body = self._step.body
        old = types_of(self._inventory.config(str(found["EndpointConfigName"])))
        if old != types_of(self._inventory.config(str(body["request"]["EndpointConfigName"]))):
            self._scaler.deregister(f"endpoint/{self._name}/variant/{bodies.VARIANT}")
        deployment = {"DeploymentConfig": body["deployment"]} if body["deployment"] else {}
        self._aws.call(
            "sagemaker",
            "update_endpoint",
            **body["request"],
            RetainAllVariantProperties=True,
            **deployment,
        )

    def _arrived(self) -> bool | None:
        """Whether the endpoint serves the wanted configuration; raises where it never will."""
        found = self._state()
        if found is None:
            return None  # a new one may show late
        state = str(found["EndpointStatus"])
        if state in MOVING:
            return None
        reason = str(found.get("FailureReason", ""))
        wanted = self._step.body["request"]["EndpointConfigName"]
        if state == "InService" and found["EndpointConfigName"] == wanted:
            return True
        if state == "InService":
            reason = f"{reason or 'no reason given'}; the revision before is back"
        raise failed(f"bring {self._step.id} to its configuration", reason, self._last_lines())

    def _poll(self, look: Callable[[], bool | None]) -> None:
        task = self._step.id
        self._context.progress.start(task, unit="s")

        def told() -> bool | None:
            self._context.progress.advance(task, int(LOOK))
            return look()

        try:
            wait_for(
                told,
                task,
                timeout=self._context.timeout,
                every=LOOK,
                sleep=self._aws.sleep,
                why=lambda: str((self._state() or {}).get("FailureReason", "")),
            )
        finally:
            self._context.progress.finish(task)

    def _last_lines(self) -> list[str]:
        return logs.last(self._inventory, self._name, LAST_LINES)

    def _remove_endpoint(self) -> None:
        self._delete_endpoint()
        self._remove_traces()

    def _remove_traces(self) -> None:
        """What nobody but the endpoint has made: its log, questions and answers in S3."""
        self._remove_log(f"{logs.ENDPOINTS}{self._name}")
        self._inventory.bucket.delete(bodies.async_prefix(self._name))

    def _delete_endpoint(self) -> None:
        name = self._name
        found = self._state()
        if found is None:
            return
        self._must_be_ours(name)
        self._scaler.deregister(f"endpoint/{name}/variant/{bodies.VARIANT}")
        if found["EndpointStatus"] != "Deleting":
            if self._settled(self._state, "EndpointStatus") is None:
                return
            self._aws.find("sagemaker", "delete_endpoint", EndpointName=name)
        self._until_gone(self._state)

    def _must_be_ours(self, name: str) -> None:
        arn = self._inventory.account.arn("endpoint", name)
        tags = self._aws.pages("sagemaker", "list_tags", "Tags", ResourceArn=arn)
        if {"Key": TAG_DEPLOYMENT, "Value": name} not in list(tags):
            raise ProvisioningError(f"the endpoint {name} was not made by llama-hub")

    def _remove_log(self, group: str) -> None:
        self._aws.find("logs", "delete_log_group", logGroupName=group)

    # --- scaling ----------------------------------------------------------------------------

    def _set_count(self) -> None:
        def reached() -> bool | None:
            found = self._state()
            if found is None:
                raise NotFoundError(f"there is no endpoint {self._name}")
            if found["EndpointStatus"] in MOVING:
                return None
            shown = Resource("endpoint", self._name, "", {}, found)
            return True if desired_count(shown) == wanted else None

        wanted = self._step.body["DesiredWeightsAndCapacities"][0]["DesiredInstanceCount"]
        self._settled(self._state, "EndpointStatus")
        if not reached():
            self._aws.call("sagemaker", "update_endpoint_weights_and_capacities", **self._step.body)
        if self._context.wait:
            self._poll(reached)

    def _scale(self) -> None:
        self._scaler.scale(self._step.body)

    def _remove_scaling(self) -> None:
        self._scaler.deregister(self._step.name)

    def _put_alarm(self) -> None:
        body = self._step.body
        request = {"AlarmName": self._step.name} | dict(body["request"])
        self._scaler.put_alarm(request, body["tags"])

    def _remove_alarm(self) -> None:
        self._aws.find("cloudwatch", "delete_alarms", AlarmNames=[self._step.name])

    # --- storage ----------------------------------------------------------------------------

    def _remove_weights(self) -> Mapping[str, Any]:
        """The files if nobody else uses them, then the marker; the bucket if we made it."""
        name, _, digest = self._step.name.partition("/")
        bucket = self._inventory.bucket
        others = self._inventory.users(digest) - {name}
        gone = 0 if others else bucket.delete(bodies.weights_prefix(digest))
        bucket.delete(f"{bodies.marker_prefix()}{self._step.name}.json")
        self._inventory.container().release()
        return {"objects": gone, "used_by": sorted(others)}

    def _remove_role(self) -> None:
        """The last thing to go: with it the bucket, where a cut-off run has left it empty."""
        remove_role(self._inventory, self._step.name)
        self._inventory.container().release()

    def _remove_image(self) -> None:
        from llama_hub.backends.sagemaker.image import Builder

        Builder(self._inventory, self._name).remove()


def _is_good(found: Mapping[str, Any], wanted: str) -> bool:
    return bool(found["EndpointStatus"] == "InService" and found["EndpointConfigName"] == wanted)
