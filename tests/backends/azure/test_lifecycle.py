"""A deployment's life on the plane: the unmodified SDK, real host names, real state."""

from __future__ import annotations

import json

from llama_hub.backends.azure.backend import AzureBackend
from llama_hub.deploy.backend import Artifact
from tests.backends.azure.conftest import Driver
from tests.support.azure_plane import Plane


def test_create_answer_and_noop(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact
) -> None:
    target = drive.target(artifact)
    done = drive.apply(target)
    assert [step.kind for step in done] == [
        "weights", "model", "environment", "endpoint", "deployment", "smoke", "traffic",
    ]  # fmt: skip
    answer = b"".join(backend.invoke("support", {"prompt": "x"}, stream=False))
    assert json.loads(answer)["choices"] == [{"text": "hi"}]

    plane.forget()
    assert {step.action for step in drive.plan(target)} == {"noop"}
    drive.apply(target)
    assert plane.writes() == []


def test_what_is_planned_is_what_is_sent(plane: Plane, drive: Driver, artifact: Artifact) -> None:
    steps = {step.kind: step for step in drive.apply(drive.target(artifact, replicas_max=2))}
    sent = {
        request.path.rpartition("/")[0].rpartition("/")[2]: request.json
        for request in plane.requests
        if request.method == "PUT" and request.host == "management.azure.com"
    }
    assert sent["deployments"] == steps["deployment"].body
    assert sent["autoscalesettings"] == steps["autoscale"].body
    assert sent["onlineEndpoints"] == steps["traffic"].body
    versions = [
        request.json["properties"]
        for request in plane.requests
        if request.method == "PUT" and "/versions/" in request.path
    ]
    planned = [steps[kind].body["properties"] for kind in ("model", "environment")]
    assert versions == planned
