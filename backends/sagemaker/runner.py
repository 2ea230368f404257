"""The runner of one step, also after a crash: what is there already is not made twice.

Endpoints, components, models and configurations have files of their own; here are the smaller
things, and which action does which step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from llama_hub.backends.sagemaker import bodies
from llama_hub.backends.sagemaker.actions import Actions
from llama_hub.backends.sagemaker.components import ComponentActions
from llama_hub.backends.sagemaker.endpoints import EndpointActions
from llama_hub.backends.sagemaker.inventory import Inventory
from llama_hub.backends.sagemaker.revisions import RevisionActions
from llama_hub.backends.sagemaker.roles import ensure_role, remove_role
from llama_hub.deploy.backend import Context, Step

Done = Mapping[str, Any] | None  # facts for the journal


class StepRunner(Actions):
    """One step of a plan."""

    def __init__(self, inventory: Inventory, step: Step, context: Context) -> None:
        super().__init__(inventory, step, context)
        self._endpoint = EndpointActions(inventory, step, context)
        self._component = ComponentActions(inventory, step, context)
        self._revision = RevisionActions(inventory, step, context)

    def run(self) -> Mapping[str, Any]:
        """Do it; returns facts for the journal."""
        table = self._removing if self.step.action == "delete" else self._making
        return table[self.step.kind]() or {}

    @property
    def _making(self) -> Mapping[str, Callable[[], Done]]:
        return {
            "role": self._make_role,
            "image": self._build,
            "weights": self._upload,
            "model": self._revision.make,
            "config": self._revision.make,
            "alarm": self._put_alarm,
            "endpoint": self._endpoint.make,
            "component": self._component.make,
            "scaling": lambda: self.scaler.scale(self.step.body),
            "capacity": self._endpoint.set_count,
        }

    @property
    def _removing(self) -> Mapping[str, Callable[[], Done]]:
        return {
            "scaling": lambda: self.scaler.deregister(self.step.name),
            "component": self._component.remove,
            "endpoint": self._endpoint.remove,
            "alarm": self._remove_alarm,
            "config": self._revision.remove,
            "model": self._remove_model,
            "weights": self._remove_weights,
            "image": self._remove_image,
            "role": self._remove_role,
            "capacity": dict,  # not a thing of the platform
        }

    # --- role, image, weights, alarms -------------------------------------------------------

    def _make_role(self) -> Mapping[str, Any]:
        ensure_role(self.inventory, self.step.body, self.step.body["tags"])
        return {"arn": self.step.body["arn"]}

    def _build(self) -> Mapping[str, Any]:
        from llama_hub.backends.sagemaker.image import Builder

        builder = Builder(self.inventory, self.name)
        return builder.build(self.step.body, self.context.timeout, self.context.progress)

    def _upload(self) -> Mapping[str, Any]:
        """The marker first, so that whatever a crash leaves can be found; the manifest last."""
        target = self.context.target
        assert target is not None, "weights are made for a target"
        body, bucket = self.step.body, self.inventory.bucket
        self.inventory.container().ensure()
        bucket.kms_key = body["kms_key"]
        at = datetime.now(UTC).isoformat(timespec="seconds")
        marker = {"tags": dict(body["tags"]), "at": at, "bytes": body["bytes"]}
        key = f"{bodies.marker_prefix()}{self.step.name}.json"
        bucket.put(key, json.dumps(marker, sort_keys=True).encode())
        artifact = target.artifact
        return bucket.upload(
            artifact.folder, artifact.manifest, str(body["prefix"]), self.context.progress
        )

    def _put_alarm(self) -> None:
        body = self.step.body
        request = {"AlarmName": self.step.name} | dict(body["request"])
        self.scaler.put_alarm(request, body["tags"])

    # --- removal ----------------------------------------------------------------------------

    def _remove_alarm(self) -> None:
        self.aws.find("cloudwatch", "delete_alarms", AlarmNames=[self.step.name])

    def _remove_model(self) -> None:
        """With the traces of an endpoint whose own removal was cut off."""
        if self.endpoint() is None:
            self._endpoint.remove_traces()
        self._revision.remove()

    def _remove_weights(self) -> Mapping[str, Any]:
        """The files if nobody else uses them, then the marker; the bucket if we made it."""
        name, _, digest = self.step.name.partition("/")
        bucket = self.inventory.bucket
        others = self.inventory.users(digest) - {name}
        gone = 0 if others else bucket.delete(bodies.weights_prefix(digest))
        bucket.delete(f"{bodies.marker_prefix()}{self.step.name}.json")
        self.inventory.container().release()
        return {"objects": gone, "used_by": sorted(others)}

    def _remove_role(self) -> None:
        """The last thing to go: with it the bucket, where a cut-off run has left it empty."""
        remove_role(self.inventory, self.step.name)
        self.inventory.container().release()

    def _remove_image(self) -> None:
        from llama_hub.backends.sagemaker.image import Builder

        Builder(self.inventory, self.name).remove()
