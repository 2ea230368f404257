"""What Azure refuses or breaks, in plain words and with the next step."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llama_hub.backends.azure.backend import AzureBackend
from llama_hub.backends.azure.errors import explain, quota_error
from llama_hub.deploy.backend import Artifact, Context
from llama_hub.deploy.cloud_error import ErrorResponse
from llama_hub.errors import (
    AccessError,
    LlamaHubError,
    NotFoundError,
    ProvisioningError,
    QuotaError,
    TransientError,
)
from tests.backends.azure.conftest import Driver
from tests.support.azure_plane import SECRET, Plane
from tests.support.azure_wire import Reply, refused


def test_a_quota_refusal_names_numbers_and_cure(
    plane: Plane, drive: Driver, artifact: Artifact
) -> None:
    target = drive.target(
        artifact, instance="Standard_NC24ads_A100_v4", replicas_min=2, replicas_max=2
    )
    plane.arm.quota["StandardNCADSA100v4Family"] = 24  # taken by somebody since the plan
    with pytest.raises(QuotaError) as error:
        drive.apply(target)
    assert "48 more are needed" in error.value.message
    assert "0 of 24 are in use" in error.value.message
    assert "a limit of 48 cores" in error.value.hint
    assert plane.arm.deployments == {}


def test_no_machine_is_planned_that_the_quota_does_not_allow(
    plane: Plane, drive: Driver, artifact: Artifact
) -> None:
    with pytest.raises(QuotaError, match="quota leaves 0") as error:
        drive.target(artifact, instance="Standard_E16s_v3")
    assert "standardESv3Family" in error.value.hint
    plane.arm.quota["Standard NCASv3_T4 Family"] = 7  # one machine of 4 cores needs 8
    with pytest.raises(QuotaError, match="quota leaves 0"):
        drive.target(artifact, instance="Standard_NC4as_T4_v3")


def test_a_failed_deployment_tells_the_platforms_words_and_last_lines(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact
) -> None:
    plane.arm.failures.append(("ResourceNotReady", "User container has crashed or terminated."))
    plane.arm.logs["InferenceServer"] = "loading\nCUDA out of memory\n"
    with pytest.raises(ProvisioningError) as error:
        drive.apply(drive.target(artifact))
    message = error.value.message
    assert "User container has crashed" in message
    assert "mounting model" in message
    assert message.endswith("CUDA out of memory")
    assert backend.status("support").status == "failed"
    assert list(backend.logs("support"))[-1] == "CUDA out of memory"
    steps = {step.kind: step for step in drive.plan(drive.target(artifact))}
    assert steps["deployment"].action == "replace"
    drive.apply(drive.target(artifact))
    assert backend.status("support").status == "ready"


def test_an_image_that_cannot_be_built(plane: Plane, drive: Driver, artifact: Artifact) -> None:
    target = drive.target(artifact)
    steps = [step for step in drive.plan(target) if step.action != "noop"]
    at = [step.kind for step in steps].index("deployment")
    for step in steps[:at]:
        drive.backend.execute(step, Context(target))
    del plane.blobs.blobs[next(path for path in plane.blobs.blobs if path.endswith("Dockerfile"))]
    with pytest.raises(ProvisioningError, match="image could not be built") as error:
        drive.backend.execute(steps[at], Context(target))
    assert "options.image" in error.value.hint


def test_a_slow_image_build_is_waited_for(plane: Plane, drive: Driver, artifact: Artifact) -> None:
    plane.arm.image_polls = 40
    drive.apply(drive.target(artifact))
    assert len(plane.arm.images) == 1


def test_a_given_image_is_not_built(plane: Plane, drive: Driver, artifact: Artifact) -> None:
    image = "registry.azurecr.io/llama-hub:1"
    drive.apply(drive.target(artifact, options={"image": image}))
    assert plane.arm.images == set()
    assert not any("environments" in path for path in plane.blobs.blobs)
    (body,) = (body for key, body in plane.arm.assets.items() if key[0] == "environments")
    assert body["properties"]["image"] == image


def test_waits_while_somebody_else_updates(plane: Plane, drive: Driver, artifact: Artifact) -> None:
    drive.apply(drive.target(artifact))
    target = drive.target(artifact, context=128)
    steps = [step for step in drive.plan(target) if step.action != "noop"]
    body = plane.arm.endpoints["support"].body
    plane.arm.polls = 5
    client = drive.backend.client
    path = f"{client.scope.id}/onlineEndpoints/support"
    # Nobody of ours waits for it: only the looks of the next steps bring it to its end.
    client.send("PUT", path, "endpoint", {**body, "identity": {"type": "SystemAssigned"}})
    for step in steps:
        drive.backend.execute(step, Context(target))
    assert {step.action for step in drive.plan(target)} == {"noop"}


@pytest.mark.parametrize(
    "reply",
    [
        refused(409, "Conflict", "The endpoint support is in Updating provisioning state."),
        Reply(429, b"", {"Retry-After": "7"}),
        Reply(503, b""),
    ],
)
def test_busy_is_a_reason_to_try_again(
    plane: Plane, drive: Driver, artifact: Artifact, reply: Reply
) -> None:
    target = drive.target(artifact)
    plane.fail("PUT management.azure.com/.*/onlineEndpoints/support\\?", reply, times=99)
    with pytest.raises(TransientError) as error:
        drive.apply(target)
    if reply.status == 429:
        assert error.value.retry_after == 7
    for fault in plane.faults():
        fault.times = 0
    drive.apply(target)
    assert {step.action for step in drive.plan(target)} == {"noop"}


@pytest.mark.parametrize(
    "pattern",
    [
        r"PUT .*/onlineEndpoints/support\?",
        r"PUT .*/deployments/",
        r"PUT .*/models/",
        r"PUT .*/environments/.*/versions",
        r"PUT .*autoscalesettings",
        r"DELETE .*/deployments/",
    ],
)
def test_a_lost_answer_does_no_harm(
    plane: Plane, drive: Driver, artifact: Artifact, pattern: str
) -> None:
    """The request took effect, its answer never came: the SDK sends again, or the step does."""
    drive.apply(drive.target(artifact))
    fault = plane.fail(pattern, None, applied=True)
    target = drive.target(artifact, context=128, replicas_max=2)
    for step in drive.plan(target):
        if step.action != "noop":
            _persist(drive, step, target)
    if fault.times:  # models stay as they are on an update
        drive.delete("support")
        target = drive.target(artifact, replicas_max=2)
        for step in drive.plan(target):
            _persist(drive, step, target)
    assert fault.times == 0
    assert {step.action for step in drive.plan(target)} == {"noop"}
    assert len(plane.arm.deployments) == 1


def _persist(drive: Driver, step: Any, target: Any) -> None:
    from llama_hub.deploy.waiting import persist

    if step.action != "noop":
        persist(lambda: drive.backend.execute(step, Context(target)), sleep=lambda seconds: None)


def test_a_refused_login_is_one_line_without_the_secret(
    plane: Plane, backend: AzureBackend, capfd: pytest.CaptureFixture[str]
) -> None:
    plane.login_refused = True
    with pytest.raises(AccessError) as error:
        backend.observe("support")
    assert "EnvironmentCredential: Authentication failed" in error.value.message
    assert "\n" not in error.value.message
    assert "az login" in error.value.hint
    assert SECRET not in error.value.message
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


def test_no_permission_names_the_role(plane: Plane, drive: Driver, artifact: Artifact) -> None:
    target = drive.target(artifact)
    reply = refused(403, "AuthorizationFailed", "The client does not have authorization.")
    plane.fail("PUT .*/models/", reply)
    with pytest.raises(AccessError) as error:
        drive.apply(target)
    assert "AzureML Data Scientist" in error.value.hint


def test_an_unregistered_subscription_names_the_command(
    plane: Plane, drive: Driver, artifact: Artifact
) -> None:
    target = drive.target(artifact)
    message = "The subscription is not registered to use namespace."
    plane.fail("PUT .*/onlineEndpoints/", refused(409, "MissingSubscriptionRegistration", message))
    with pytest.raises(ProvisioningError) as error:
        drive.apply(target)
    assert error.value.hint.startswith("az provider register")


def test_a_workspace_that_is_not_there(plane: Plane) -> None:
    backend = AzureBackend(workspace="other")
    with pytest.raises(NotFoundError, match="no workspace other") as error:
        backend.list().__next__()
    assert "doctor azure" in error.value.hint


@pytest.mark.parametrize(
    ("response", "kind", "said", "cure"),
    [
        (ErrorResponse(None, "ImageBuildFailure", "x"), ProvisioningError, "image", "Environments"),
        (ErrorResponse(None, "OperationCanceled", "x"), TransientError, "busy", "again"),
        (ErrorResponse(None, "OutOfCapacity", "x"), QuotaError, "no free machines", "region"),
        (ErrorResponse(None, "OutOfQuota", "x"), QuotaError, "used up", "doctor"),
        (
            ErrorResponse(403, "KeyBasedAuthenticationNotPermitted", "x"),
            AccessError,
            "shared keys",
            "Storage Blob Data Contributor",
        ),
        (
            ErrorResponse(403, "AuthorizationPermissionMismatch", "x"),
            AccessError,
            "refuses",
            "Storage Blob Data Contributor",
        ),
        (ErrorResponse(401, "ExpiredAuthenticationToken", "x"), AccessError, "refuses", "az login"),
        (ErrorResponse(404, "ResourceNotFound", "gone"), NotFoundError, "gone", "doctor"),
        (
            ErrorResponse(None, "SecretsInjectionError", "x"),
            ProvisioningError,
            "secret",
            "Key Vault",
        ),
        (ErrorResponse(400, "Novelty", "(Novelty) new\nmore"), ProvisioningError, "do it: new", ""),
    ],
)
def test_codes_become_causes(
    response: ErrorResponse, kind: type[LlamaHubError], said: str, cure: str
) -> None:
    error = explain(response, "do it")
    assert type(error) is kind
    assert said in error.message
    assert cure in error.hint
    assert "\n" not in error.message


def test_the_quota_text_is_read_plain_and_wrapped() -> None:
    plain = (
        "Not enough quota available for Standard_F4s_v2 in SubscriptionId x. "
        "Current usage/limit: 0/6. Additional needed: 8 Please see https://aka.ms/x"
    )
    wrapped = "The request is invalid. " + json.dumps(
        {"errors": {"VmSize": [plain]}, "status": 400}
    )
    for text in (plain, wrapped, wrapped[:-1]):
        error = quota_error(text)
        assert error is not None
        assert "8 more are needed" in error.message
        assert "limit of 8 cores" in error.hint
    assert quota_error("something else {") is None
