"""``run: vllm``: the official image with three lines, told in its own terms, proven by storage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llama_hub.backends.azure import images
from llama_hub.backends.azure.backend import AzureBackend
from llama_hub.backends.azure.options import Options
from llama_hub.deploy import attest
from llama_hub.deploy.backend import SERVED, Artifact
from llama_hub.deploy.deployer import Deployer
from llama_hub.deploy.spec import DeploymentSpec
from tests.backends.azure.conftest import Driver
from tests.support.azure_plane import Plane
from tests.support.vllm_stub import Container

VLLM = {"run": "vllm"}


@pytest.fixture
def started(plane: Plane) -> list[Container]:
    """Containers that the plane starts, from the Dockerfile that it was sent."""
    made: list[Container] = []

    def launch(folder: Path, variables: dict[str, str]) -> Container:
        (dockerfile,) = (
            blob.data.decode() for name, blob in plane.blobs.blobs.items() if "Docker" in name
        )
        made.append(Container(dockerfile, folder, variables))
        return made[-1]

    plane.arm.launch = launch
    return made


def test_it_is_told_in_its_own_terms(
    plane: Plane,
    drive: Driver,
    backend: AzureBackend,
    artifact: Artifact,
    started: list[Container],
) -> None:
    target = drive.target(
        artifact, instance="Standard_NC48ads_A100_v4", concurrency=3, options=VLLM
    )
    steps = {step.kind: step for step in drive.plan(target)}
    assert "cannot state which manifest" in steps["environment"].note
    drive.judge(target)
    drive.apply(target)
    (container,) = started
    assert container.told["max_model_len"] == "256"
    assert container.told["max_num_seqs"] == "3"
    assert container.told["tensor_parallel_size"] == "2"
    assert container.told["served_model_name"] == "tiny-chat"
    assert container.told["port"] == "8000"
    assert (Path(container.told["model"]) / "llama-hub.json").is_file()
    answer = json.loads(b"".join(backend.invoke("support", {"prompt": "x"}, stream=False)))
    assert answer == {"choices": [{"text": "hi"}]}
    chat: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}
    answer = json.loads(b"".join(backend.invoke("support", chat, stream=False)))
    assert answer == {"choices": [{"message": "hi"}]}
    assert {step.action for step in drive.plan(target)} == {"noop"}


def test_the_build_is_three_lines_on_the_official_image_or_on_ones_own() -> None:
    lines = images.vllm_context(Options(run="vllm"))["Dockerfile"].decode().splitlines()
    assert lines[0] == f"FROM {images.VLLM_IMAGE}"
    assert len(lines) == 3
    own = images.vllm_context(Options(run="vllm", image="registry.azurecr.io/vllm:1"))
    assert own["Dockerfile"].startswith(b"FROM registry.azurecr.io/vllm:1\n")


def test_a_machine_without_a_gpu_is_not_offered(drive: Driver, artifact: Artifact) -> None:
    assert drive.target(artifact, options=VLLM).offer.accelerators >= 1
    assert drive.target(artifact).offer.accelerators == 0


def test_a_t4_is_told_to_compute_in_float16(drive: Driver, artifact: Artifact) -> None:
    target = drive.target(artifact, instance="Standard_NC4as_T4_v3", options=VLLM)
    told = images.variables(target, Options(run="vllm"))[images.ARGUMENTS]
    # The test's weights are float32; those of Llama 2 are bfloat16, which a T4 has not.
    need = type(target.need)(**{**vars(target.need), "dtype": "bfloat16"})
    llama = type(target)(**{**vars(target), "need": need})
    assert "--dtype" not in told
    assert "--dtype float16" in images.variables(llama, Options(run="vllm"))[images.ARGUMENTS]


def test_further_arguments_come_after_ours(drive: Driver, artifact: Artifact) -> None:
    environment = {images.ARGUMENTS: "--seed 7", "VLLM_LOGGING_LEVEL": "DEBUG"}
    target = drive.target(artifact, options=VLLM, environment=environment)
    told = images.variables(target, Options(run="vllm"))
    assert told[images.ARGUMENTS].endswith("--seed 7")
    assert told["VLLM_LOGGING_LEVEL"] == "DEBUG"


def test_it_may_load_for_as_long_as_it_takes(drive: Driver, artifact: Artifact) -> None:
    """vLLM is silent until the weights are loaded, and must not be taken for a hung one."""
    from llama_hub.backends.azure import bodies

    target = drive.target(artifact, options=VLLM)
    manifest = type("Large", (), {"bytes": int(138e9)})
    large = type("Target", (), {"artifact": type("A", (), {"manifest": manifest})})
    probe = bodies.liveness(large, Options(run="vllm"))  # type: ignore[arg-type]
    assert probe["failureThreshold"] * 30 >= bodies.load_seconds(large)  # type: ignore[arg-type]
    ours = bodies.liveness(target, Options())
    assert ours["failureThreshold"] == 10


def test_storage_proves_the_bytes_and_the_rest_is_said(
    plane: Plane,
    drive: Driver,
    backend: AzureBackend,
    artifact: Artifact,
    started: list[Container],
    tmp_path: Path,
) -> None:
    drive.apply(drive.target(artifact, options=VLLM))
    proofs = {one.what: one for one in backend.prove("support", artifact.manifest)}
    assert "does not state which bytes" in proofs[SERVED].evidence
    assert all(one.ok for one in proofs.values())

    def find(spec: DeploymentSpec) -> Artifact:
        return artifact

    found = attest.attest(Deployer(backend, artifacts=find, root=tmp_path), "support", find)
    (served,) = [one for one in found.checks if one.what == "served"]
    assert found.served is None
    # Deployed from another machine, as far as this journal knows: nothing vouches for the bytes.
    assert not served.ok
    assert not found.ok
    blob = next(name for name in plane.blobs.blobs if name.endswith("safetensors"))
    plane.blobs.blobs[blob].metadata["llama_hub_sha256"] = "0" * 64
    again = {one.what: one.ok for one in backend.prove("support", artifact.manifest)}
    assert not again[SERVED]


def test_it_is_removed_as_it_was_made(
    plane: Plane, drive: Driver, artifact: Artifact, started: list[Container]
) -> None:
    drive.apply(drive.target(artifact, options=VLLM))
    drive.delete("support")
    assert plane.blobs.blobs == {}
    assert plane.arm.assets == {}
