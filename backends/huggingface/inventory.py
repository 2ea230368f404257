"""The inventory of one namespace of Hugging Face: what it holds of ours, as last read."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

from llama_hub.backends.huggingface import bodies, judging
from llama_hub.backends.huggingface.client import Client
from llama_hub.backends.huggingface.storage import read_marker
from llama_hub.deploy.backend import KEPT, TAG_DEPLOYMENT, Observed, Resource
from llama_hub.errors import AccessError, LlamaHubError, NotFoundError


class Inventory:
    """Endpoints and private repositories of ``namespace``, told by tags and markers."""

    def __init__(self, client: Client, namespace: str | None) -> None:
        self.client = client
        self._given = namespace

    @cached_property
    def namespace(self) -> str:
        """The one that was given, as the Hub spells it, else the token's user.

        ``UsageError`` for one that is neither the user nor an organisation of theirs.
        """
        return judging.namespace(self.client.whoami(), self._given)

    def observe(self, name: str) -> Observed:
        """The endpoint and the repositories of deployment ``name``.

        Only the endpoint has to be readable: repositories that are not stand in ``unread``.
        """
        there = self._any_endpoint(name)
        known = (there,) if there else ()
        ours = tuple(one for one in known if _is_ours(one))
        used = [str(one.body["model"]["repository"]) for one in ours]
        unread: dict[str, LlamaHubError] = {}
        mine: list[Resource] = []
        try:
            mine = [one for one in self.repositories(name, used) if one.state != KEPT]
        except AccessError as error:
            unread["repository"] = error
        return Observed((*ours, *mine), () if ours else known, unread)

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

    def repositories(self, name: str = "", used: Iterable[str] = ()) -> Iterator[Resource]:
        """Every private repository with a marker of ours; of deployment ``name``, if given.

        ``used``: repositories that endpoints name; a list may show new ones late.
        """
        made = re.compile(
            rf"{re.escape(self.namespace)}/{bodies.PREFIX}-{re.escape(name) or '.+'}-"
            rf"[0-9a-f]{{{bodies.DIGEST}}}"
        )
        for full in sorted({*self._listed(), *used}):
            content = read_marker(self.client, full) if made.fullmatch(full) else None
            if content is None:
                continue
            found = bodies.repository_resource(full, content)
            if not name or found.tags.get(TAG_DEPLOYMENT) == name:
                yield found

    def _listed(self) -> list[str]:
        def listed(api: Any) -> list[str]:
            found = api.list_models(
                author=self.namespace, search=bodies.PREFIX, token=self.client.token
            )
            return [one.id for one in found]

        return self.client.hub(f"the repositories of {self.namespace}", listed)

    def orphans(self) -> Iterator[Resource]:
        """Marked repositories that no endpoint is made from, also where the deployment lives on."""
        used = {str(one.body["model"]["repository"]) for one in self.endpoints()}
        for one in self.repositories(used=used):
            if one.name not in used and not self._is_used(one):
                # Who removes what is left over has said so: nothing is kept then.
                yield dataclasses.replace(one, body={**one.body, "keep": False})

    def _is_used(self, repository: Resource) -> bool:
        """Whether the deployment's endpoint uses it although the list does not show that yet."""
        there = self.endpoint(str(repository.tags.get(TAG_DEPLOYMENT) or repository.name))
        return there is not None and there.body["model"]["repository"] == repository.name


def _is_ours(endpoint: Resource) -> bool:
    return endpoint.tags.get(TAG_DEPLOYMENT) == endpoint.name
