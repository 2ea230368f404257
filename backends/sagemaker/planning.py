"""The steps that lead from what is there to what is wanted. Pure: nothing here calls anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from llama_hub.backends.sagemaker import bodies, iam, images, scaling
from llama_hub.backends.sagemaker.bodies import VARIANT, DesiredState
from llama_hub.deploy.backend import Action, Observed, Resource, Step
from llama_hub.deploy.reconcile import deletions as deletions_of
from llama_hub.deploy.reconcile import differences, holds, reconciled
from llama_hub.deploy.sizing import gib

ORDER = (  # of removal: what uses something goes before it
    "scaling", "component", "endpoint", "alarm", "config", "model", "weights", "image", "role",
)  # fmt: skip
BUILD_NOTE = "built by CodeBuild in this account, about 15 minutes, once per release of llama-hub"


@dataclass(frozen=True)
class Planner:
    """What is wanted, in the light of what is there."""

    desired: DesiredState
    observed: Observed

    def steps(self) -> list[Step]:
        """All steps, noop included."""
        made = [*self._foundations(), *self._endpoint_and_around()]
        return made + self._retire(made)

    @property
    def _name(self) -> str:
        return self.desired.name

    # --- foundations ----------------------------------------------------------------------

    def _foundations(self) -> Iterator[Step]:
        desired = self.desired
        role = [self._role()] if desired.options.role is None else []
        image = [self._image()] if images.is_built(desired.options) else []
        weights = self._weights()
        yield from (*role, *image, weights)
        needs = tuple(step.id for step in (*role, *image, weights))
        model = self._fixed("model", str(desired.model["ModelName"]), desired.model, needs)
        if model.action != "noop":
            model = replace(model, note=images.note(desired.options, desired.image))
        yield model
        uses = tuple(step.id for step in role) if desired.idle else (model.id,)
        config = desired.config
        yield self._fixed("config", str(config["EndpointConfigName"]), config, uses)

    def _role(self) -> Step:
        wanted = iam.role(self.desired)
        body = wanted | {"tags": self.desired.lasting_tags}
        there = self.observed.find("role", wanted["role"])
        return self._compared("role", wanted["role"], body, there, ("trust", "policy"))

    def _image(self) -> Step:
        name, tag = bodies.repository(self._name), self.desired.context[:16]
        there = self.observed.find("image", name)
        built = there is not None and tag in there.body["images"]
        body = {"image": self.desired.image, "tags": self.desired.lasting_tags}
        action: Action = "noop" if built else "update" if there else "create"
        why = "built already" if built else "not built yet"
        note = "" if built else BUILD_NOTE
        return Step(action, "image", name, why, body, undo=False, long=True, note=note)

    def _weights(self) -> Step:
        desired, manifest = self.desired, self.desired.target.artifact.manifest
        name = f"{self._name}/{desired.digest}"
        there = self.observed.find("weights", name)
        body = {
            "bucket": desired.account.bucket,
            "prefix": bodies.weights_prefix(desired.digest),
            "bytes": manifest.bytes,
            "kms_key": desired.options.kms_key,
            "tags": desired.lasting_tags,
        }
        if there is None:
            action, why = "create", "not uploaded for this deployment yet"
        elif there.state != "complete":
            action, why = "update", "the upload is not complete"
        elif dict(there.tags) != desired.lasting_tags:
            action, why = "update", "tags differ"
        else:
            action, why = "noop", "uploaded already"
        note = f"up to {gib(manifest.bytes)} to send" if action == "create" else ""
        return Step(action, "weights", name, why, body, undo=False, long=True, note=note)  # type: ignore[arg-type]

    def _fixed(
        self, kind: str, name: str, request: Mapping[str, Any], after: tuple[str, ...]
    ) -> Step:
        """Something that is never changed, only made again; its tags are."""
        body = {"request": dict(request), "tags": self.desired.tags}
        return self._compared(kind, name, body, self.observed.find(kind, name), (), after)

    def _compared(
        self,
        kind: str,
        name: str,
        body: Mapping[str, Any],
        there: Resource | None,
        keys: tuple[str, ...],
        after: tuple[str, ...] = (),
    ) -> Step:
        """Something that is changed in place: its ``keys`` and its tags."""
        differing: list[str] = []
        if there is not None:
            differing = differences({key: body[key] for key in keys}, there.body)
            differing += ["tags"] if dict(there.tags) != body["tags"] else []
        return reconciled(kind, name, body, there, differing, after=after)

    # --- the endpoint and what stands around it --------------------------------------------

    def _endpoint_and_around(self) -> Iterator[Step]:
        alarms = list(self._alarms())
        yield from alarms
        config = f"config/{self.desired.config['EndpointConfigName']}"
        endpoint = self._endpoint((config, *(step.id for step in alarms)))
        yield endpoint
        last = endpoint
        if self.desired.idle:
            before = self._make_room(endpoint)
            yield from before
            last = self._component(endpoint, before)
            yield last
        grows = self._scaling(last)
        if grows is not None:
            yield grows
        elif not self.desired.idle:
            yield self._capacity(endpoint)

    def _alarms(self) -> Iterator[Step]:
        for name, request in self.desired.alarms.items():
            body = {"request": request, "tags": self.desired.lasting_tags}
            there = self.observed.find("alarm", name)
            shown = None if there is None else _wrapped(there)
            yield self._compared("alarm", name, body, shown, ("request",))

    @cached_property
    def _there(self) -> Resource | None:
        return self.observed.find("endpoint", self._name)

    def _endpoint(self, after: tuple[str, ...]) -> Step:
        body = {
            "request": self.desired.endpoint,
            "deployment": self.desired.deployment,
            "tags": self.desired.tags,
        }
        action, why = self._endpoint_action()
        note = self._update_note() if action == "update" and why.startswith("new") else ""
        return Step(action, "endpoint", self._name, why, body, after, long=True, note=note)

    def _endpoint_action(self) -> tuple[Action, str]:
        there = self._there
        if there is None:
            return "create", "there is none"
        if there.state in ("Failed", "OutOfService", "UpdateRollbackFailed"):
            return "replace", f"it is {there.state}"
        if there.body["EndpointConfigName"] != self.desired.endpoint["EndpointConfigName"]:
            return "update", "new configuration"
        if there.state != "InService":
            return "update", f"it is {there.state}"
        if dict(there.tags) != self.desired.tags:
            return "update", "tags differ"
        return "noop", "as wanted"

    def _update_note(self) -> str:
        if self.desired.options.update == "rolling":
            return "a few instances at a time are exchanged"
        return "for a while old and new instances run and bill side by side"

    def _make_room(self, endpoint: Step) -> list[Step]:
        """The old component goes first where no machine is left on which the new could start.

        Each copy has a machine of its own, and there are at most ``replicas_max``.
        """
        name = self.desired.component["InferenceComponentName"]
        old = [one for one in self.observed.all("component") if one.name != name]
        copies = sum(_copies(one) for one in old)
        if not old or copies < self.desired.target.spec.replicas_max:
            return []
        steps = deletions_of(
            old,
            ORDER,
            why=lambda resource: "the new one needs its machine",
            body=lambda resource: {"deployment": self._name},
            after=[endpoint.id],
        )
        note = "nothing answers until the new one is up; a larger replicas_max avoids that"
        return [replace(step, note=note) for step in steps]

    def _component(self, endpoint: Step, before: list[Step]) -> Step:
        request = self.desired.component
        name = str(request["InferenceComponentName"])
        model = f"model/{self.desired.model['ModelName']}"
        there = self.observed.find("component", name)
        after = (endpoint.id, model, *(step.id for step in before))
        step = self._fixed("component", name, request, after)
        state = there.state if there else "InService"
        if state == "Failed":
            return Step("replace", *_same(step, "it is Failed"), long=True)
        if state != "InService":
            return Step("update", *_same(step, f"it is {state}"), long=True)
        return Step(step.action, *_same(step, step.why), long=True)

    def _scaling(self, last: Step) -> Step | None:
        wanted = scaling.body(self.desired)
        if wanted is None:
            return None
        name = str(wanted["target"]["ResourceId"])
        body = wanted | {"tags": self.desired.lasting_tags}
        there = self.observed.find("scaling", name)
        step = self._compared("scaling", name, body, there, ("target", "policies"))
        action = step.action
        if there is not None and self._changes_type():
            action = "update"  # it is taken away before the endpoint's update, and comes back
        if there is not None and "alarm" in body and not self._wakes(body["alarm"]):
            action = "update"
        return Step(action, "scaling", name, step.why, body, (last.id,))

    def _wakes(self, alarm: Mapping[str, Any]) -> bool:
        there = self.observed.find("alarm", alarm["AlarmName"])
        return there is not None and holds(alarm, there.body)

    def _changes_type(self) -> bool:
        """Whether the update changes the machine type, which an autoscaled variant refuses."""
        return self._there is not None and types_of(self._there.body["config"]) != types_of(
            self.desired.config
        )

    def _capacity(self, endpoint: Step) -> Step:
        """The count, where nothing scales; ``endpoint`` has made it, if it is new."""
        body = {
            "EndpointName": self._name,
            "DesiredWeightsAndCapacities": [
                {"VariantName": VARIANT, "DesiredInstanceCount": self.desired.count}
            ],
        }
        found = desired_count(self._there)
        good = found in (None, self.desired.count)
        why = "as wanted" if good else f"{found} instances, {self.desired.count} wanted"
        action: Action = "noop" if good else "update"
        return Step(action, "capacity", self._name, why, body, (endpoint.id,))

    # --- what is no longer needed -----------------------------------------------------------

    def _retire(self, made: list[Step]) -> list[Step]:
        """Old models, configurations and so on, once the new ones are in use."""
        wanted = {step.id for step in made}
        wake = (scaling.body(self.desired) or {}).get("alarm", {}).get("AlarmName")
        wanted |= {f"alarm/{wake}", f"weights/{self._previous()}"}
        old = [
            resource
            for resource in self.observed.resources
            if resource.id not in wanted and resource.kind != "image"
        ]
        return deletions_of(
            old,
            ORDER,
            why=lambda resource: "no longer used",
            body=lambda resource: {"deployment": self._name},
            after=[step.id for step in made if step.kind in ("endpoint", "component", "scaling")],
        )

    def _previous(self) -> str:
        """The weights before these: kept, so that going back needs no upload."""
        name = f"{self._name}/{self.desired.digest}"
        others = [one for one in self.observed.all("weights") if one.name != name]
        newest = max(others, key=lambda one: (one.body.get("at", ""), one.name), default=None)
        return newest.name if newest else ""


def deletions(name: str, observed: Observed) -> list[Step]:
    """Everything, in an order that the platform accepts."""
    steps = deletions_of(observed.resources, ORDER, body=lambda resource: {"deployment": name})
    hidden = [f"{kind} stays, for it may not be read" for kind in sorted(observed.unread)]
    return [replace(steps[0], note="; ".join(hidden)), *steps[1:]] if steps and hidden else steps


def needed(desired: DesiredState) -> set[str]:
    """Kinds that have to be readable to deploy this; what it has none of is only missed."""
    spec, options = desired.target.spec, desired.options
    scales = scaling.body(desired) is not None
    return {"weights", "model", "config"} | {
        kind
        for kind, wanted in {
            "role": options.role is None,
            "image": images.is_built(options),
            "component": desired.idle,
            "scaling": scales,
            "alarm": bool(desired.alarms) or spec.scale_to_zero,
        }.items()
        if wanted
    }


def types_of(config: Mapping[str, Any]) -> list[str]:
    """Machine types of a configuration's variant, the preferred one first."""
    for variant in (config.get("ProductionVariants") or [])[:1]:
        pools = sorted(variant.get("InstancePools", []), key=lambda one: one.get("Priority", 1))
        return [str(one["InstanceType"]) for one in pools or [variant]]
    return []  # a configuration that is gone, or may not be read


def desired_count(endpoint: Resource | None) -> int | None:
    """Instances that an endpoint is to have; ``None`` while there are none."""
    variants = endpoint.body.get("ProductionVariants") if endpoint else None
    return int(variants[0].get("DesiredInstanceCount", 0)) if variants else None


def _copies(component: Resource) -> int:
    """Copies that a component has or is getting."""
    known = component.body.get("RuntimeConfig", {})
    return max(int(known.get(key) or 0) for key in ("CurrentCopyCount", "DesiredCopyCount"))


def _wrapped(alarm: Resource) -> Resource:
    return Resource(alarm.kind, alarm.name, alarm.state, alarm.tags, {"request": alarm.body})


def _same(step: Step, why: str) -> tuple[str, str, str, Mapping[str, Any], tuple[str, ...]]:
    return step.kind, step.name, why, step.body, step.after
