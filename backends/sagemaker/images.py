"""The two ways to run, and what each container needs to be told.

``container`` is our own service, built in the account or given. ``vllm`` is an image of AWS's deep
learning containers, taken as it is: the vLLM one, which turns variables ``SM_VLLM_*`` into
arguments of ``vllm serve``, or LMI (DJL Serving), whose ``OPTION_*`` are vLLM's engine arguments.
Both answer ``/ping`` and ``/invocations``, and find the weights where SageMaker puts them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llama_hub.deploy.environment import PREFIX, service_environment, vllm_arguments

if TYPE_CHECKING:
    from llama_hub.backends.sagemaker.options import Options
    from llama_hub.deploy.backend import Target

VLLM_IMAGE = "vllm:server-sagemaker-cuda-v2.3"  # Amazon Linux 2023, CUDA 13.0
MODEL = "/opt/ml/model"  # where SageMaker puts the weights
VLLM_PREFIX, LMI_PREFIX = "SM_VLLM_", "OPTION_"
USUAL_REGISTRY = "763104351884"
# Accounts of the deep learning containers where they are not the usual one
# (docs/reference/region_availability.md of aws/deep-learning-containers, read 2026-11-26).
REGISTRIES = {
    "af-south-1": "626614931356",
    "ap-east-1": "871362719292",
    "ap-east-2": "975050140332",
    "ap-northeast-3": "364406365360",
    "ap-south-2": "772153158452",
    "ap-southeast-3": "907027046896",
    "ap-southeast-4": "457447274322",
    "ap-southeast-5": "550225433462",
    "ap-southeast-6": "633930458069",
    "ap-southeast-7": "590183813437",
    "ca-west-1": "204538143572",
    "cn-north-1": "727897471807",
    "cn-northwest-1": "727897471807",
    "eu-central-2": "380420809688",
    "eu-south-1": "692866216735",
    "eu-south-2": "503227376785",
    "il-central-1": "780543022126",
    "me-central-1": "914824155844",
    "me-south-1": "217643126080",
    "me-west-1": "124382933778",
    "mx-central-1": "637423239942",
}


def is_built(options: Options) -> bool:
    """Whether the account has to build the image."""
    return options.run == "container" and options.image is None


def owner(region: str) -> str:
    """Account of AWS's own images in a region."""
    return REGISTRIES.get(region, USUAL_REGISTRY)


def is_lmi(image: str) -> bool:
    """Whether an image is LMI, which has terms of its own."""
    return re.search(r"/(djl-inference|lmi)[:@/]", image) is not None


def environment(
    target: Target, options: Options, image: str, *, request_timeout: int
) -> dict[str, str]:
    """Variables of the container, the spec's own over ours; no secrets, SageMaker shows them."""
    if options.run == "container":
        return service_environment(target, "sagemaker", request_timeout=request_timeout)
    told = _lmi(target) if is_lmi(image) else _vllm(target)
    return told | dict(target.spec.environment)


def _vllm(target: Target) -> dict[str, str]:
    told = {"model": MODEL} | vllm_arguments(target)
    return {_variable(VLLM_PREFIX, key): value for key, value in told.items()}


def _lmi(target: Target) -> dict[str, str]:
    """LMI takes vLLM's engine arguments, but for three that it has its own names for."""
    told = vllm_arguments(target)
    own = {
        "model-id": MODEL,
        "rolling-batch": "vllm",
        "max-rolling-batch-size": told.pop("max-num-seqs"),
        "tensor-parallel-degree": told.pop("tensor-parallel-size"),
    }
    if "dtype" in told:
        own["dtype"] = {"float16": "fp16", "bfloat16": "bf16"}.get(told["dtype"], told["dtype"])
    return {_variable(LMI_PREFIX, key): value for key, value in (told | own).items()}


def _variable(prefix: str, argument: str) -> str:
    return prefix + argument.upper().replace("-", "_")


def states_manifest(model: Mapping[str, Any]) -> bool:
    """Whether the container of a model is our service, which says what it serves."""
    variables = model.get("PrimaryContainer", {}).get("Environment", {})
    return f"{PREFIX}PLATFORM" in variables


def note(options: Options, image: str) -> str:
    """For the plan: which way it runs, why, and what that way can prove."""
    if options.run == "container":
        given = "" if options.image is None else f"our service in {image}, as options.image says; "
        return f"{given}it states which manifest it serves" if given else ""
    name = image.partition("/")[2]
    chat = ", of which it takes chat bodies (messages) only" if is_lmi(image) else ""
    return (
        f"vLLM in AWS's own {name}, as options.run says, so that no image is built{chat}; it "
        "cannot state which manifest it serves, so attest goes by the digests that S3 states. "
        "There is no API key: calls are signed by an AWS identity"
    )
