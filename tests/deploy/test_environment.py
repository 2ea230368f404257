"""Every backend tells its containers what the machine needs: devices, type, context, batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from llama_hub.backends.azure import bodies as azure
from llama_hub.backends.azure.options import read as azure_options
from llama_hub.backends.huggingface import bodies as huggingface
from llama_hub.backends.huggingface import machines as huggingface_machines
from llama_hub.backends.huggingface.options import read as huggingface_options
from llama_hub.backends.local import plan as local
from llama_hub.backends.local.options import LocalOptions
from llama_hub.backends.sagemaker import machines as sagemaker_machines
from llama_hub.backends.sagemaker.bodies import Account, DesiredState
from llama_hub.backends.sagemaker.options import read as sagemaker_options
from llama_hub.deploy import sizing
from llama_hub.deploy.backend import Target
from llama_hub.deploy.environment import engine_options, has_bfloat16, vllm_arguments
from llama_hub.deploy.offer import Offer
from llama_hub.deploy.spec import DeploymentSpec
from llama_hub.errors import UsageError
from llama_hub.inference.service.moderators import policy
from tests.support.deployments import TINY, artifact, make_folder

Told = Mapping[str, str]


def on_azure(target: Target) -> Told:
    scope = azure.WorkspaceScope("s", "g", "w")
    workspace = azure.Workspace(scope, "eastus", "https://a.blob.core.windows.net", "c")
    options = azure_options(target.spec)
    body = azure.deployment_body(target, workspace, options, "m:1", "e:1")
    return dict(body["properties"]["environmentVariables"])


def on_sagemaker(target: Target) -> Told:
    account = Account("123456789012", "us-east-1", "aws", "b")
    desired = DesiredState(target, sagemaker_options(target.spec), account, "c" * 64)
    return dict(desired.model["PrimaryContainer"]["Environment"])


def on_huggingface(target: Target) -> Told:
    options = huggingface_options(target.spec)
    body = huggingface.endpoint_body(target, options, huggingface.Weights("o/r", "main"))
    return dict(body["model"]["env"])


CLOUDS: dict[str, tuple[Callable[[Target], Told], str, dict[str, Any]]] = {
    "azure": (on_azure, "Standard_NC96ads_A100_v4", {}),
    "sagemaker": (on_sagemaker, "ml.g5.12xlarge", {}),
    "huggingface container": (on_huggingface, "nvidia-l4-x4", {"image": "ghcr.io/a/b:1"}),
    "huggingface handler": (on_huggingface, "nvidia-l4-x4", {"run": "handler"}),
}


def target_on(
    root: Path, cloud: str, options: Mapping[str, Any], offer: Offer, dtype: str = "bfloat16"
) -> Target:
    spec = DeploymentSpec(
        name="chat", backend=cloud, model="llama-demo", context=128, concurrency=3,
        environment={"LEVEL": "1"}, options=dict(options),
    )  # fmt: skip
    folder = artifact(make_folder(root / "model"))
    return Target(spec, folder, sizing.need(TINY, spec, dtype), offer, "0" * 10)


@pytest.mark.parametrize("case", CLOUDS)
def test_every_cloud_tells_how_many_devices_share_the_model(tmp_path: Path, case: str) -> None:
    tell, instance, options = CLOUDS[case]
    four = Offer(instance, "r", 4, 24 << 30, 1.0)
    told = tell(target_on(tmp_path, case.split()[0], options, four))
    assert told["LLAMA_HUB_TENSOR_PARALLEL"] == "4"
    assert (told["LLAMA_HUB_CONTEXT"], told["LLAMA_HUB_MAX_BATCH"]) == ("128", "3")
    assert told["LLAMA_HUB_SERVED_NAME"] == "llama-demo"
    assert told["LEVEL"] == "1"
    assert "LLAMA_HUB_DTYPE" not in told
    one = dataclasses.replace(four, accelerators=1)
    told = tell(target_on(tmp_path, case.split()[0], options, one))
    assert "LLAMA_HUB_TENSOR_PARALLEL" not in told


@pytest.mark.parametrize("case", CLOUDS)
def test_every_cloud_tells_an_old_accelerator_to_compute_in_float16(
    tmp_path: Path, case: str
) -> None:
    tell, instance, options = CLOUDS[case]
    old = Offer(instance, "r", 1, 16 << 30, 1.0, bfloat16=False)
    backend = case.split()[0]
    assert tell(target_on(tmp_path, backend, options, old))["LLAMA_HUB_DTYPE"] == "float16"
    told = tell(target_on(tmp_path, backend, options, old, "float16"))
    assert "LLAMA_HUB_DTYPE" not in told


def test_vllm_is_told_in_its_own_way(tmp_path: Path) -> None:
    four = Offer("nvidia-l4-x4", "r", 4, 24 << 30, 1.0)
    target = target_on(tmp_path, "huggingface", {"run": "vllm"}, four)
    options = huggingface_options(target.spec)
    body = huggingface.endpoint_body(target, options, huggingface.Weights("o/r", "main"))
    assert body["model"]["image"]["vLLM"]["tensorParallelSize"] == 4
    assert body["model"]["env"] == {"LEVEL": "1"}


@pytest.mark.parametrize(
    ("device", "known"),
    [
        ("Tesla T4", False), ("nvidia-t4", False), ("Tesla V100-SXM2-16GB", False),
        ("nvidia-l4", True), ("NVIDIA L40S", True), ("NVIDIA A100-SXM4-80GB", True),
        ("NVIDIA H100 80GB HBM3", True),
    ],
)  # fmt: skip
def test_which_accelerators_compute_in_bfloat16(device: str, known: bool) -> None:
    assert has_bfloat16(device) is known


def test_the_lists_of_machines_know_it() -> None:
    g4dn = sagemaker_machines.find("ml.g4dn.xlarge")
    assert not sagemaker_machines.offer(g4dn, "r", {}, None, "").bfloat16
    t4 = {
        "accelerator": "gpu", "numAccelerators": 4, "gpuMemoryGb": 64, "instanceType": "nvidia-t4",
        "instanceSize": "x4", "architecture": "NVIDIA T4",
    }  # fmt: skip
    regions = [{"name": "r", "computes": [t4]}]
    (offer,) = huggingface_machines.offers(
        {"vendors": [{"name": "aws", "regions": regions}]}, "aws", None
    )
    assert (offer.accelerators, offer.bfloat16) == (4, False)


def test_a_local_replica_is_told_as_well(tmp_path: Path) -> None:
    old = Offer("gpu-2", "here", 2, 16 << 30, None, bfloat16=False)
    target = target_on(tmp_path, "local", {}, old)
    argv = local._argv(target, LocalOptions(), ["serve"])
    assert argv[argv.index("--tensor-parallel") + 1] == "2"
    assert argv[argv.index("--dtype") + 1] == "float16"
    argv = local._argv(target, LocalOptions(dtype="float32"), ["serve"])
    assert argv[argv.index("--dtype") + 1] == "float32"


def test_the_engine_behind_a_handler_reads_the_same_variables(tmp_path: Path) -> None:
    old = Offer("nvidia-t4-x4", "r", 4, 16 << 30, 1.0, bfloat16=False)
    told = on_huggingface(target_on(tmp_path, "huggingface", {"run": "handler"}, old))
    options = engine_options(told)
    assert (options.tensor_parallel, options.dtype) == (4, "float16")
    assert (options.context, options.max_batch) == (128, 3)
    assert engine_options({}).tensor_parallel == 1


RULES = {"mode": "parallel", "moderators": [{"kind": "words", "words": ["bomb"]}]}


@pytest.mark.parametrize("case", CLOUDS)
def test_every_runtime_keeps_the_policy_or_refuses_it(tmp_path: Path, case: str) -> None:
    told, instance, options = CLOUDS[case]
    target = target_on(tmp_path, case.split()[0], options, Offer(instance, "r", 4, 24 << 30, 1.0))
    target = dataclasses.replace(target, spec=dataclasses.replace(target.spec, moderation=RULES))
    if "handler" in case:
        with pytest.raises(UsageError, match="without the policy"):
            told(target)
        return
    assert policy.from_variable(told(target)["LLAMA_HUB_MODERATION"]) == policy.of_spec(RULES)


def test_a_local_replica_keeps_the_policy_and_vllm_refuses_it(tmp_path: Path) -> None:
    target = target_on(tmp_path, "local", {}, Offer("cpu", "here", 0, 0, None))
    assert "LLAMA_HUB_MODERATION" not in local._environment(target)
    target = dataclasses.replace(target, spec=dataclasses.replace(target.spec, moderation=RULES))
    told = local._environment(target)["LLAMA_HUB_MODERATION"]
    assert policy.from_variable(told) == policy.of_spec(RULES)
    with pytest.raises(UsageError, match="without the policy"):
        vllm_arguments(target)
