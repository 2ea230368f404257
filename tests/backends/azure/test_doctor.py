"""``doctor azure``: one line for each thing, each with the command that fixes it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest

from llama_hub.backends.azure import doctor
from llama_hub.backends.azure.backend import AzureBackend
from llama_hub.deploy.backend import Check
from llama_hub.deploy.spec import DeploymentSpec
from tests.support.azure_plane import Plane
from tests.support.azure_roles import DATA_SCIENTIST, ML, Role

READER_AND_MORE = Role(("*/read", "*/delete", "*/action", "Microsoft.Insights/*"))
NO_SCORE = Role(("*",), (f"{ML}/workspaces/onlineEndpoints/score/action",))


def checks(backend: AzureBackend) -> dict[str, Check]:
    """By name."""
    return {check.name: check for check in backend.check()}


def test_all_is_well(plane: Plane, backend: AzureBackend) -> None:
    found = checks(backend)
    assert all(check.ok and not check.hint for check in found.values()), found
    assert list(found) == [
        "azure-ai-ml",
        "azure-identity",
        "credential",
        "subscription",
        "provider Microsoft.MachineLearningServices",
        "provider Microsoft.Insights",
        "workspace",
        "role",
        "storage role",
        "asking",
        "removing",
        "autoscaling",
        "registry",
        "region",
        "GPU quota",
    ]
    assert "2 x Standard_NC24ads_A100_v4" in found["GPU quota"].detail
    assert "1 x Standard_NC4as_T4_v3" in found["GPU quota"].detail  # 8 cores: one and its reserve
    assert plane.writes() == []


@pytest.mark.parametrize(
    ("spoil", "name", "cure"),
    [
        (lambda plane: setattr(plane, "login_refused", True), "credential", "az login"),
        (
            lambda plane: plane.arm.providers.pop("Microsoft.MachineLearningServices"),
            "provider Microsoft.MachineLearningServices",
            "az provider register --namespace Microsoft.MachineLearningServices",
        ),
        (
            lambda plane: plane.arm.permissions.set(
                (READER_AND_MORE, f"/subscriptions/{plane.arm.subscription}")
            ),
            "role",
            "az role assignment",
        ),
        (
            lambda plane: plane.arm.permissions.set(
                (NO_SCORE, f"/subscriptions/{plane.arm.subscription}")
            ),
            "asking",
            "az role assignment",
        ),
        (lambda plane: setattr(plane.arm, "registry_is_private", True), "registry", "compute"),
        (
            lambda plane: setattr(plane.blobs, "writable", False),
            "storage role",
            "Storage Blob Data Contributor",
        ),
        (lambda plane: plane.arm.quota.clear(), "GPU quota", "cores"),
        (
            lambda plane: plane.arm.quota.update({"StandardNCADSA100v4Family": 23}) or
            plane.arm.quota.update({"Standard NCASv3_T4 Family": 7}),
            "GPU quota",
            "a limit of 8 cores of Standard NCASv3_T4 Family in eastus",
        ),
    ],
)  # fmt: skip
def test_each_trouble_has_its_line(
    plane: Plane, backend: AzureBackend, spoil: Callable[[Plane], Any], name: str, cure: str
) -> None:
    spoil(plane)
    found = checks(backend)
    assert not found[name].ok
    assert cure in found[name].hint
    assert [check.name for check in found.values() if not check.ok] == [name]


def test_a_workspace_that_is_missing(plane: Plane) -> None:
    found = checks(AzureBackend(workspace="other"))
    assert "az ml workspace create --name other" in found["workspace"].hint
    assert "role" not in found


def test_a_subscription_that_is_missing(plane: Plane) -> None:
    found = checks(AzureBackend(subscription="0000"))
    assert "AZURE_SUBSCRIPTION_ID" in found["subscription"].hint


def test_a_workspace_is_enough(plane: Plane, backend: AzureBackend) -> None:
    """Nothing of the subscription may be read: that is no fault of a deployment."""
    plane.arm.permissions.set((DATA_SCIENTIST, plane.arm.root))
    found = checks(backend)
    assert [check.name for check in found.values() if not check.ok] == []
    for name in ("role", "asking", "removing", "autoscaling"):
        assert found[name].detail.startswith("not known"), name


def test_what_one_deployment_asks_for(plane: Plane, backend: AzureBackend) -> None:
    identity = f"{plane.arm.root.partition('/providers/')[0]}/providers/Microsoft.ManagedIdentity"
    identity += "/userAssignedIdentities/i"
    options = {"identity": identity, "auth": "aad"}
    spec = DeploymentSpec(
        name="doctor", backend="azure", model="x", region="westus", options=options
    )
    found = {one.name: one for one in backend.check_for(spec)}
    assert "in eastus" in found["its region"].detail
    assert not found["its identity"].ok
    plane.arm.identities[identity] = {"AcrPull"}
    found = {one.name: one for one in backend.check_for(spec)}
    assert "Storage Blob Data Reader" in found["its identity"].hint
    plane.arm.identities[identity].add("Storage Blob Data Reader")
    found = {one.name: one for one in backend.check_for(spec)}
    assert [one.name for one in found.values() if not one.ok] == ["its region"]


def test_without_the_extra_it_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    assert importlib.util.find_spec("azure.ai")
    found = checks(AzureBackend("s", "g", "w"))
    assert set(found) == {"azure-ai-ml", "azure-identity"}
    assert all(check.hint == "pip install 'llama2-hub[azure]'" for check in found.values())
