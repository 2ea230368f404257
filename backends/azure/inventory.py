"""The inventory of a workspace: what it holds of ours, read anew each time; the cloud is the truth.

Documents are kept as the service returns them, with ``createdAt`` lifted to the
top; tags are in our own spelling.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llama_hub.backends.azure import images
from llama_hub.backends.azure.bodies import (
    CONTEXT_ROOT,
    KEEP_PREVIOUS,
    MODELS_ROOT,
    Workspace,
    weights_name,
    weights_prefix,
)
from llama_hub.backends.azure.client import Client
from llama_hub.backends.azure.errors import NotRegisteredError
from llama_hub.backends.azure.storage import BlobInfo, Container
from llama_hub.backends.azure.tags import from_cloud
from llama_hub.deploy.backend import TAG_DEPLOYMENT, Observed, Proof, Resource
from llama_hub.deploy.waiting import until_settled
from llama_hub.errors import AccessError, LlamaHubError, NotFoundError, ProvisioningError
from llama_hub.hub.manifest import MANIFEST_NAME, Manifest

if TYPE_CHECKING:
    from llama_hub.backends.azure.options import Options

MOST_CONTEXT = 1_000_000  # bytes of a build context
MOVING = ("Creating", "Updating", "Scaling", "Deleting")  # states that end by themselves


class Inventory:
    """The reading side of the backend."""

    def __init__(self, client: Client, sleep: Callable[[float], None] = time.sleep) -> None:
        self.client = client
        self.sleep = sleep

    @cached_property
    def workspace(self) -> Workspace:
        """Region and storage of the workspace; ``NotFoundError`` if it is not there."""
        scope = self.client.scope
        workspace, store = self.client.workspace(), self.client.datastore()
        if workspace is None or store is None:
            raise NotFoundError(
                f"there is no workspace {scope.workspace} in resource group {scope.group}",
                hint="llama-hub doctor azure",
            )
        host = f"{store.account_name}.blob.{store.endpoint or 'core.windows.net'}"
        return Workspace(scope, workspace.location, f"https://{host}", store.container_name)

    @cached_property
    def container(self) -> Container:
        """The blob container of the workspace's own datastore."""
        workspace, credential = self.workspace, self.client.credential
        return Container(workspace.account_url, workspace.container, credential, sleep=self.sleep)

    def build_context(self, options: Options) -> dict[str, bytes]:
        """Path → content of what Azure ML builds the image from."""
        return images.vllm_context(options) if options.run == "vllm" else self._own_context

    @cached_property
    def _own_context(self) -> dict[str, bytes]:
        from llama_hub.deploy import image

        made = image.context()
        size = sum(len(content) for content in made.values())
        if size > MOST_CONTEXT:
            raise ProvisioningError(
                f"the build context has {size} bytes; Azure ML takes {MOST_CONTEXT}",
                hint="give a ready image: --set options.image=<registry>/<name>:<tag>",
            )
        return made

    # --- one deployment -----------------------------------------------------------------

    def observe(self, name: str) -> Observed:
        """All that carries the tag of deployment ``name``, and the weights its models refer to.

        Only the endpoint has to be readable: a kind that is not stands in ``unread``.
        """
        there = self._any_endpoint(name)
        if there is None:
            self._must_exist()
        if there and not _is_ours(there):
            return Observed(foreign=(there,))
        unread: dict[str, LlamaHubError] = {}

        def read(kind: str, look: Callable[[], Iterable[Resource]]) -> list[Resource]:
            try:
                return list(look())
            except (AccessError, NotRegisteredError) as error:
                unread[kind] = error
                return []

        deployments = read("deployment", lambda: self.deployments(name)) if there else []
        models = read("model", lambda: self.assets("model", name))
        found = [*([there] if there else []), *deployments, *models]
        found += read("environment", lambda: self.assets("environment", name))
        found += read("autoscale", lambda: self._autoscales_of(name))
        found += read("weights", lambda: self._weights(models))
        return Observed(tuple(found), unread=unread)

    def _must_exist(self) -> None:
        """``NotFoundError`` if the workspace is not there; what may not be read says nothing."""
        with suppress(AccessError):
            _ = self.workspace

    def _autoscales_of(self, name: str) -> list[Resource]:
        return [one for one in self.autoscales() if one.tags.get(TAG_DEPLOYMENT) == name]

    def endpoint(self, name: str) -> Resource | None:
        """The endpoint of deployment ``name``; ``None`` if absent or somebody else's."""
        there = self._any_endpoint(name)
        return there if there and _is_ours(there) else None

    def _any_endpoint(self, name: str) -> Resource | None:
        document = self.client.get(f"{self.client.scope.id}/onlineEndpoints/{name}")
        return _online("endpoint", name, document) if document else None

    def endpoints(self) -> Iterator[Resource]:
        """Every endpoint that carries our tag; ``NotFoundError`` if there is no workspace."""
        self._must_exist()
        for document in self.client.pages(f"{self.client.scope.id}/onlineEndpoints"):
            found = _online("endpoint", document["name"], document)
            if _is_ours(found):
                yield found

    def deployments(self, endpoint: str) -> list[Resource]:
        """Deployments of an endpoint, ours or not: the endpoint is ours."""
        path = f"{self.client.scope.id}/onlineEndpoints/{endpoint}/deployments"
        return [
            _online("deployment", f"{endpoint}/{document['name']}", document)
            for document in self.client.pages(path)
        ]

    def assets(self, kind: str, name: str) -> list[Resource]:
        """Registered versions of the model or environment ``name`` with our tag."""
        path = f"{self.client.scope.id}/{kind}s/{name}/versions"
        found = [_asset(kind, name, document) for document in self.client.pages(path, "ml")]
        return [one for one in found if one.tags.get(TAG_DEPLOYMENT) == name]

    def autoscales(self) -> Iterator[Resource]:
        """Autoscale settings of the resource group with our tag."""
        path = f"{self.client.scope.group_id}/providers/Microsoft.Insights/autoscalesettings"
        for document in self.client.pages(path, "autoscale"):
            tags = from_cloud(document.get("tags"))
            if TAG_DEPLOYMENT in tags:
                yield Resource("autoscale", document["name"], "Succeeded", tags, document)

    def _weights(self, models: list[Resource]) -> Iterator[Resource]:
        users = {_weights_of(model): model for model in models if _weights_of(model)}
        for name, model in users.items():
            state = self.weights_state(name)
            if state != "absent":
                yield Resource("weights", name, state, model.tags)

    def weights_state(self, name: str) -> str:
        """``complete``, ``partial`` or ``absent``, by what the stored manifest lists."""
        prefix = weights_prefix(name)
        there = {blob.path: blob.size for blob in self.container.listed(prefix)}
        if not there:
            return "absent"
        if MANIFEST_NAME not in there:
            return "partial"
        listed = json.loads(self.container.read(prefix + MANIFEST_NAME))["files"]
        whole = all(there.get(entry["path"]) == entry["size"] for entry in listed)
        return "complete" if whole else "partial"

    # --- states that pass ---------------------------------------------------------------

    def settled(self, path: str, timeout: float, every: float = 5.0) -> dict[str, Any] | None:
        """The document at ``path`` once nobody changes it any more; ``None`` once it is gone."""
        return until_settled(
            lambda: self.client.get(path),
            lambda document: _state(document) in MOVING,
            path.rpartition("/")[2],
            timeout=timeout,
            every=every,
            sleep=self.sleep,
        )

    # --- proofs and orphans ---------------------------------------------------------------

    def proofs(self, observed: Observed, manifest: Manifest) -> list[Proof]:
        """What registry and storage say of ``manifest``."""
        weights = weights_name(manifest.digest)
        models = [one for one in observed.all("model") if _weights_of(one) == weights]
        ids = [str(one.body.get("id", "")).lower() for one in models]
        running = [
            one.name
            for one in observed.all("deployment")
            if str(one.body["properties"].get("model", "")).lower() in ids
        ]
        return [
            Proof("registered model", bool(models), models[0].name if models else "none"),
            Proof("deployment refers to it", bool(running), ", ".join(running) or "none"),
            self._storage_proof(manifest),
        ]

    def _storage_proof(self, manifest: Manifest) -> Proof:
        what = "every file in storage has the size and digests of the manifest"
        try:
            blobs = self.container.listed(weights_prefix(weights_name(manifest.digest)))
        except LlamaHubError as error:
            return Proof(what, False, error.message)
        there = {blob.path: blob for blob in blobs}
        wrong = [entry.path for entry in manifest.files if not _same(entry, there.get(entry.path))]
        if wrong:
            return Proof(what, False, f"not so: {', '.join(wrong)}")
        return Proof(what, True, f"{len(manifest.files)} files, {manifest.bytes} bytes")

    def orphans(self) -> Iterator[Resource]:
        """What outlived its endpoint or revision, and weights and contexts that nothing uses."""
        found = list(self.endpoints())
        for endpoint in found:
            yield from self.surplus(endpoint)
        endpoints = {endpoint.name for endpoint in found}
        models, environments = self._everything("model"), self._everything("environment")
        for one in [*self._readable_autoscales(), *models, *environments]:
            if one.tags[TAG_DEPLOYMENT] not in endpoints:
                yield one
        used = {_weights_of(one) for one in models if one.tags[TAG_DEPLOYMENT] in endpoints}
        for name in sorted(self.container.folders(MODELS_ROOT) - used):
            yield Resource("weights", name, self.weights_state(name))
        owners = {one.tags[TAG_DEPLOYMENT] for one in environments} & endpoints
        for owner in sorted(self.container.folders(CONTEXT_ROOT) - owners):
            yield Resource("context", owner, "unused")

    def _readable_autoscales(self) -> list[Resource]:
        """They cost nothing, so that whoever may not read them misses little."""
        with suppress(AccessError, NotRegisteredError):
            return list(self.autoscales())
        return []

    def surplus(self, endpoint: Resource) -> Iterator[Resource]:
        """Deployments of ours that answer nothing below an endpoint that works: they bill.

        An update that could not be undone leaves one. None is surplus while something changes, and
        the newest of those without traffic is not where the older revision was meant to stay.
        """
        mine = [one for one in self.deployments(endpoint.name) if _is_part(one, endpoint)]
        properties = endpoint.body["properties"]
        busy = {
            name
            for key in ("traffic", "mirrorTraffic")
            for name, share in (properties.get(key) or {}).items()
            if share
        }
        if not busy or any(one.state in MOVING for one in (endpoint, *mine)):
            return
        idle = [one for one in mine if one.name.partition("/")[2] not in busy]
        idle.sort(key=lambda one: str(one.body.get("createdAt", "")))
        keeps = KEEP_PREVIOUS in endpoint.tags
        kept = [one.name for one in idle if one.state == "Succeeded"][-1:] if keeps else []
        yield from (one for one in idle if one.name not in kept)

    def _everything(self, kind: str) -> list[Resource]:
        containers = self.client.pages(f"{self.client.scope.id}/{kind}s", "ml")
        return [found for one in containers for found in self.assets(kind, one["name"])]

    def uses(self, name: str) -> str | None:
        """A registered model that refers to the weights ``name``; ``None`` if none does."""
        for model in self._everything("model"):
            if _weights_of(model) == name:
                return model.name
        return None


def _state(document: Mapping[str, Any]) -> str:
    return str(document.get("properties", {}).get("provisioningState", ""))


def _is_ours(endpoint: Resource) -> bool:
    return endpoint.tags.get(TAG_DEPLOYMENT) == endpoint.name


def _is_part(deployment: Resource, endpoint: Resource) -> bool:
    return deployment.tags.get(TAG_DEPLOYMENT) == endpoint.name


def _online(kind: str, name: str, document: Mapping[str, Any]) -> Resource:
    body = {**document, "createdAt": (document.get("systemData") or {}).get("createdAt", "")}
    return Resource(kind, name, _state(document), from_cloud(document.get("tags")), body)


def _asset(kind: str, name: str, document: Mapping[str, Any]) -> Resource:
    body = {**document, "createdAt": (document.get("systemData") or {}).get("createdAt", "")}
    tags = from_cloud(document["properties"].get("tags"))
    return Resource(kind, f"{name}:{document['name']}", "registered", tags, body)


def _weights_of(model: Resource) -> str:
    uri = str(model.body.get("properties", {}).get("modelUri", ""))
    return uri.rstrip("/").rpartition("/")[2] if f"/{MODELS_ROOT}" in uri else ""


def _same(entry: Any, blob: BlobInfo | None) -> bool:
    return blob is not None and (blob.size, blob.sha256) == (entry.size, entry.sha256)
