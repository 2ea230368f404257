"""What one namespace of Hugging Face holds of ours, as last read."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from llama_hub.backends.huggingface import bodies
from llama_hub.backends.huggingface.client import Client
from llama_hub.backends.huggingface.storage import read_marker
from llama_hub.deploy.backend import TAG_DEPLOYMENT, Observed, Resource
from llama_hub.errors import NotFoundError


class Inventory:
    """Endpoints and private repositories of ``namespace``, told by tags and markers."""

    def __init__(self, client: Client, namespace: str | None) -> None:
        self.client = client
        self._given = namespace

    @cached_property
    def namespace(self) -> str:
        """The one that was given, else the token's user."""
        return self._given or str(self.client.whoami()["name"])

    def observe(self, name: str) -> Observed:
        """The endpoint and the repositories of deployment ``name``."""
        there = self._any_endpoint(name)
        known = (there,) if there else ()
        ours = tuple(one for one in known if _is_ours(one))
        mine = [one for one in self.repositories() if one.tags.get(TAG_DEPLOYMENT) == name]
        return Observed((*ours, *mine), () if ours else known)

    def endpoint(self, name: str) -> Resource | None:
        """The endpoint of deployment ``name``; ``None`` if absent or somebody else's."""
        there = self._any_endpoint(name)
        return there if there and _is_ours(there) else None

    def _any_endpoint(self, name: str) -> Resource | None:
        try:
            return bodies.endpoint_resource(self.client.endpoint(self.namespace, name))
        except NotFoundError:
            return None

    def endpoints(self) -> Iterator[Resource]:
        """Every endpoint that carries our tags, all pages."""
        for raw in self.client.endpoints(self.namespace):
            found = bodies.endpoint_resource(raw)
            if _is_ours(found):
                yield found

    def repositories(self) -> Iterator[Resource]:
        """Every private repository with a marker of ours."""
        for name in self._candidates():
            content = read_marker(self.client, name)
            if content is not None:
                yield bodies.repository_resource(name, content)

    def _candidates(self) -> list[str]:
        prefix = f"{self.namespace}/{bodies.PREFIX}-"

        def listed(api: Any) -> list[str]:
            found = api.list_models(
                author=self.namespace, search=bodies.PREFIX, token=self.client.token
            )
            return [one.id for one in found if one.id.startswith(prefix)]

        return self.client.hub(f"the repositories of {self.namespace}", listed)

    def orphans(self) -> Iterator[Resource]:
        """Marked repositories whose deployment has no endpoint."""
        alive = {one.name for one in self.endpoints()}
        for one in self.repositories():
            if one.tags.get(TAG_DEPLOYMENT) not in alive:
                yield one


def _is_ours(endpoint: Resource) -> bool:
    return endpoint.tags.get(TAG_DEPLOYMENT) == endpoint.name
