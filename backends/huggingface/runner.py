"""How each planned step is done, and done again after a crash."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from llama_hub.backends.huggingface import bodies, handler
from llama_hub.backends.huggingface.client import Client
from llama_hub.backends.huggingface.inventory import Inventory
from llama_hub.backends.huggingface.options import Options, read
from llama_hub.backends.huggingface.status import FAILED, UP
from llama_hub.backends.huggingface.storage import Upload, check_weights, read_marker, tree
from llama_hub.deploy.backend import Context, Step, Target
from llama_hub.deploy.client import get
from llama_hub.deploy.waiting import until_gone, wait_for
from llama_hub.errors import LlamaHubError, NotFoundError, ProvisioningError, UsageError

POLL = 5.0  # seconds between two looks at an endpoint
LAST_LINES = 20
PASSWORD = "LLAMA_HUB_REGISTRY_PASSWORD"


def extra_files(options: Options) -> dict[str, bytes]:
    """What goes into the repository beside the weights."""
    return handler.files() if options.run == "handler" else {}


class StepRunner:
    """One step."""

    def __init__(
        self, inventory: Inventory, step: Step, context: Context, sleep: Callable[[float], None]
    ) -> None:
        self._inventory = inventory
        self._client: Client = inventory.client
        self._step = step
        self._context = context
        self._sleep = sleep

    def run(self) -> Mapping[str, Any]:
        """Do it; facts for the journal."""
        kind, action = self._step.kind, self._step.action
        if kind == "repository":
            return self._release() if action == "delete" else self._upload()
        if action == "delete":
            return self._delete()
        return self._endpoint()

    @property
    def _target(self) -> Target:
        if self._context.target is None:
            raise ProvisioningError(f"{self._step.id} cannot be done without a target")
        return self._context.target

    # --- repository -----------------------------------------------------------------------

    def _upload(self) -> Mapping[str, Any]:
        options = read(self._target.spec)
        upload = Upload(
            self._client, self._step.name, self._target.artifact, self._context.progress
        )
        commit = upload.run(self._step.body["marker"], extra_files(options))
        return {"repository": self._step.name, "commit": commit}

    def _release(self) -> Mapping[str, Any]:
        """Delete the repository; one that is kept only loses its marker."""
        name, token = self._step.name, self._client.token
        marker = self._marker(name)
        if marker is not None and marker.get("keep"):
            self._client.hub(name, lambda api: api.delete_file(bodies.MARKER, name, token=token))
            return {"repository": name, "kept": True}
        if not name.partition("/")[2].startswith(f"{bodies.PREFIX}-"):
            raise ProvisioningError(f"{name} is not a repository that llama-hub made")
        self._client.hub(name, lambda api: api.delete_repo(name, missing_ok=True, token=token))
        return {"repository": name, "kept": False}

    def _marker(self, name: str) -> dict[str, Any] | None:
        try:
            return read_marker(self._client, name)
        except LlamaHubError:
            return None

    # --- endpoint -------------------------------------------------------------------------

    def _endpoint(self) -> Mapping[str, Any]:
        options = read(self._target.spec)
        if options.gated_repository:
            self._check_gated(self._step.body["model"])
        body = bodies.with_secrets(
            self._step.body, _secret_values(options), os.environ.get(PASSWORD)
        )
        name = self._step.name
        if self._step.action == "replace":
            self._delete()
        there = self._inventory.endpoint(name)
        if there is None:
            self._client.create(self._inventory.namespace, body)
        else:
            self._change(body, there.state)
        if self._context.wait:
            self._wait(name)
        return {"endpoint": name}

    def _change(self, body: Mapping[str, Any], state: str) -> None:
        name = self._step.name
        sent = {key: value for key, value in body.items() if key != "name"}
        self._client.update(self._inventory.namespace, name, sent)
        if state == "paused":
            self._client.act(self._inventory.namespace, name, "resume")

    def _check_gated(self, model: Mapping[str, Any]) -> None:
        repository, revision = model["repository"], model["revision"]
        stored = tree(self._client, repository, revision)
        check_weights(stored, self._target.artifact.manifest, repository)

    def _wait(self, name: str) -> None:
        """Until it runs and its service is healthy; a failure is told with the last log lines."""
        task = f"endpoint {name}"
        self._context.progress.start(task)
        seen: list[str] = []

        def probe() -> bool | None:
            found = self._client.endpoint(self._inventory.namespace, name)
            state = found["status"]["state"]
            if seen[-1:] != [state]:
                self._context.progress.say(f"{task}: {state}")
                seen.append(state)
            if state in FAILED:
                raise self._failure(name, found["status"])
            return True if state in UP and self._healthy(found, state) else None

        wait_for(
            probe,
            task,
            timeout=self._context.timeout,
            every=POLL,
            sleep=self._sleep,
            why=lambda: f"it is {seen[-1] if seen else 'unknown'}",
        )
        self._context.progress.finish(task, "running")

    def _healthy(self, found: Mapping[str, Any], state: str) -> bool:
        if state == "scaledToZero" or "custom" not in found["model"]["image"]:
            return True
        from llama_hub.deploy.backend import Endpoint

        headers = {"Authorization": f"Bearer {self._client.token}"}
        try:
            get(Endpoint(found["status"]["url"], headers), bodies.HEALTH)
        except (LlamaHubError, OSError):
            return False
        return True

    def _failure(self, name: str, status: Mapping[str, Any]) -> ProvisioningError:
        try:
            lines = self._client.logs(self._inventory.namespace, name, LAST_LINES)
        except LlamaHubError:
            lines = []
        told = str(status.get("message") or status["state"])
        last = "\n  ".join(lines)
        return ProvisioningError(
            f"the endpoint {name} is {status['state']}: {told}" + (f"\n  {last}" if last else ""),
            hint=f"llama-hub logs {name}",
        )

    def _delete(self) -> Mapping[str, Any]:
        """Delete and wait until it is gone; absent is success."""
        name, namespace = self._step.name, self._inventory.namespace
        if self._inventory.endpoint(name) is None:
            return {"endpoint": name}
        try:
            self._client.delete(namespace, name)
        except NotFoundError:
            return {"endpoint": name}

        until_gone(
            lambda: self._inventory.endpoint(name),
            f"endpoint {name}",
            timeout=self._context.timeout,
            sleep=self._sleep,
        )
        return {"endpoint": name}


def _secret_values(options: Options) -> dict[str, str]:
    missing = [name for name in options.secrets if not os.environ.get(name)]
    if missing:
        raise UsageError(
            f"the secrets {', '.join(missing)} are not set on this machine",
            hint="export them, then run the same command again",
        )
    return {name: os.environ[name] for name in options.secrets}
