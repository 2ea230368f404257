"""A deployment's life on the plane: the unmodified SDK, real host names, real state."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from llama_hub.backends.azure import bodies
from llama_hub.backends.azure.backend import AzureBackend
from llama_hub.backends.azure.bodies import weights_name
from llama_hub.backends.azure.options import OWN_LIMIT, TAGS, Options
from llama_hub.backends.azure.values import seconds
from llama_hub.deploy.backend import TAG_DEPLOYMENT, TAG_MANIFEST, Artifact, Context, Step
from llama_hub.errors import NotFoundError, ProvisioningError, UsageError
from llama_hub.hub.manifest import FileEntry
from tests.backends.azure.conftest import Driver
from tests.support.azure_plane import Plane
from tests.support.azure_target import make_artifact


def kinds(steps: list[Step]) -> list[str]:
    """``action kind`` of each step."""
    return [f"{step.action} {step.kind}" for step in steps]


def ask(backend: AzureBackend, name: str = "support") -> dict[str, Any]:
    """One whole answer."""
    answer: dict[str, Any] = json.loads(
        b"".join(backend.invoke(name, {"prompt": "x"}, stream=False))
    )
    return answer


def traffic_of(plane: Plane, name: str = "support") -> dict[str, int]:
    """Percent by deployment, as the platform has it."""
    return dict(plane.arm.endpoints[name].body["properties"]["traffic"])


def test_create_answer_and_noop(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact
) -> None:
    target = drive.target(artifact)
    assert kinds(drive.apply(target)) == [
        "create endpoint",
        "create weights",
        "create model",
        "create environment",
        "create deployment",
        "create smoke",
        "update traffic",
    ]
    assert ask(backend)["choices"] == [{"text": "hi"}]
    found = backend.status("support")
    assert (found.status, found.manifest, found.model) == (
        "ready",
        artifact.manifest.digest,
        "tiny-chat",
    )
    assert found.cost_per_hour == pytest.approx(0.19)  # the region's own price

    plane.forget()
    assert {step.action for step in drive.plan(target)} == {"noop"}
    drive.apply(target)
    assert plane.writes() == []


def test_what_is_planned_is_what_is_sent(plane: Plane, drive: Driver, artifact: Artifact) -> None:
    steps = {step.kind: step for step in drive.apply(drive.target(artifact, replicas_max=2))}
    puts = [
        request
        for request in plane.requests
        if request.method == "PUT" and request.host == "management.azure.com"
    ]
    sent = {request.path.split("/")[-2]: request.json for request in puts}
    assert sent["deployments"] == steps["deployment"].body
    assert sent["autoscalesettings"] == steps["autoscale"].body
    assert sent["onlineEndpoints"] == steps["traffic"].body
    versions = [request.json["properties"] for request in puts if "/versions/" in request.path]
    assert versions == [steps[kind].body["properties"] for kind in ("model", "environment")]


def test_every_resource_carries_the_tags(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact
) -> None:
    drive.apply(drive.target(artifact, replicas_max=2, tags={"team": "search"}))
    found = backend.observe("support").resources
    assert {one.kind for one in found} == {
        "endpoint", "deployment", "model", "environment", "autoscale", "weights",
    }  # fmt: skip
    for one in found:
        assert one.tags[TAG_DEPLOYMENT] == "support", one.id
        assert one.tags[TAG_MANIFEST] == artifact.manifest.digest, one.id
        assert one.tags["team"] == "search", one.id
    assert plane.arm.endpoints["support"].body["tags"]["llama-hub-deployment"] == "support"


def test_blue_green_without_a_gap(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact, tmp_path: Path
) -> None:
    drive.apply(drive.target(artifact))
    blue = next(iter(traffic_of(plane)))
    second = make_artifact(tmp_path / "second", seed=1)
    options = {"canary": 20, "mirror": 30, "soak": 3}
    steps = [
        step for step in drive.plan(drive.target(second, options=options)) if step.action != "noop"
    ]
    seen = []
    for step in steps:
        backend.execute(step, Context(drive.target(second, options=options)))
        assert ask(backend)["choices"], step.id  # there is always somebody who answers
        seen.append((step.kind, traffic_of(plane)))
    green = next(iter(traffic_of(plane)))
    assert green != blue
    assert [
        entry for entry in seen if entry[0] in ("deployment", "mirror", "canary", "traffic")
    ] == [
        ("deployment", {blue: 100}),
        ("mirror", {blue: 100}),
        ("canary", {blue: 80, green: 20}),
        ("traffic", {green: 100}),
        ("deployment", {green: 100}),  # the old one goes last
    ]
    assert plane.arm.mirrored[green] > 0
    assert [name for _, name in plane.arm.deployments] == [green]
    assert json.loads(b"".join(backend.invoke("support", {"manifest": True}, stream=False))) == {
        "manifest": second.manifest.digest
    }


def test_a_revision_that_does_not_answer_gets_no_traffic(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact, tmp_path: Path
) -> None:
    drive.apply(drive.target(artifact))
    before = traffic_of(plane)
    good = plane.arm.launch

    def broken(folder: Path, variables: dict[str, str]) -> Any:
        assert good is not None
        service: Any = good(folder, variables)
        service.status = 500
        return service

    plane.arm.launch = broken
    with pytest.raises(ProvisioningError, match="HTTP 500.*it broke"):
        drive.apply(drive.target(make_artifact(tmp_path / "second", seed=1)))
    assert traffic_of(plane) == before
    assert ask(backend)["choices"]


def test_a_canary_that_breaks_gives_its_traffic_back(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact, tmp_path: Path
) -> None:
    drive.apply(drive.target(artifact))
    before = traffic_of(plane)
    target = drive.target(make_artifact(tmp_path / "second", seed=1), options={"soak": 3})
    steps = [step for step in drive.plan(target) if step.action != "noop"]
    for step in steps:
        if step.kind == "canary":
            (service,) = plane.arm.deployments["support", step.name.split("/")[1]].services
            service.status = 500  # type: ignore[attr-defined]
            with pytest.raises(ProvisioningError, match="all traffic is back"):
                backend.execute(step, Context(target))
            break
        backend.execute(step, Context(target))
    assert traffic_of(plane) == before
    new = [
        Step("delete", "deployment", f"support/{name}", "undo")
        for _, name in plane.arm.deployments
        if name not in before
    ]
    for step in new:
        backend.execute(step, Context(None))
    assert set(before) == {name for _, name in plane.arm.deployments}


def test_another_machine_type_is_a_new_deployment(
    plane: Plane, drive: Driver, artifact: Artifact
) -> None:
    drive.apply(drive.target(artifact))
    steps = drive.plan(drive.target(artifact, instance="Standard_DS3_v2"))
    change = next(step for step in steps if step.kind == "deployment" and step.action == "create")
    assert "another machine type" in change.why
    drive.apply(drive.target(artifact, instance="Standard_DS3_v2"))
    (online,) = plane.arm.deployments.values()
    assert online.body["properties"]["instanceType"] == "Standard_DS3_v2"


def test_scale_and_tags_change_in_place_with_a_patch(
    plane: Plane, drive: Driver, artifact: Artifact
) -> None:
    drive.apply(drive.target(artifact))
    ((_, name),) = plane.arm.deployments
    plane.forget()
    target = drive.target(artifact, replicas_min=2, replicas_max=2, tags={"team": "search"})
    assert kinds(drive.apply(target)) == ["update endpoint", "update deployment"]
    patches = [request for request in plane.requests if request.method == "PATCH"]
    assert [set(request.json) for request in patches] == [{"sku", "tags"}]
    ((_, still),) = plane.arm.deployments
    assert still == name
    assert traffic_of(plane) == {name: 100}
    assert {step.action for step in drive.plan(target)} == {"noop"}


def test_scaling_is_waited_for(plane: Plane, drive: Driver, artifact: Artifact) -> None:
    """The service says ``Scaling``, not ``Updating``, while it changes the number of instances."""
    drive.apply(drive.target(artifact))
    plane.arm.polls = 3
    target = drive.target(artifact, replicas_min=2, replicas_max=2)
    assert kinds(drive.apply(target)) == ["update deployment"]
    (online,) = plane.arm.deployments.values()
    assert (online.state, online.body["sku"]["capacity"]) == ("Succeeded", 2)


def test_in_place_keeps_the_deployment(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact, tmp_path: Path
) -> None:
    drive.apply(drive.target(artifact))
    ((_, name),) = plane.arm.deployments
    options = {"strategy": "in-place"}
    target = drive.target(artifact, context=128, options=options)
    assert kinds(drive.apply(target))[-1] == "update deployment"
    ((_, still),) = plane.arm.deployments
    assert still == name
    assert {step.action for step in drive.plan(target)} == {"noop"}
    other = drive.target(artifact, context=128, instance="Standard_DS3_v2", options=options)
    assert any(step.action == "create" for step in drive.plan(other) if step.kind == "deployment")


def test_the_previous_revision_can_stay_without_traffic(
    plane: Plane, drive: Driver, artifact: Artifact, tmp_path: Path
) -> None:
    options = {"keep_previous": True}
    drive.apply(drive.target(artifact, options=options))
    second = make_artifact(tmp_path / "second", seed=1)
    target = drive.target(second, options=options)
    drive.apply(target)
    assert len(plane.arm.deployments) == 2
    assert {step.action for step in drive.plan(target)} == {"noop"}
    plane.forget()
    back = drive.apply(drive.target(artifact, options=options))
    assert [step.kind for step in back if step.kind == "deployment"] == []  # it still runs
    assert not any("comp=block" in line for line in plane.writes())


def test_going_back_uploads_nothing(
    plane: Plane, drive: Driver, artifact: Artifact, tmp_path: Path
) -> None:
    drive.apply(drive.target(artifact))
    drive.apply(drive.target(make_artifact(tmp_path / "second", seed=1)))
    plane.forget()
    steps = drive.apply(drive.target(artifact))
    assert "create weights" not in kinds(steps)
    assert not [line for line in plane.writes() if "blob.core.windows.net" in line]


def test_revisions_older_than_the_previous_one_go(
    plane: Plane, drive: Driver, artifact: Artifact, tmp_path: Path
) -> None:
    artifacts = [artifact, *(make_artifact(tmp_path / f"a{n}", seed=n) for n in (1, 2, 3))]
    for each in artifacts:
        drive.apply(drive.target(each))
    models = [version for kind, _, version in plane.arm.assets if kind == "models"]
    kept = [weights_name(each.manifest.digest) for each in artifacts[2:]]
    assert sorted(models) == sorted(kept)
    stored = {
        path.split("/")[2] for path in plane.blobs.blobs if path.startswith("llama-hub/models")
    }
    assert stored == set(kept)


def test_the_service_is_told_what_the_spec_says(
    plane: Plane, drive: Driver, artifact: Artifact
) -> None:
    spec = {"context": 128, "concurrency": 4, "quantization": "int8", "environment": {"LEVEL": "1"}}
    drive.apply(drive.target(artifact, instance="Standard_NC48ads_A100_v4", **spec))
    (online,) = plane.arm.deployments.values()
    assert online.body["properties"]["environmentVariables"] == {
        "LEVEL": "1",
        "LLAMA_HUB_CONTEXT": "128",
        "LLAMA_HUB_MAX_BATCH": "4",
        "LLAMA_HUB_PLATFORM": "azureml",
        "LLAMA_HUB_PORT": "8080",
        "LLAMA_HUB_QUANTIZE": "int8",
        "LLAMA_HUB_SERVED_NAME": "tiny-chat",
        "LLAMA_HUB_TENSOR_PARALLEL": "2",
    }
    environment = next(body for key, body in plane.arm.assets.items() if key[0] == "environments")
    assert environment["properties"]["build"]["dockerfilePath"] == "Dockerfile.cuda"


def test_probes_wait_as_long_as_the_model_needs(
    plane: Plane, drive: Driver, artifact: Artifact
) -> None:
    target = drive.target(artifact)
    manifest = target.artifact.manifest
    large = FileEntry("model-2.safetensors", 138 * 10**9, "0" * 64)
    entries = dataclasses.replace(manifest, files=(*manifest.files, large))
    big = dataclasses.replace(target, artifact=dataclasses.replace(artifact, manifest=entries))
    patience = [
        probe["failureThreshold"] * (seconds(probe["period"]) or 0)
        for probe in (bodies.readiness(target), bodies.readiness(big))
    ]
    assert patience[0] >= 300
    assert patience[1] >= 2 * 138e9 / 150e6
    ours = Options()
    # Our process answers at once.
    assert bodies.liveness(big, ours) == bodies.liveness(target, ours)


def test_autoscale_follows_the_deployment(plane: Plane, drive: Driver, artifact: Artifact) -> None:
    drive.apply(drive.target(artifact, replicas_max=3))
    ((first, setting),) = plane.arm.autoscale.items()
    assert setting["properties"]["profiles"][0]["capacity"] == {
        "minimum": "1",
        "maximum": "3",
        "default": "1",
    }
    deployment = next(iter(plane.arm.deployments.values()))
    deployment.body["sku"]["capacity"] = 3  # Azure Monitor has scaled out
    assert {step.action for step in drive.plan(drive.target(artifact, replicas_max=3))} == {"noop"}
    drive.apply(drive.target(artifact, replicas_max=3, context=128))
    ((second, _),) = plane.arm.autoscale.items()
    assert second != first
    drive.apply(drive.target(artifact, context=128))
    assert plane.arm.autoscale == {}


def test_delete_leaves_nothing(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact
) -> None:
    drive.apply(drive.target(artifact, replicas_max=2))
    assert kinds(drive.delete("support"))[:2] == ["delete autoscale", "delete endpoint"]
    arm = plane.arm
    left = (arm.endpoints, arm.deployments, arm.assets, arm.autoscale, plane.blobs.blobs)
    assert left == ({}, {}, {}, {}, {})
    assert backend.observe("support").resources == ()
    assert list(backend.orphans()) == []
    assert list(backend.list()) == []
    with pytest.raises(NotFoundError):
        backend.status("support")


def test_deleting_what_is_gone_is_success(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact
) -> None:
    drive.apply(drive.target(artifact, replicas_max=2))
    steps = backend.plan_delete("support", backend.observe("support"))
    ghost = Step("delete", "deployment", "support/rev-0000000000", "ghost")
    for step in [*steps, *steps, ghost]:
        backend.execute(step, Context(None))
    assert plane.arm.endpoints == {}


def test_weights_can_outlive_their_deployment(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact
) -> None:
    drive.apply(drive.target(artifact, options={"keep_weights": True}))
    drive.delete("support")
    assert any(path.endswith(".safetensors") for path in plane.blobs.blobs)
    (orphan,) = backend.orphans()
    assert orphan.kind == "weights"
    backend.execute(Step("delete", orphan.kind, orphan.name, "gc"), Context(None))
    assert plane.blobs.blobs == {}


def test_shared_weights_stay_while_somebody_uses_them(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact
) -> None:
    drive.apply(drive.target(artifact))
    plane.forget()
    drive.apply(drive.target(artifact, name="second"))
    sent = [line for line in plane.writes() if "llama-hub/models" in line and "PUT" in line]
    assert sent == []  # the content was there
    drive.delete("support")
    assert any(path.endswith(".safetensors") for path in plane.blobs.blobs)
    assert ask(backend, "second")["choices"]
    drive.delete("second")
    assert plane.blobs.blobs == {}


def test_lists_every_page_of_ours_and_nothing_else(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact
) -> None:
    names = [f"chat-{n}" for n in range(3)]
    for name in names:
        drive.apply(drive.target(artifact, name=name))
    foreign = plane.arm.endpoints["chat-0"]
    plane.arm.endpoints["someone-elses"] = type(foreign)(
        {**foreign.body, "tags": {}}, foreign.system, "Succeeded"
    )
    assert [found.name for found in backend.list()] == names
    assert all(found.status == "ready" for found in backend.list())


def test_an_endpoint_of_somebody_else_is_not_touched(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact
) -> None:
    drive.apply(drive.target(artifact))
    online = plane.arm.endpoints["support"]
    online.body = {**online.body, "tags": {}}
    plane.forget()
    with pytest.raises(ProvisioningError, match="not made by llama-hub"):
        drive.apply(drive.target(artifact, context=128))
    with pytest.raises(ProvisioningError, match="not made by llama-hub"):
        backend.execute(Step("delete", "endpoint", "support", ""), Context(None))
    assert not [line for line in plane.writes() if "onlineEndpoints" in line]


def test_drift_is_seen_and_mended(plane: Plane, drive: Driver, artifact: Artifact) -> None:
    target = drive.target(artifact)
    drive.apply(target)
    (online,) = plane.arm.deployments.values()
    online.body["properties"]["environmentVariables"]["LLAMA_HUB_CONTEXT"] = "1"
    assert kinds(drive.apply(target)) == ["update deployment"]
    assert online.body["properties"]["environmentVariables"]["LLAMA_HUB_CONTEXT"] == "256"
    path = next(path for path in plane.blobs.blobs if path.endswith(".safetensors"))
    del plane.blobs.blobs[path]
    assert "create weights" in kinds(drive.apply(target))
    assert path in plane.blobs.blobs


def test_every_revision_has_cost_something(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact
) -> None:
    """Failed ones as well, each since it was made; one odd price drops no other."""
    target = drive.target(artifact, replicas_min=2, replicas_max=2)
    drive.apply(target)
    plane.arm.failures.append(("ResourceNotReady", "it crashed"))
    with pytest.raises(ProvisioningError):
        drive.apply(drive.target(artifact, context=128))
    made = [online.system for online in plane.arm.deployments.values()]
    for system, days in zip(made, (2, 1), strict=True):
        system["createdAt"] = (datetime.now(UTC) - timedelta(days=days)).isoformat()
    (found,) = backend.list()
    assert found.cost_per_hour == pytest.approx(3 * 0.19)
    assert found.cost_so_far == pytest.approx(2 * 0.19 * 48 + 0.19 * 24, abs=0.02)


@pytest.mark.parametrize("gpus", [0, 1])
def test_scaling_follows_what_the_machine_computes_with(
    drive: Driver, artifact: Artifact, gpus: int
) -> None:
    instance = "Standard_NC24ads_A100_v4" if gpus else "Standard_F4s_v2"
    target = drive.target(artifact, instance=instance, replicas_max=2)
    step = next(step for step in drive.plan(target) if step.kind == "autoscale")
    (profile,) = step.body["properties"]["profiles"]
    metrics = {rule["metricTrigger"]["metricName"] for rule in profile["rules"]}
    assert metrics == {"GpuUtilizationPercentage" if gpus else "CpuUtilizationPercentage"}


def test_what_the_service_adds_and_respells_is_no_difference(
    plane: Plane, drive: Driver, artifact: Artifact
) -> None:
    target = drive.target(artifact, environment={"LEVEL": "1"})
    drive.apply(target)
    (online,) = plane.arm.deployments.values()
    online.body["properties"]["environmentVariables"]["INJECTED"] = "by a policy"
    online.body["properties"]["requestSettings"]["requestTimeout"] = "PT180S"
    for (kind, _, _), body in plane.arm.assets.items():
        if kind == "models":
            body["properties"]["modelUri"] = body["properties"]["modelUri"].rstrip("/")
    assert {step.action for step in drive.plan(target)} == {"noop"}
    del online.body["properties"]["environmentVariables"]["INJECTED"]
    scaled = drive.target(artifact, environment={"LEVEL": "1"}, replicas_min=2, replicas_max=2)
    assert kinds(drive.apply(scaled)) == ["update deployment"]


def test_a_variable_that_the_spec_no_longer_has_goes(
    plane: Plane, drive: Driver, artifact: Artifact
) -> None:
    drive.apply(drive.target(artifact, environment={"LEVEL": "1"}))
    drive.apply(drive.target(artifact))
    (online,) = plane.arm.deployments.values()
    assert "LEVEL" not in online.body["properties"]["environmentVariables"]


def test_nothing_of_the_sdk_reaches_stdout_or_stderr(
    plane: Plane, drive: Driver, artifact: Artifact, capfd: pytest.CaptureFixture[str]
) -> None:
    drive.apply(drive.target(artifact))
    print("ours")
    drive.delete("support")
    said = capfd.readouterr()
    assert (said.out, said.err) == ("ours\n", "")


def test_proves_what_is_served_and_stored(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact, tmp_path: Path
) -> None:
    drive.apply(drive.target(artifact))
    proofs = backend.prove("support", artifact.manifest)
    assert [proof.what for proof in proofs][0] == "manifest"
    assert proofs[0].evidence == artifact.manifest.digest
    assert all(proof.ok for proof in proofs), proofs
    path = next(path for path in plane.blobs.blobs if path.endswith(".safetensors"))
    plane.blobs.blobs[path].data = b"other"
    other = make_artifact(tmp_path / "other", seed=1).manifest
    assert [proof.ok for proof in backend.prove("support", artifact.manifest)] == [
        True, True, True, False,
    ]  # fmt: skip
    assert not any(proof.ok for proof in backend.prove("support", other))


def test_as_many_tags_as_are_allowed_are_no_more_than_the_service_keeps(
    plane: Plane, drive: Driver, artifact: Artifact
) -> None:
    options = {"keep_previous": True, "keep_weights": True}
    tags = {f"t{n}": "x" for n in range(OWN_LIMIT)}
    drive.apply(drive.target(artifact, tags=tags, options=options, ttl=3600))
    bodies_ = [*plane.arm.endpoints.values(), *plane.arm.deployments.values()]
    assert max(len(online.body["tags"]) for online in bodies_) == TAGS
    assert max(len(body["properties"]["tags"]) for body in plane.arm.assets.values()) <= TAGS


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"name": "ab"}, "3 to 32"),
        ({"access": "public"}, "access must be private"),
        ({"replicas_min": 0}, "cannot be scaled to zero"),
        ({"replicas_max": 51}, "at most 50"),
        ({"tags": {"a/b": "c"}}, "may not contain"),
        ({"tags": {"a": "x" * 257}}, "256"),
        ({"tags": {str(n): "x" for n in range(20)}}, "at most 8 tags"),
        ({"tags": {"llama-hub-spec": "x"}}, "belong to llama-hub"),
        ({"tags": {"Llama-Hub-new": "x"}}, "belong to llama-hub"),
        ({"region": "westeurope"}, "is in eastus"),
        ({"options": {"request_timeout": 181}}, "less than or equal to 180"),
        ({"options": {"mirror": 51}}, "less than or equal to 50"),
        ({"options": {"scale_in": 80}}, "less than scale_out"),
        ({"options": {"worksapce": "x"}}, "did you mean 'workspace'"),
    ],
)
def test_refuses_before_sending(
    plane: Plane, drive: Driver, artifact: Artifact, keys: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        drive.plan(drive.target(artifact, **keys))
    assert plane.writes() == []


def test_settings_may_come_from_options_of_the_spec(plane: Plane) -> None:
    assert not AzureBackend(subscription="").configured() or AzureBackend().configured()
    assert AzureBackend("s", "g", "w").client.scope.id.endswith("workspaces/w")


def test_without_a_workspace_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_SUBSCRIPTION_ID", "AZURE_RESOURCE_GROUP", "AZUREML_WORKSPACE_NAME"):
        monkeypatch.delenv(name, raising=False)
    backend = AzureBackend()
    assert not backend.configured()
    with pytest.raises(UsageError, match="subscription and the resource_group") as error:
        backend.observe("x")
    assert "AZURE_SUBSCRIPTION_ID" in error.value.hint
    assert [check.ok for check in backend.check()] == [False]
