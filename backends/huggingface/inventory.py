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
        endpoint = self.endpoint(name)
        mine = [one for one in self.repositories() if one.tags.get(TAG_DEPLOYMENT) == name]
        return Observed(tuple([endpoint] if endpoint else []) + tuple(mine))

    def endpoint(self, name: str) -> Resource | None:
        """The endpoint of deployment ``name``; ``None`` if absent or somebody else's."""
        try:
            found = bodies.endpoint_resource(self.client.endpoint(self.namespace, name))
        except NotFoundError:
            return None
        return found if found.tags.get(TAG_DEPLOYMENT) == name else None

    def endpoints(self) -> Iterator[Resource]:
        """Every endpoint that carries our tags, all pages."""
        for raw in self.client.endpoints(self.namespace):
            found = bodies.endpoint_resource(raw)
            if found.tags.get(TAG_DEPLOYMENT) == found.name:
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
