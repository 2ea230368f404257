"""The runner of one planned step: doing it again after a crash is harmless."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from llama_hub.backends.huggingface import bodies, handler
from llama_hub.backends.huggingface.client import Client
from llama_hub.backends.huggingface.inventory import Inventory
from llama_hub.backends.huggingface.options import Options, read
from llama_hub.backends.huggingface.scopes import INFER, TOKENS
from llama_hub.backends.huggingface.status import FAILED, UP
from llama_hub.backends.huggingface.storage import (
    Upload,
    check_weights,
    read_marker,
    tree,
    write_marker,
)
from llama_hub.deploy.backend import KEPT, Context, Endpoint, Resource, Step, Target
from llama_hub.deploy.client import check
from llama_hub.deploy.waiting import until_gone, wait_for
from llama_hub.errors import (
    AccessError,
    LlamaHubError,
    NotFoundError,
    ProvisioningError,
    UnconfirmedError,
    UsageError,
)

POLL = 5.0  # seconds between two looks at an endpoint
LAST_LINES = 20
PASSWORD = "LLAMA_HUB_REGISTRY_PASSWORD"


def extra_files(options: Options) -> dict[str, bytes]:
    """What goes into the repository beside the weights; ``options.run`` is decided."""
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
            return self._release() if "keep" in self._step.body else self._upload()
        if action == "delete":
            return self._delete()
        return self._endpoint()

    @property
    def _target(self) -> Target:
        if self._context.target is None:
            raise ProvisioningError(f"{self._step.id} cannot be done without a target")
        return self._context.target

    # --- repository -----------------------------------------------------------------------

    @property
    def _options(self) -> Options:
        return read(self._target.spec).on(self._target.offer)

    def _upload(self) -> Mapping[str, Any]:
        upload = Upload(
            self._client, self._step.name, self._target.artifact, self._context.progress
        )
        commit = upload.run(self._step.body["marker"], extra_files(self._options))
        return {"repository": self._step.name, "commit": commit}

    def _release(self) -> Mapping[str, Any]:
        """Delete the repository; one that is to be kept is marked so, and ``gc`` lists it."""
        name, token = self._step.name, self._client.token
        marker = self._marker(name)
        keep = bool(self._step.body.get("keep"))
        if keep and marker is not None and marker.get("keep"):
            if marker.get("state") != KEPT:
                write_marker(self._client, name, {**marker, "state": KEPT})
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
        options = self._options
        if options.gated_repository:
            check_gated(self._client, self._step.body["model"], self._target)
        body = bodies.with_secrets(
            self._pinned(), secret_values(options, self._client), os.environ.get(PASSWORD)
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

    def _pinned(self) -> dict[str, Any]:
        """The body with the commit that the upload made, where the plan could not know it."""
        model = self._step.body["model"]
        facts = self._context.facts.get(f"repository/{model['repository']}", {})
        commit = model["revision"] or str(facts.get("commit") or self._stored_commit())
        return {**self._step.body, "model": {**model, "revision": commit}}

    def _stored_commit(self) -> str:
        """What the marker says: the upload was done by a run that was cut off."""
        marker = self._marker(self._step.body["model"]["repository"]) or {}
        return str(marker.get("commit") or "")

    def _change(self, body: Mapping[str, Any], state: str) -> None:
        name = self._step.name
        sent = {key: value for key, value in body.items() if key != "name"}
        self._client.update(self._inventory.namespace, name, sent)
        if state == "paused":
            self._client.act(self._inventory.namespace, name, "resume")

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
        """Whether the service itself answers, where the platform does not look at that."""
        import httpx

        url = found["status"].get("url")
        if state == "scaledToZero":
            return True
        if not url:
            return False
        headers = {"Authorization": f"Bearer {self._client.token}"}
        try:
            check(Endpoint(url, headers), str(found.get("healthRoute") or bodies.HEALTH))
        except AccessError as error:
            raise UnconfirmedError(
                f"the endpoint {found['name']} runs, and refuses this token: {error.message}",
                hint=f"give the token {INFER} ('Make calls to your Inference Endpoints'): {TOKENS}",
            ) from error
        except (LlamaHubError, OSError, httpx.HTTPError):
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


def check_gated(client: Client, model: Mapping[str, Any], target: Target) -> None:
    """``IntegrityError`` unless the gated repository holds the manifest's weights."""
    repository, revision = model["repository"], model["revision"]
    check_weights(tree(client, repository, revision), target.artifact.manifest, repository)


def secret_values(options: Options, client: Client) -> dict[str, str]:
    """Values of the container's secrets; ``UsageError`` names those that are not set here.

    A gated repository is read with the token that deploys, unless the environment has another.
    """
    found = {name: os.environ.get(name) or "" for name in bodies.secret_names(options)}
    if options.gated_repository and bodies.HUB_TOKEN not in options.secrets:
        found[bodies.HUB_TOKEN] = client.token
    missing = [name for name, value in found.items() if not value]
    if options.registry_username and not os.environ.get(PASSWORD):
        missing.append(PASSWORD)
    if missing:
        raise UsageError(
            f"the secrets {', '.join(missing)} are not set on this machine",
            hint="export them, then run the same command again",
        )
    return found


def secrets_digest(name: str, options: Options, there: Resource | None) -> str:
    """Of the values that are set here by name; what is there already where they are not set.

    The token that a gated repository is read with is everybody's own, so it does not count.
    """
    names = [*options.secrets, *([PASSWORD] if options.registry_username else [])]
    found = {name: os.environ[name] for name in names if os.environ.get(name)}
    if len(found) < len(names):
        return there.tags.get(bodies.TAG_SECRETS, "") if there else ""
    return bodies.secrets_digest(name, found)
