"""``run: vllm``: AWS's own images, told in their own terms, proven by S3."""

from __future__ import annotations

import json

import pytest

from llama_hub.backends.sagemaker import images
from llama_hub.backends.sagemaker.bodies import Account
from llama_hub.deploy import attest
from llama_hub.deploy.backend import SERVED
from llama_hub.errors import LlamaHubError, UsageError
from tests.support.sagemaker_bench import Bench
from tests.support.sagemaker_plane import Plane
from tests.support.sagemaker_vllm import Vllm

VLLM = {"run": "vllm", "image": None}
LMI = "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.36.0-lmi28.0.0-cu130"
FOUR = {"instance": "ml.g5.12xlarge", "concurrency": 3, "context": 128}
CHAT = {"messages": [{"role": "user", "content": "one two"}]}


@pytest.fixture(autouse=True)
def containers(plane: Plane) -> None:
    """Containers of AWS's images."""
    plane.launch = Vllm


def serving(plane: Plane) -> Vllm:
    found = plane.control.endpoints["x"].variants["AllTraffic"].container
    assert isinstance(found, Vllm)
    return found


@pytest.mark.parametrize("image", [None, LMI])
def test_it_is_told_in_the_images_own_terms(plane: Plane, bench: Bench, image: str | None) -> None:
    options = VLLM | {"image": image}
    plan = bench.plan(**FOUR, options=options)
    assert "image" not in {step.kind for step in plan.steps}  # nothing is built
    (model,) = [step for step in plan.steps if step.kind == "model"]
    assert "cannot state which manifest" in model.note
    assert ("messages" in model.note) == (image is not None)
    assert bench.deploy(**FOUR, options=options).status == "ready"
    told = serving(plane).told
    assert (told["max_model_len"], told["max_num_seqs"]) == (128, 3)
    assert (told["tensor_parallel_size"], told["served_model_name"]) == (4, "llama-demo")
    assert 0 < told["gpu_memory_utilization"] < 1
    answer = json.loads(b"".join(bench.backend().invoke("x", CHAT, stream=False)))
    assert answer["choices"][0]["message"]["content"] == "one two"
    assert list(bench.backend().invoke("x", CHAT | {"stream": True}, stream=True))
    assert bench.plan(**FOUR, options=options).changes == ()
    bench.delete()
    assert plane.inventory() == []


def test_the_usual_image_is_that_of_the_region_with_its_driver(plane: Plane, bench: Bench) -> None:
    bench.deploy(instance="ml.g5.2xlarge", options=VLLM)
    image = plane.body_of("CreateModel")["PrimaryContainer"]["Image"]
    assert image == f"763104351884.dkr.ecr.us-east-1.amazonaws.com/{images.VLLM_IMAGE}"
    variant = plane.body_of("CreateEndpointConfig")["ProductionVariants"][0]
    assert variant["InferenceAmiVersion"] == "al2023-ami-sagemaker-inference-gpu-4-1"
    assert images.owner("eu-central-2") == "380420809688"
    beijing = Account("123456789012", "cn-north-1", "aws-cn", "b")
    assert beijing.registry_of("1") == "1.dkr.ecr.cn-north-1.amazonaws.com.cn"


def test_a_machine_that_it_does_not_run_on_is_not_offered(plane: Plane, bench: Bench) -> None:
    plane.quotas["ml.g4dn.xlarge"] = 1
    offer = bench.plan(options=VLLM).offer
    assert offer is not None
    assert offer.accelerators >= 1
    for instance in ("ml.m5.large", "ml.g4dn.xlarge"):  # no GPU; a T4
        with pytest.raises(LlamaHubError, match="not offered"):
            bench.plan(instance=instance, options=VLLM)


def test_variables_of_ones_own_come_over_ours(plane: Plane, bench: Bench) -> None:
    environment = {"SM_VLLM_SEED": "7", "SM_VLLM_MAX_NUM_SEQS": "2"}
    bench.deploy(**FOUR, options=VLLM, environment=environment)
    assert serving(plane).told["seed"] == 7
    assert serving(plane).told["max_num_seqs"] == 2


def test_an_api_key_is_refused_for_everybody_may_read_it(bench: Bench) -> None:
    with pytest.raises(UsageError, match="may hold no secrets"):
        bench.plan(options=VLLM, environment={"SM_VLLM_API_KEY": "secret"})


def test_s3_proves_the_bytes_and_the_rest_is_said(plane: Plane, bench: Bench) -> None:
    bench.deploy(instance="ml.g5.2xlarge", options=VLLM)
    proofs = {one.what: one for one in bench.backend().prove("x", bench.artifact().manifest)}
    assert "does not state which bytes" in proofs[SERVED].evidence
    assert all(one.ok for one in proofs.values())
    found = attest.attest(bench.deployer(), "x", bench.artifact)
    (served,) = [one for one in found.checks if one.what == SERVED]
    assert (served.ok, "does not state" in served.evidence) == (True, True)
    (bucket,) = plane.s3.buckets.values()
    path = next(key for key in bucket.objects if key.endswith("model.safetensors"))
    bucket.objects[path].checksums["sha256"] = "A" * 43 + "="
    again = {one.what: one.ok for one in bench.backend().prove("x", bench.artifact().manifest)}
    assert not again[SERVED]


def test_one_that_sleeps_is_not_woken_for_a_proof(plane: Plane, bench: Bench) -> None:
    from tests.support import sagemaker_host as host

    plane.launch = host.stub
    bench.deploy(scale_to_zero=True, replicas_min=0, replicas_max=2)
    (component,) = plane.control.components
    plane.control.scale_component(component, 0)
    proofs = {one.what: one for one in bench.backend().prove("x", bench.artifact().manifest)}
    assert "it sleeps" in proofs[SERVED].evidence
    assert all(one.ok for one in proofs.values())
