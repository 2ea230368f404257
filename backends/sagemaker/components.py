"""Inference components: what an endpoint that scales to zero runs its model in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_hub.backends.sagemaker import logs
from llama_hub.backends.sagemaker.errors import failed
from llama_hub.backends.sagemaker.revisions import RevisionActions

STATE = "InferenceComponentStatus"


class ComponentActions(RevisionActions):
    """One component."""

    def make(self) -> None:
        """Create it, or a failed one again, and wait until it serves."""
        if self.step.action == "replace":
            self.remove()
        super().make()
        if self.context.wait:
            self.poll(self._is_ready)

    def _look(self) -> Mapping[str, Any] | None:
        return self.aws.find(
            "sagemaker", "describe_inference_component", InferenceComponentName=self.step.name
        )

    def _is_ready(self) -> bool | None:
        found = self._look() or {}
        state = str(found.get(STATE, "Creating"))
        if state == "Failed":
            reason = str(found.get("FailureReason", ""))
            raise failed(f"start {self.step.id}", reason, self.last_lines())
        return True if state == "InService" else None

    def remove(self) -> None:
        """Delete it with its scaling target, wait for its end, and remove its log."""
        name = self.step.name
        found = self._look()
        if found is None:
            return
        self.optional(
            "its scaling target", lambda: self.scaler.deregister(f"inference-component/{name}")
        )
        if found[STATE] != "Deleting":
            self.settled(self._look, STATE)
            self.aws.find("sagemaker", "delete_inference_component", InferenceComponentName=name)
        self.until_gone(self._look)
        self.remove_log(f"{logs.COMPONENTS}{name}")
