"""Actions on resources: what making and removing any of them needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from llama_hub.backends.sagemaker import logs
from llama_hub.backends.sagemaker.inventory import Inventory
from llama_hub.backends.sagemaker.scaler import Scaler, listed
from llama_hub.backends.sagemaker.status import MOVING
from llama_hub.deploy.backend import Context, Step
from llama_hub.deploy.waiting import until_gone, until_settled, wait_for
from llama_hub.errors import AccessError, LlamaHubError

LOOK = 10.0  # seconds between two looks at something that takes minutes
LAST_LINES = 20
ARN_KIND = {
    "model": "model",
    "config": "endpoint-config",
    "component": "inference-component",
    "endpoint": "endpoint",
}


class Actions:
    """One step of a plan, and the means to do it."""

    def __init__(self, inventory: Inventory, step: Step, context: Context) -> None:
        self.inventory, self.step, self.context = inventory, step, context
        self.aws = inventory.aws
        self.scaler = Scaler(inventory.aws)

    @property
    def name(self) -> str:
        """The deployment's."""
        if self.step.action == "delete" and "deployment" in self.step.body:
            return str(self.step.body["deployment"])
        target = self.context.target
        return target.spec.name if target else self.step.name

    def endpoint(self) -> Mapping[str, Any] | None:
        """The endpoint as it is described now."""
        return self.inventory.state(self.name)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Give the step's resource these tags and no others; a write only where they differ."""
        kind = ARN_KIND[self.step.kind]
        arn = self.inventory.account.arn(kind, self.step.name)
        found = self.inventory.tags(kind, self.step.name)
        stale = sorted(set(found) - set(tags))
        if stale:
            self.aws.call("sagemaker", "delete_tags", ResourceArn=arn, TagKeys=stale)
        if any(found.get(key) != value for key, value in tags.items()):
            self.aws.call("sagemaker", "add_tags", ResourceArn=arn, Tags=listed(tags))

    def settled(
        self, look: Callable[[], Mapping[str, Any] | None], key: str
    ) -> Mapping[str, Any] | None:
        """What is there once no change is under way; ``None`` if it is gone by then."""
        return until_settled(
            look,
            lambda shown: shown[key] in MOVING,
            self.step.id,
            timeout=self.context.timeout,
            every=LOOK,
            sleep=self.aws.sleep,
        )

    def until_gone(self, look: Callable[[], Any]) -> None:
        """Wait for the end of what ``look`` shows."""
        until_gone(look, self.step.id, timeout=self.context.timeout, sleep=self.aws.sleep)

    def poll(self, look: Callable[[], bool | None]) -> None:
        """Wait until ``look`` says so, and tell how long it takes."""
        task, progress = self.step.id, self.context.progress
        progress.start(task, unit="s")

        def told() -> bool | None:
            progress.advance(task, int(LOOK))
            return look()

        try:
            wait_for(
                told,
                task,
                timeout=self.context.timeout,
                every=LOOK,
                sleep=self.aws.sleep,
                why=lambda: str((self.endpoint() or {}).get("FailureReason", "")),
            )
        finally:
            progress.finish(task)

    def last_lines(self) -> list[str]:
        """The container's; none where they may not be read."""
        with suppress(LlamaHubError):  # they explain an error that is told in any case
            return logs.last(self.inventory, self.name, LAST_LINES)
        return []

    def optional(self, what: str, do: Callable[[], object]) -> None:
        """Do what the step can do without; where it is not allowed, say what stays."""
        try:
            do()
        except AccessError as error:
            self.context.progress.say(f"{what} stays: {error.message}")

    def remove_log(self, group: str) -> None:
        """A log group, which nobody but the container has made."""
        self.optional(
            f"the log {group}",
            lambda: self.aws.find("logs", "delete_log_group", logGroupName=group),
        )
