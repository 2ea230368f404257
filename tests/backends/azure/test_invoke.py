"""Calling the scoring URL: streams, refusals, who may come in."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llama_hub.backends.azure.backend import AzureBackend
from llama_hub.backends.azure.invoke import refusal
from llama_hub.deploy.backend import Artifact
from llama_hub.errors import (
    AccessError,
    LlamaHubError,
    ProvisioningError,
    TransientError,
    UsageError,
)
from tests.backends.azure.conftest import Driver
from tests.support.azure_plane import Plane
from tests.support.azure_wire import Reply


def ask(backend: AzureBackend, **body: Any) -> Any:
    """One whole answer."""
    return json.loads(b"".join(backend.invoke("support", body, stream=False)))


def test_streams_in_pieces(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact
) -> None:
    drive.apply(drive.target(artifact))
    service: Any = next(iter(plane.arm.deployments.values())).services[0]
    service.between.clear()
    pieces = backend.invoke("support", {"prompt": "x"}, stream=True)
    assert next(pieces) == b"data: one\n\n"  # while the second is not made yet
    service.between.set()
    assert b"".join(pieces) == b"data: two\n\n"


def test_the_key_opens_and_is_never_shown(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact
) -> None:
    drive.apply(drive.target(artifact))
    at = backend.endpoint("support")
    assert at.url == "https://support.eastus.inference.ml.azure.com/score"
    assert plane.arm.endpoint_key in at.headers["Authorization"]
    assert plane.arm.endpoint_key not in repr(at)
    plane.arm.endpoint_key = "another"
    assert ask(backend, prompt="x")["choices"]  # keys are read again
    wrong = Reply(401, b"key_auth_access_denied")
    plane.fail("POST support.eastus", wrong)
    with pytest.raises(AccessError):
        ask(backend, prompt="x")


def test_a_key_that_was_regenerated_is_read_anew(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact
) -> None:
    drive.apply(drive.target(artifact))
    for key in ("first", "second"):
        plane.arm.endpoint_key = key
        assert b"".join(backend.invoke("support", {"prompt": "x"}, stream=False))


def test_entra_tokens_open_where_asked_for(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact
) -> None:
    drive.apply(drive.target(artifact, options={"auth": "aad"}))
    assert plane.arm.endpoints["support"].body["properties"]["authMode"] == "AADToken"
    assert ask(backend, prompt="x")["choices"]
    assert "Bearer token-" in backend.endpoint("support").headers["Authorization"]


def test_calls_without_a_name_follow_the_traffic(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact
) -> None:
    """The smoke test names a deployment; later calls must not (the SDK's ``invoke`` leaks it)."""
    drive.apply(drive.target(artifact))
    plane.forget()
    ask(backend, prompt="x")
    (request,) = (r for r in plane.requests if "inference.ml" in r.host)
    assert "azureml-model-deployment" not in {name.lower() for name in request.headers}


def test_waits_while_the_endpoint_is_busy(plane: Plane, drive: Driver, artifact: Artifact) -> None:
    drive.apply(drive.target(artifact))
    pauses: list[float] = []
    backend = AzureBackend(sleep=pauses.append)
    plane.fail("POST support.eastus", Reply(429, b"", {"Retry-After": "9"}), times=2)
    assert ask(backend, prompt="x")["choices"]
    assert pauses == [9, 9]


def test_a_private_endpoint_is_made_though_it_cannot_be_tried(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact
) -> None:
    drive.apply(drive.target(artifact, options={"network": "private", "egress": "private"}))
    properties = plane.arm.endpoints["support"].body["properties"]
    assert properties["publicNetworkAccess"] == "Disabled"
    (online,) = plane.arm.deployments.values()
    assert online.body["properties"]["egressPublicNetworkAccess"] == "Disabled"
    assert backend.status("support").status == "ready"
    with pytest.raises(AccessError):
        ask(backend, prompt="x")


def test_an_identity_of_ones_own(plane: Plane, drive: Driver, artifact: Artifact) -> None:
    group = "/subscriptions/s/resourceGroups/g"
    id_ = f"{group}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/i"
    plane.arm.identities[id_] = {"AcrPull", "Storage Blob Data Reader"}
    target = drive.target(artifact, options={"identity": id_})
    drive.apply(target)
    identity = plane.arm.endpoints["support"].body["identity"]
    assert identity == {"type": "UserAssigned", "userAssignedIdentities": {id_: {}}}
    assert {step.action for step in drive.plan(target)} == {"noop"}


@pytest.mark.parametrize(
    ("status", "headers", "text", "kind", "said"),
    [
        (424, {"ms-azureml-model-error-statuscode": "400"},
         '{"error": {"message": "too long"}}', UsageError, "too long"),
        (424, {"ms-azureml-model-error-statuscode": "500"}, "boom", ProvisioningError, "boom"),
        (424, {"ms-azureml-model-error-statuscode": "503"}, "", TransientError, "loading"),
        (424, {}, "", ProvisioningError, "unknown"),
        (404, {}, "", ProvisioningError, "no deployment"),
        (429, {}, "", TransientError, "busy"),
        (408, {}, "", ProvisioningError, "goes on computing"),
        (424, {"ms-azureml-model-error-statuscode": "408"}, "", ProvisioningError, "in time"),
        (403, {}, "nope", AccessError, "nope"),
        (418, {}, "tea", ProvisioningError, "418"),
    ],
)  # fmt: skip
def test_refusals_say_who_refuses(
    status: int, headers: dict[str, str], text: str, kind: type[LlamaHubError], said: str
) -> None:
    error = refusal(status, headers, text)
    assert type(error) is kind
    assert said in error.message


def test_logs_of_both_containers_and_what_comes_later(
    plane: Plane, drive: Driver, artifact: Artifact
) -> None:
    drive.apply(drive.target(artifact))
    more = iter(["started\nfirst\n", "started\nfirst\nsecond\n"])

    def later(seconds: float) -> None:
        plane.arm.logs["InferenceServer"] = next(more)

    backend = AzureBackend(sleep=later)
    assert list(backend.logs("support")) == ["mounting model", "started"]
    assert list(backend.logs("support", tail=1)) == ["started"]
    lines = backend.logs("support", follow=True)
    assert [next(lines) for _ in range(4)] == ["mounting model", "started", "first", "second"]
