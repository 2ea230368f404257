"""What the service refuses in its recorded words, each through the call that meets it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from llama_hub.backends.azure import storage
from llama_hub.backends.azure.backend import AzureBackend
from llama_hub.deploy.backend import Artifact, Context
from llama_hub.errors import (
    AccessError,
    LlamaHubError,
    NotOursError,
    ProvisioningError,
    QuotaError,
    TransientError,
)
from tests.backends.azure.conftest import Driver
from tests.support import azure_rules
from tests.support.azure_plane import Plane
from tests.support.azure_refusals import OURS, REFUSALS, refusal

IDENTITY = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/x/i"


@dataclass
class Case:
    """How to bring a refusal about, and what a person then has to be told."""

    spoil: Callable[[Plane], object]
    kind: type[LlamaHubError]
    said: str
    cure: str
    spec: dict[str, object]


CASES = {
    "quota": Case(
        lambda plane: plane.arm.quota.update({"StandardNCADSA100v4Family": 24}),
        QuotaError,
        "48 more are needed",
        "a limit of 48 cores",
        {"instance": "Standard_NC24ads_A100_v4", "replicas_min": 2, "replicas_max": 2},
    ),
    "regional quota": Case(
        lambda plane: setattr(plane.arm, "total_quota", 7),
        QuotaError,
        "8 more are needed",
        "https://ml.azure.com/quota",
        {},
    ),
    "name taken": Case(
        lambda plane: plane.neighbour.endpoints.update(
            {"support": plane.neighbour.place}  # type: ignore[dict-item]
        ),
        NotOursError,
        "There is already an endpoint with this name",
        "choose another --name",
        {},
    ),
    "no pull": Case(
        lambda plane: plane.arm.identities.clear(),
        AccessError,
        "may not pull the image",
        "AcrPull",
        {"options": {"identity": IDENTITY}},
    ),
    "no blob read": Case(
        lambda plane: plane.arm.identities.update({IDENTITY: {"AcrPull"}}),
        AccessError,
        "may not read the weights",
        "Storage Blob Data Reader",
        {"options": {"identity": IDENTITY}},
    ),
    "tasks": Case(
        lambda plane: setattr(plane.arm, "tasks_permitted", False),
        ProvisioningError,
        "ACR Tasks requests for the registry",
        "--image-build-compute",
        {},
    ),
    "storage firewall": Case(
        lambda plane: setattr(plane.blobs, "firewalled", True),
        AccessError,
        "takes no calls from this network",
        "network-rule add",
        {},
    ),
    "storage role": Case(
        lambda plane: setattr(plane.blobs, "writable", False),
        AccessError,
        "using this permission",
        "Storage Blob Data Contributor",
        {},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_is_told_with_its_cure(
    plane: Plane, drive: Driver, artifact: Artifact, name: str
) -> None:
    case = CASES[name]
    target = drive.target(artifact, **case.spec)
    case.spoil(plane)  # since the plan
    with pytest.raises(case.kind) as error:
        drive.apply(target)
    plane.neighbour.endpoints.clear()
    assert case.said in error.value.message
    assert case.cure in error.value.hint
    assert "The request is invalid" not in error.value.message
    assert not any(online.state == "Succeeded" for online in plane.arm.deployments.values())


def test_a_taken_name_is_noticed_before_anything_is_uploaded(
    plane: Plane, drive: Driver, artifact: Artifact
) -> None:
    """No read shows the names of other workspaces; the endpoint, which is free, is asked first."""
    target = drive.target(artifact)
    plane.neighbour.endpoints["support"] = plane.neighbour.place  # type: ignore[assignment]
    with pytest.raises(NotOursError):
        drive.apply(target)
    plane.neighbour.endpoints.clear()
    assert plane.blobs.blobs == {}


@pytest.mark.parametrize("name", ["active operation", "endpoint moves", "throttled"])
def test_what_passes_is_waited_for(
    plane: Plane, drive: Driver, artifact: Artifact, name: str
) -> None:
    reply = refusal(name, name="support", state="Updating")
    plane.fail(r"PUT .*/deployments/", reply, times=3)
    target = drive.target(artifact)
    drive.apply(target)
    assert {step.action for step in drive.plan(target)} == {"noop"}


def test_a_block_that_was_damaged_on_its_way_is_sent_again(
    plane: Plane, drive: Driver, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "BLOCK", 16384)
    target = drive.target(artifact)
    steps = {step.kind: step for step in drive.plan(target)}
    drive.backend.execute(steps["endpoint"], Context(target))
    plane.blobs.damaged_blocks = 1
    with pytest.raises(TransientError, match="not what was sent"):
        drive.backend.execute(steps["weights"], Context(target))
    drive.apply(target)
    assert {step.action for step in drive.plan(target)} == {"noop"}


def test_new_things_are_listed_late(plane: Plane, drive: Driver, artifact: Artifact) -> None:
    plane.arm.listing_lag = 2
    target = drive.target(artifact, replicas_max=2)
    drive.apply(target)
    seen = [{step.action for step in drive.plan(target)} for _ in range(4)]
    assert seen[-1] == {"noop"}
    assert len(plane.arm.deployments) == len(plane.arm.endpoints) == 1


def test_what_the_service_leaves_out_or_respells_is_no_difference(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact
) -> None:
    """Empty things, defaults, a last slash, durations, ids in small letters, its own variables."""
    drive.apply(drive.target(artifact))
    found = backend.observe("support")
    (deployment,), (model,) = found.all("deployment"), found.all("model")
    shown = deployment.body["properties"]
    assert "AZUREML_MODEL_DIR" in shown["environmentVariables"]
    assert "appInsightsEnabled" not in shown
    assert "egressPublicNetworkAccess" not in shown
    assert not model.body["properties"]["modelUri"].endswith("/")
    plane.forget()
    target = drive.target(artifact)
    assert drive.apply(target) == []
    assert plane.writes() == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("environmentVariables", {"LLAMA_HUB_CONTEXT": "17"}),
        ("requestSettings", {"requestTimeout": "PT5S"}),
        ("egressPublicNetworkAccess", "Disabled"),
    ],
)
def test_what_somebody_has_changed_is_a_difference(
    plane: Plane, drive: Driver, artifact: Artifact, key: str, value: object
) -> None:
    target = drive.target(artifact)
    drive.apply(target)
    (online,) = plane.arm.deployments.values()
    properties = online.body["properties"]
    properties[key] = properties[key] | value if isinstance(value, dict) else value
    assert {step.action for step in drive.plan(target)} != {"noop"}


def test_what_the_plane_shows_is_what_the_published_schemas_describe(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact
) -> None:
    """The schemas are of requests: what only the service writes is taken away before."""
    drive.apply(drive.target(artifact))
    kinds = {
        "endpoint": ("workspaces_onlineEndpoints", "2022-02-01-preview"),
        "deployment": ("workspaces_onlineEndpoints_deployments", "2023-04-01-preview"),
        "model": ("workspaces_models_versions", "2023-08-01-preview"),
        "environment": ("workspaces_environments_versions", "2023-04-01-preview"),
    }
    for kind, (resource, version) in kinds.items():
        (found,) = backend.observe("support").all(kind)
        read_only = ("id", "name", "type", "systemData", "createdAt")
        body = {key: value for key, value in found.body.items() if key not in read_only}
        body["properties"] = {
            key: value
            for key, value in body["properties"].items()
            if key not in ("provisioningState", "scoringUri", "swaggerUri")
        }
        assert azure_rules.schema_problems(version, resource, "x", body) == []


def test_every_refusal_names_its_source() -> None:
    for name, one in REFUSALS.items():
        assert one.source.startswith(("https://", OURS, "recorded")), name
