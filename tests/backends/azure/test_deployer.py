"""The deployer on the plane: what is undone, what stays and is named, and who finds it later."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_hub.backends.azure import permissions
from llama_hub.backends.azure.backend import AzureBackend
from llama_hub.deploy import gc
from llama_hub.deploy.apply import ApplyOptions
from llama_hub.deploy.backend import Artifact
from llama_hub.deploy.deployer import Deployer
from llama_hub.deploy.spec import DeploymentSpec
from llama_hub.errors import (
    AccessError,
    LlamaHubError,
    NotOursError,
    UnconfirmedError,
    UsageError,
)
from tests.support.azure_plane import Plane

OPTIONS = ApplyOptions(sleep=lambda seconds: None)
IMAGE = {"image": "registry.azurecr.io/llama-hub:1"}
WRITES = [action for action in permissions.DEPLOY if action.endswith("/write")]


class Bench:
    """A deployer with a journal, made again for each command as the command line does."""

    def __init__(self, plane: Plane, artifact: Artifact, root: Path) -> None:
        self.plane, self.artifact, self.root = plane, artifact, root

    def deployer(self) -> Deployer:
        """As a new process has it."""
        backend = AzureBackend(sleep=lambda seconds: None)
        return Deployer(backend, artifacts=lambda spec: self.artifact, root=self.root)

    def deploy(self, **keys: object) -> None:
        """Plan and apply."""
        deployer = self.deployer()
        deployer.apply(deployer.plan(self.spec(**keys)), OPTIONS)

    def delete(self) -> None:
        """Plan and apply the removal."""
        deployer = self.deployer()
        deployer.apply(deployer.plan_delete("support"), OPTIONS)

    def spec(self, **keys: object) -> DeploymentSpec:
        """A small deployment."""
        known = {"name": "support", "backend": "azure", "model": "tiny-chat", "context": 256}
        return DeploymentSpec(**(known | {"options": IMAGE} | keys))  # type: ignore[arg-type]

    def leftovers(self) -> list[gc.Leftover]:
        """What gc finds."""
        return gc.find(self.deployer().backend, root=self.root)

    def collect(self) -> None:
        """What gc --yes does."""
        for left in self.leftovers():
            gc.remove(self.deployer(), left, OPTIONS)


@pytest.fixture
def bench(plane: Plane, artifact: Artifact, tmp_path: Path) -> Bench:
    """On an empty plane."""
    return Bench(plane, artifact, tmp_path / "journals")


def test_a_second_run_writes_nothing(plane: Plane, bench: Bench) -> None:
    bench.deploy()
    plane.forget()
    bench.deploy()
    assert plane.writes() == []


@pytest.mark.parametrize(
    "action",
    [
        f"{permissions.ONLINE}/deployments/write",
        *(
            pytest.param(action, marks=pytest.mark.exhaustive)
            for action in WRITES
            if "deployments" not in action
        ),
    ],
)
def test_a_write_that_is_denied_leaves_nothing_that_bills(
    plane: Plane, bench: Bench, action: str
) -> None:
    """Where the caller's roles cannot be read, the write itself is what tells."""
    plane.arm.permissions.denied = [action, "Microsoft.Authorization/permissions/read"]
    with pytest.raises(AccessError) as error:
        bench.deploy()
    assert action in error.value.message
    assert "AzureML Data Scientist" in error.value.hint
    assert plane.arm.endpoints == plane.arm.deployments == plane.arm.assets == {}
    if plane.blobs.blobs:
        assert "except weights/" in error.value.hint
        assert [one.reason for one in bench.leftovers()] == ["orphan"]
    plane.arm.permissions.denied = []
    bench.deploy()
    bench.delete()
    assert plane.blobs.blobs == {}


def test_a_first_deployment_whose_login_ends_midway_is_found_and_removed(
    plane: Plane, bench: Bench
) -> None:
    plane.arm.failures.append(("ResourceNotReady", "it crashed"))
    # The undo fails, too: nothing may be deleted any more.
    plane.arm.permissions.denied = [f"{permissions.ONLINE}/*delete"]
    with pytest.raises(LlamaHubError) as error:
        bench.deploy()
    assert "still there" in error.value.hint
    assert "deployment/support/rev-" in error.value.hint
    plane.arm.permissions.denied = []
    assert [one.reason for one in bench.leftovers()] == ["cut off"]
    bench.collect()
    assert plane.arm.endpoints == plane.arm.deployments == plane.arm.assets == {}
    bench.collect()
    assert bench.leftovers() == []


def test_an_update_that_cannot_be_undone_is_found_below_the_endpoint_that_works(
    plane: Plane, bench: Bench
) -> None:
    bench.deploy()
    (before,) = plane.arm.deployments
    plane.arm.failures.append(("ResourceNotReady", "it crashed"))
    plane.arm.permissions.denied = [f"{permissions.ONLINE}/*delete"]
    with pytest.raises(LlamaHubError):
        bench.deploy(context=128)
    plane.arm.permissions.denied = []
    assert len(plane.arm.deployments) == 2
    found = [one.id for left in bench.leftovers() for one in left.resources]
    assert [id_ for id_ in found if id_.startswith("deployment/")]
    bench.collect()
    assert list(plane.arm.deployments) == [before]
    bench.deploy()
    assert list(plane.arm.deployments) == [before]


def test_an_update_that_may_not_be_asked_keeps_both_revisions(plane: Plane, bench: Bench) -> None:
    """The old one goes on answering; the new one is up, named, and taken up by the next run."""
    aad = IMAGE | {"auth": "aad"}
    bench.deploy(options=aad)
    (before,) = plane.arm.deployments
    plane.arm.permissions.denied = [
        permissions.ASK["aad"],
        "Microsoft.Authorization/permissions/read",
    ]
    with pytest.raises(UnconfirmedError) as error:
        bench.deploy(options=aad, context=128)
    assert "score/action" in error.value.hint
    assert "nothing was undone; still there" in error.value.hint
    assert plane.arm.endpoints["support"].body["properties"]["traffic"] == {before[1]: 100}
    assert len(plane.arm.deployments) == 2
    plane.arm.permissions.denied = []
    plane.forget()
    bench.deploy(options=aad, context=128)
    assert not any("PUT" in line and "/deployments/" in line for line in plane.writes())
    assert len(plane.arm.deployments) == 1


def test_an_endpoint_of_others_is_refused_before_anything(plane: Plane, bench: Bench) -> None:
    bench.deploy()
    plane.arm.endpoints["support"].body["tags"] = {"team": "other"}
    plane.forget()
    fresh = Bench(plane, bench.artifact, bench.root.parent / "another machine")
    with pytest.raises(NotOursError):
        fresh.deploy()
    assert plane.writes() == []


def test_bad_options_are_exit_2_before_anything(plane: Plane, bench: Bench) -> None:
    for options in (
        {"identity": f"{plane.arm.root.partition('/providers')[0]}/providers/"
         "Microsoft.ManagedIdentity/userAssignedIdentities/nobody"},
        {"run": "neither"},
        {"request_timeout": 181},
    ):  # fmt: skip
        with pytest.raises(UsageError):
            bench.deploy(options=options)
    assert plane.writes() == []


def test_two_workspaces_have_two_deployments_of_one_name(
    plane: Plane, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane.other.launch = plane.arm.launch
    bench.deploy()
    for key, value in (
        ("AZURE_SUBSCRIPTION_ID", plane.other.subscription),
        ("AZURE_RESOURCE_GROUP", plane.other.group),
        ("AZUREML_WORKSPACE_NAME", plane.other.workspace),
    ):
        monkeypatch.setenv(key, value)
    there = Bench(plane, bench.artifact, bench.root.parent / "there")
    there.deploy()
    assert list(plane.other.endpoints) == list(plane.arm.endpoints) == ["support"]
    there.delete()
    assert list(plane.other.endpoints) == []
    assert list(plane.arm.endpoints) == ["support"]
    assert plane.other.blobs.blobs == {}


def test_roles_that_count_late_are_waited_for_by_the_next_run(plane: Plane, bench: Bench) -> None:
    plane.arm.permissions.grants[0].delay = 1
    with pytest.raises(AccessError):
        bench.deploy()
    bench.deploy()
    assert len(plane.arm.deployments) == 1
