"""Orphans: what bills or lies about although no deployment uses it. Only reads.

A kind that may not be read hides none of the others: what was found comes first, then the error
that says what could not be asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from llama_hub.backends.sagemaker.bodies import ROLE_PATH, ROOT, marker_prefix
from llama_hub.backends.sagemaker.inventory import KINDS, MADE, Inventory, place_of
from llama_hub.backends.sagemaker.status import config_in_use, is_settled
from llama_hub.deploy.backend import TAG_DEPLOYMENT, Resource
from llama_hub.errors import AccessError


class Orphans:
    """One look at an account and region."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._unread: dict[str, AccessError] = {}  # what could not be asked, and why

    def find(self) -> Iterator[Resource]:
        """All of them; ``AccessError`` at the end if something could not be asked."""
        alive = {one.name: one for one in self._inventory.endpoints()}
        for name in sorted(self._names() - set(alive)):
            observed = self._inventory.observe(name)
            self._unread |= {
                kind: error
                for kind, error in observed.unread.items()
                if isinstance(error, AccessError)
            }
            yield from observed.resources
        for endpoint in alive.values():
            yield from self._surplus(endpoint)
        yield from self._ask("weights", self._lost_uploads)
        for error in self._unread.values():
            kinds = ", ".join(sorted(self._unread))
            raise AccessError(
                f"of {kinds} not all could be asked: {error.message}", hint=error.hint
            )

    def _ask(self, kind: str, look: Callable[[], Iterable[Resource]]) -> list[Resource]:
        try:
            return list(look())
        except AccessError as error:
            self._unread[kind] = error
            return []

    # --- deployments without an endpoint ------------------------------------------------------

    def _names(self) -> set[str]:
        """Names that any resource of ours stands for; cheap to ask, checked by ``observe``."""
        looks: dict[str, Callable[[], Iterable[str]]] = {
            "weights": self._marker_names,
            **{kind: self._made_names(kind) for kind in KINDS},
            "alarm": self._alarm_names,
            "role": self._role_names,
            "image": self._repository_names,
        }
        found: set[str] = set()
        for kind, look in looks.items():
            try:
                found |= set(look())
            except AccessError as error:
                self._unread[kind] = error
        return found

    def _marker_names(self) -> Iterator[str]:
        for key in self._inventory.bucket.keys(marker_prefix()):
            yield place_of(key)[0]

    def _made_names(self, kind: str) -> Callable[[], Iterable[str]]:
        def look() -> Iterator[str]:
            for name in self._inventory.names_of(kind, ""):
                match = MADE.fullmatch(name)
                if match:
                    yield match["name"]

        return look

    def _alarm_names(self) -> Iterator[str]:
        for one in self._inventory.all_alarms(f"{ROOT}/"):
            if TAG_DEPLOYMENT in one.tags:
                yield one.name.split("/")[1]

    def _role_names(self) -> Iterator[str]:
        start, end = f"{ROOT}-", f"-{self._inventory.account.region}"
        roles = self._inventory.aws.pages("iam", "list_roles", "Roles", PathPrefix=ROLE_PATH)
        for one in roles:
            name = str(one["RoleName"]).removesuffix("-build")
            if name.endswith(end):
                yield name[len(start) : -len(end)]

    def _repository_names(self) -> Iterator[str]:
        pages = self._inventory.aws.pages("ecr", "describe_repositories", "repositories")
        for one in pages:
            name = str(one["repositoryName"])
            if name.startswith(f"{ROOT}/"):
                yield name.partition("/")[2]

    # --- below an endpoint that works -----------------------------------------------------------

    def _surplus(self, endpoint: Resource) -> Iterator[Resource]:
        """Models, configurations and components of revisions that it no longer serves.

        None is surplus while something changes: an update may be about to use it.
        """
        if not is_settled(endpoint):
            return
        observed = self._inventory.observe(endpoint.name)
        if {"config", "model", "component"} & set(observed.unread):
            self._unread |= {
                kind: error
                for kind, error in observed.unread.items()
                if isinstance(error, AccessError)
            }
            return
        config, components = config_in_use(endpoint), observed.all("component")
        if any(one.state not in ("InService", "Failed") for one in components):
            return
        serving = [one for one in components if one.state == "InService"]
        newest = max(serving, key=lambda one: str(one.body.get("CreationTime")), default=None)
        yield from (one for one in components if newest and one is not newest)
        yield from (one for one in observed.all("config") if one.name != config)
        used = _models_of(endpoint, [newest] if newest else list(components))
        yield from (one for one in observed.all("model") if one.name not in used)

    # --- weights --------------------------------------------------------------------------------

    def _lost_uploads(self) -> Iterator[Resource]:
        """Weights without a marker: a delete that was cut off."""
        start, bucket = f"{ROOT}/models/", self._inventory.bucket
        uploads = [str(one["Key"]) for one in bucket.uploads(start)]
        keys = [*bucket.keys(start), *uploads]
        marked = {place_of(key)[1] for key in bucket.keys(marker_prefix())}
        for digest in sorted({key.removeprefix(start).partition("/")[0] for key in keys} - marked):
            yield Resource("weights", f"-/{digest}", "unmarked", {}, {})
        if not marked and self._has_empty_bucket():
            yield Resource("weights", "-/none", "empty bucket", {}, {})

    def _has_empty_bucket(self) -> bool:
        """Whether the bucket is one that we made, and empty."""
        inventory = self._inventory
        name = inventory.account.bucket
        there = inventory.aws.find("s3", "head_bucket", Bucket=name) is not None
        return there and not inventory.bucket.keys("") and inventory.container().is_ours()


def _models_of(endpoint: Resource, components: Iterable[Resource]) -> set[str]:
    variants = endpoint.body["config"].get("ProductionVariants") or []
    models = {str(one.get("ModelName")) for one in variants}
    return models | {str(one.body.get("Specification", {}).get("ModelName")) for one in components}
