"""What the loopback Resource Manager remembers, and what all of its parts need."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.support import azure_rules
from tests.support.azure_blob import Blobs
from tests.support.azure_refusals import refusal
from tests.support.azure_roles import OWNER, Grant, Permissions
from tests.support.azure_wire import Reply, Request

ML = "Microsoft.MachineLearningServices"


class Service(Protocol):
    """What answers behind a scoring URL."""

    url: str

    def close(self) -> None:
        """Stop it."""


Launch = Callable[[Path, dict[str, str]], Service]  # model folder, environment → service


@dataclass
class Operation:
    """Something that takes a while; ``finish`` returns why it failed, if it did."""

    kind: str  # oe (endpoint) or od (deployment)
    polls: int
    finish: Callable[[], dict[str, str] | None]
    status: str = "InProgress"
    error: dict[str, str] | None = None

    def look(self) -> None:
        """One look from outside brings it one step on."""
        if self.status == "InProgress":
            self.polls -= 1
            if self.polls < 0:
                self.error = self.finish()
                self.status = "Failed" if self.error else "Succeeded"


@dataclass
class Online:
    """An endpoint or a deployment with the operation that works on it."""

    body: dict[str, Any]
    system: dict[str, str]
    state: str = "Creating"
    operation: Operation | None = None
    services: list[Service] = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    """Where a workspace is."""

    subscription: str
    group: str
    workspace: str
    region: str
    account: str  # of its storage


class State:
    """One workspace; tests look at it and change it."""

    def __init__(
        self, place: Place, blobs: Blobs, mounts: Path, problems: list[str], names: set[str]
    ) -> None:
        """``names``: of the endpoints that other workspaces of the region have."""
        self.place, self.blobs, self.mounts, self.problems = place, blobs, mounts, problems
        self.region, self.subscription = place.region, place.subscription
        self.group, self.workspace = place.group, place.workspace
        self.names_elsewhere = names
        self.root = (
            f"/subscriptions/{self.subscription}/resourceGroups/{self.group}"
            f"/providers/{ML}/workspaces/{self.workspace}"
        )
        self.storage_id = (
            f"/subscriptions/{self.subscription}/resourceGroups/{self.group}"
            f"/providers/Microsoft.Storage/storageAccounts/{blobs.account}"
        )
        self.operations: dict[str, Operation] = {}
        self._lock = threading.RLock()
        self.launch: Launch | None = None
        self.deployments: dict[tuple[str, str], Online] = {}
        self.reset()

    def reset(self) -> None:
        """As a new workspace is."""
        for online in self.deployments.values():
            for service in online.services:
                service.close()
        self.endpoint_key = "an-endpoint-key-that-nobody-may-print"
        self.polls = 1
        self.page = 2
        self.providers = dict.fromkeys(
            (ML, "Microsoft.Insights", "Microsoft.Storage"), "Registered"
        )
        self.permissions = Permissions([Grant(OWNER, f"/subscriptions/{self.subscription}")])
        self.quota = dict(azure_rules.QUOTA)  # family → cores
        self.total_quota: int | None = 500  # cores of all families; None: the region states none
        self.used_elsewhere: Counter[str] = Counter()  # cores, by family, of other workspaces
        self.identities: dict[str, set[str]] = {}  # user-assigned identity → its roles
        self.registry = "llamahubregistry"
        self.registry_is_private = False  # then ACR Tasks cannot reach it
        self.image_build_compute: str | None = None
        self.tasks_permitted = True  # false on free subscriptions
        self.endpoints: dict[str, Online] = {}
        self.deployments = {}
        self.assets: dict[tuple[str, str, str], dict[str, Any]] = {}  # kind, name, version
        self.autoscale: dict[str, dict[str, Any]] = {}
        self.failures: list[tuple[str, str]] = []  # code and message of the next deployments
        self.image_polls = 3  # further looks while an image is built for the first time
        self.images: set[str] = set()  # environments whose image is built
        self.logs = {"StorageInitializer": "mounting model\n", "InferenceServer": "started\n"}
        self.mirrored: Counter[str] = Counter()
        self.served: Counter[str] = Counter()  # requests answered, by deployment
        self.listing_lag = 0  # lists of a kind that do not show a new thing yet
        self._unlisted: Counter[str] = Counter()  # id → lists that it is still missing from
        self.operations.clear()
        self._clock = 0

    @property
    def registry_id(self) -> str:
        """Resource id of the workspace's container registry."""
        return (
            f"/subscriptions/{self.subscription}/resourceGroups/{self.group}"
            f"/providers/Microsoft.ContainerRegistry/registries/{self.registry}"
        )

    def _created(self) -> dict[str, str]:
        """``systemData`` of something new: a second later each time."""
        self._clock += 1
        at = f"2026-11-23T08:{self._clock // 60:02}:{self._clock % 60:02}.0000000Z"
        who = {"createdBy": "somebody", "createdByType": "User", "createdAt": at}
        return who | {"lastModifiedAt": at, "lastModifiedBy": "somebody"}

    def _start(self, kind: str, polls: int, finish: Callable[[], dict[str, str] | None]) -> str:
        name = f"{kind}:{uuid.uuid4()}:{uuid.uuid4()}"
        self.operations[name] = Operation(kind, polls, finish)
        return name

    def _accepted(self, name: str, status: int, body: dict[str, Any] | None) -> Reply:
        at = f"https://management.azure.com/subscriptions/{self.subscription}/providers/{ML}"
        url = f"{at}/locations/{self.region}/mfeOperationsStatus/{name}?api-version=2023-04-01"
        headers = {"Azure-AsyncOperation": url, "x-ms-async-operation-timeout": "PT1H"}
        if status == 202:
            headers["Location"] = url
        return Reply(status, body, headers)

    def _busy(self, online: Online | None, what: str) -> Reply | None:
        if online is None or online.operation is None or online.operation.status != "InProgress":
            return None
        return refusal("active operation", name=what)

    def _listed(self, shown: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Less what is so new that lists do not have it yet."""
        visible = []
        for document in shown:
            id_ = str(document["id"]).lower()
            if self._unlisted[id_] > 0:
                self._unlisted[id_] -= 1
            else:
                visible.append(document)
        return visible

    def _is_new(self, id_: str) -> None:
        self._unlisted[id_.lower()] = self.listing_lag

    def _page(self, request: Request, shown: list[dict[str, Any]]) -> Reply:
        start = int(request.query.get("$skip", "0"))
        shown = self._listed(shown) if start == 0 else shown
        body: dict[str, Any] = {"value": shown[start : start + self.page]}
        if start + self.page < len(shown):
            version = request.query.get("api-version", "")
            body["nextLink"] = (
                f"https://management.azure.com{request.path}"
                f"?api-version={version}&$skip={start + self.page}"
            )
        return Reply(200, body)

    def _id(self, kind: str, name: str) -> dict[str, Any]:
        at = f"{self.root}/{kind}/{name}"
        return {"id": at, "name": name, "type": f"{ML}/workspaces/{kind}"}

    def _version_of(self, id_: str) -> dict[str, Any]:
        kind, name, _, version = id_.split("/")[-4:]
        return self.assets[kind, name, version]

    def _prefix(self, properties: dict[str, Any]) -> str:
        uri = self._version_of(properties["model"])["properties"]["modelUri"]
        return str(uri).partition("/paths/")[2].rstrip("/") + "/"

    def _scoring_path(self, deployment: Online) -> str:
        environment = self._version_of(deployment.body["properties"]["environmentId"])
        route = environment["properties"]["inferenceConfig"]["scoringRoute"]
        return str(route["path"])

    def _check_schema(self, request: Request, resource: str, name: str) -> None:
        version = request.query["api-version"]
        self.problems += azure_rules.schema_problems(version, resource, name, request.json)
