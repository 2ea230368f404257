"""Each read and write denied in turn, least privilege, and what the role documents hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llama_hub.backends.azure import permissions
from llama_hub.backends.azure.backend import AzureBackend
from llama_hub.deploy.backend import Artifact, Context
from llama_hub.errors import (
    AccessError,
    LlamaHubError,
    NotOursError,
    QuotaError,
    UsageError,
)
from tests.backends.azure.conftest import Driver
from tests.support.azure_plane import SUBSCRIPTION, Plane
from tests.support.azure_roles import DATA_SCIENTIST, Role

IDENTITY = (
    f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg"
    "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/i"
)
ENDING = {f"{permissions.ONLINE}/read", f"{permissions.ONLINE}/delete"}
EVERY = sorted(set(permissions.caller_role("x", [])["Actions"]))


def live(drive: Driver, backend: AzureBackend, artifact: Artifact) -> None:
    """A whole life, each command once."""
    target = drive.target(artifact, replicas_max=2)
    drive.judge(target)
    drive.apply(target)
    assert [one.name for one in backend.list()] == ["support"]
    assert backend.status("support").status == "ready"
    assert list(backend.logs("support", tail=5))
    assert b"".join(backend.invoke("support", {"prompt": "x"}, stream=False))
    assert list(backend.orphans()) == []
    drive.apply(drive.target(artifact, replicas_max=2, context=128))
    drive.delete("support")
    assert list(backend.orphans()) == []
    list(backend.check())


def test_the_documents_are_what_the_code_calls(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact
) -> None:
    plane.arm.identities[IDENTITY] = {"AcrPull", "Storage Blob Data Reader"}
    drive.judge(drive.target(artifact, options={"identity": IDENTITY}))
    live(drive, backend, artifact)
    document = permissions.caller_role("llama-hub", [plane.arm.root])
    called = {action.lower() for action, _ in plane.arm.permissions.used}
    listed = {action.lower() for action in document["Actions"]}
    assert called - listed == set()
    # A token is asked for where auth is aad; nothing else is in the role without being called.
    assert listed - called == {permissions.ASK["aad"].lower()}
    data = {f"{permissions.BLOBS}/{verb}" for verb in plane.blobs.used}
    assert data == set(document["DataActions"])


def test_the_documents_suffice(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact
) -> None:
    group = f"/subscriptions/{plane.arm.subscription}/resourceGroups/{plane.arm.group}"
    document = permissions.caller_role("llama-hub", [group])
    plane.arm.permissions.set((Role(tuple(document["Actions"])), group))
    live(drive, backend, artifact)
    assert plane.arm.endpoints == {}


def test_a_data_scientist_of_the_workspace_can_deploy_and_remove(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact
) -> None:
    """No prices, no quota, no autoscale settings: none of them is needed here."""
    plane.arm.permissions.set((DATA_SCIENTIST, plane.arm.root))
    target = drive.target(artifact)
    drive.judge(target)
    drive.apply(target)
    assert {step.action for step in drive.plan(target)} == {"noop"}
    found = backend.status("support")
    assert found.status == "ready"
    assert found.cost_per_hour == pytest.approx(0.169)  # of the table
    (step, *_) = backend.plan_delete("support", backend.observe("support"))
    assert "autoscale stays, for it may not be read" in step.note
    drive.delete("support")
    assert plane.arm.endpoints == plane.arm.assets == {}


def test_scaling_without_its_permission_is_refused_by_the_plan(
    plane: Plane, drive: Driver, artifact: Artifact
) -> None:
    plane.arm.permissions.set((DATA_SCIENTIST, plane.arm.root))
    target = drive.target(artifact, replicas_max=2)
    with pytest.raises(AccessError, match="autoscaleSettings/read") as error:
        drive.plan(target)
    assert "Monitoring Contributor" in error.value.hint


def test_each_action_denied_in_turn(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact
) -> None:
    """What a deployment needs is told by the plan, before a write; all else is only missed."""
    needed = {*permissions.DEPLOY, permissions.ASK["key"]}
    refused = set()
    for action in EVERY:
        plane.arm.permissions.denied = [action]
        fresh = Driver(AzureBackend(sleep=lambda seconds: None))
        try:
            target = fresh.target(artifact)
            fresh.plan(target)
            fresh.judge(target)
        except AccessError:
            refused.add(action)
    assert refused == needed
    assert plane.writes() == []


def test_the_endpoint_can_be_ended_with_two_permissions(
    plane: Plane, drive: Driver, artifact: Artifact
) -> None:
    """Everything else denied, each in turn in the plan and all at once in the act."""
    drive.apply(drive.target(artifact, replicas_max=2))
    for action in EVERY:
        plane.arm.permissions.denied = [action]
        backend = AzureBackend(sleep=lambda seconds: None)
        try:
            steps = backend.plan_delete("support", backend.observe("support"))
        except LlamaHubError:
            assert action in ENDING
            continue
        assert "endpoint" in [step.kind for step in steps], action
    plane.arm.permissions.denied = [action for action in EVERY if action not in ENDING]
    plane.blobs.readable = plane.blobs.writable = False
    backend = AzureBackend(sleep=lambda seconds: None)
    (step,) = backend.plan_delete("support", backend.observe("support"))
    assert step.kind == "endpoint"
    backend.execute(step, Context(None))
    assert plane.arm.endpoints == plane.arm.deployments == {}


def test_a_token_without_the_right_to_ask_is_noticed_by_the_plan(
    plane: Plane, drive: Driver, artifact: Artifact
) -> None:
    score = permissions.ASK["aad"]
    plane.arm.permissions.set((Role(("*",), (score,)), f"/subscriptions/{plane.arm.subscription}"))
    drive.judge(drive.target(artifact))  # with a key
    with pytest.raises(AccessError, match="score/action"):
        drive.judge(drive.target(artifact, options={"auth": "aad"}))


def test_an_endpoint_that_refuses_the_caller_stays(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact
) -> None:
    """It answers, so it is healthy: nobody waits for it, and nobody tears it down."""
    target = drive.target(artifact, options={"auth": "aad"})
    plane.arm.permissions.denied = [permissions.ASK["aad"]]
    plane.forget()
    drive.apply(target)
    asked = [one for one in plane.requests if "inference" in one.host]
    assert len(asked) == 1
    assert backend.status("support").status == "ready"
    with pytest.raises(AccessError) as error:
        b"".join(backend.invoke("support", {"prompt": "x"}, stream=False))
    assert "score/action" in error.value.hint


@pytest.mark.parametrize(
    ("spoil", "options", "kind", "said"),
    [
        (lambda plane: None, {"identity": IDENTITY}, UsageError, "there is no identity"),
        (
            lambda plane: plane.arm.identities.update({IDENTITY: {"AcrPull"}}),
            {"identity": IDENTITY},
            AccessError,
            "no Storage Blob Data Reader",
        ),
        (
            lambda plane: setattr(plane.arm, "registry_is_private", True),
            {},
            UsageError,
            "cannot build the image",
        ),
        (
            lambda plane: setattr(plane.blobs, "writable", False),
            {},
            AccessError,
            "not allowed in the storage account",
        ),
    ],
)
def test_what_a_read_can_judge_is_judged_before_anything_is_made(
    plane: Plane,
    drive: Driver,
    artifact: Artifact,
    spoil: Callable[[Plane], object],
    options: dict[str, Any],
    kind: type[LlamaHubError],
    said: str,
) -> None:
    target = drive.target(artifact, options=options)
    spoil(plane)
    with pytest.raises(kind, match=said) as error:
        drive.judge(target)
    assert error.value.hint
    assert plane.writes() == []


def test_an_endpoint_keeps_its_identity(plane: Plane, drive: Driver, artifact: Artifact) -> None:
    drive.apply(drive.target(artifact))
    plane.arm.identities[IDENTITY] = {"AcrPull", "Storage Blob Data Reader"}
    with pytest.raises(UsageError, match="keeps its own"):
        drive.judge(drive.target(artifact, options={"identity": IDENTITY}))


def test_both_revisions_count_against_the_quota(
    plane: Plane, drive: Driver, artifact: Artifact
) -> None:
    drive.apply(drive.target(artifact))
    drive.judge(drive.target(artifact, context=128))
    plane.arm.quota["standardFSv2Family"] = 8  # what the live one holds with its reserve
    with pytest.raises(QuotaError, match="leaves room for 0") as error:
        drive.judge(drive.target(artifact, context=128))
    assert "in-place" in error.value.hint
    drive.judge(drive.target(artifact))  # nothing to do
    drive.judge(drive.target(artifact, context=128, options={"strategy": "in-place"}))


def test_the_region_has_a_quota_of_its_own(plane: Plane, drive: Driver, artifact: Artifact) -> None:
    plane.arm.used_elsewhere["standardESv3Family"] = 100
    plane.arm.total_quota = 107
    with pytest.raises(QuotaError) as error:
        drive.target(artifact, instance="Standard_F4s_v2")
    assert "108 cores in all (Total Cluster Dedicated Regional vCPUs)" in error.value.hint


@pytest.mark.parametrize("kind", ["model", "environment"])
def test_what_others_have_registered_is_not_overwritten(
    plane: Plane, drive: Driver, artifact: Artifact, kind: str
) -> None:
    target = drive.target(artifact)
    step = next(step for step in drive.plan(target) if step.kind == kind)
    name, _, version = step.name.partition(":")
    theirs = {"properties": dict(step.body["properties"]) | {"tags": {}}}
    system = plane.arm._created()
    plane.arm.assets[f"{kind}s", name, version] = theirs | {"systemData": system}
    with pytest.raises(NotOursError, match=step.id):
        drive.judge(target)


def test_a_deployment_of_others_below_our_endpoint_is_left_alone(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact
) -> None:
    drive.apply(drive.target(artifact))
    (ours,) = plane.arm.deployments
    theirs = dict(plane.arm.deployments[ours].body) | {"tags": {}}
    plane.arm.deployments["support", "theirs"] = type(plane.arm.deployments[ours])(
        theirs, plane.arm._created(), "Succeeded"
    )
    drive.apply(drive.target(artifact, context=128))
    assert ("support", "theirs") in plane.arm.deployments
    steps = backend.plan_delete("support", backend.observe("support"))
    assert "support/theirs" in next(step.note for step in steps if step.kind == "endpoint")


def test_gc_finds_what_is_left_below_an_endpoint_that_works(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact
) -> None:
    """An update that could not be undone: its revision bills and answers nothing."""
    drive.apply(drive.target(artifact))
    (live_one,) = plane.arm.deployments
    target = drive.target(artifact, context=128)
    for step in drive.plan(target):
        if (step.action, step.kind) == ("create", "deployment"):
            backend.execute(step, Context(target))
    assert len(plane.arm.deployments) == 2
    (left,) = [one for one in backend.orphans() if one.kind == "deployment"]
    assert left.name != "/".join(live_one)
    (step,) = backend.plan_delete("support", type(backend.observe("x"))((left,)))
    backend.execute(step, Context(None))
    assert list(plane.arm.deployments) == [live_one]


def test_a_previous_revision_that_is_kept_is_not_surplus(
    drive: Driver, backend: AzureBackend, artifact: Artifact
) -> None:
    options = {"keep_previous": True}
    drive.apply(drive.target(artifact, options=options))
    drive.apply(drive.target(artifact, context=128, options=options))
    assert [one for one in backend.orphans() if one.kind == "deployment"] == []
    drive.apply(drive.target(artifact, context=128))  # it is to stay no longer
    assert {step.action for step in drive.plan(drive.target(artifact, context=128))} == {"noop"}
    assert len(backend.observe("support").all("deployment")) == 1


@pytest.mark.parametrize("provider", ["Microsoft.Insights"])
def test_a_provider_that_nobody_registered_is_needed_for_scaling_alone(
    plane: Plane, drive: Driver, artifact: Artifact, provider: str
) -> None:
    plane.arm.providers[provider] = "NotRegistered"
    drive.plan(drive.target(artifact))
    with pytest.raises(LlamaHubError) as error:
        drive.plan(drive.target(artifact, replicas_max=2))
    assert f"az provider register --namespace {provider}" in error.value.hint
