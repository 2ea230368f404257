"""``options`` of a spec for SageMaker, and what is checked before anything is sent."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llama_hub.backends.sagemaker import machines
from llama_hub.deploy.spec import DeploymentSpec
from llama_hub.errors import UsageError

MOST_TAGS = 50 - 6  # of one resource; six are ours
TAG = re.compile(r"[\w\s.:/=+\-@]*")
SECRET = re.compile(r"(?i)(token|secret|password|passwd|credential|private_?key|api_?key)$")
ROLE = r"^arn:aws[a-z-]*:iam::\d{12}:role/.+$"
IMAGE = r"^\d{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com(\.cn)?/[^\s:@]+[:@]\S+$"
Ami = Literal[
    "al2-ami-sagemaker-inference-gpu-2",
    "al2-ami-sagemaker-inference-gpu-2-1",
    "al2-ami-sagemaker-inference-gpu-3-1",
    "al2-ami-sagemaker-inference-neuron-2",
    "al2023-ami-sagemaker-inference-gpu-4-1",
]
MOST_VARIABLES = 100 - 10  # of one container; at most ten are ours
LONGEST_VARIABLE = 1024  # bytes of a name or a value


class Options(BaseModel):
    """Settings that only SageMaker knows."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    profile: str | None = None
    """Profile of the AWS configuration; none: AWS_PROFILE, else the default chain."""
    assume_role: str | None = Field(None, pattern=ROLE)
    """ARN of a role that is assumed for every call."""
    bucket: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
    """Bucket for the weights; none: sagemaker-REGION-ACCOUNT, made if it is missing."""
    role: str | None = Field(None, pattern=ROLE)
    """Execution role of the endpoint; none: one is made that may do the least it can."""
    run: Literal["container", "vllm"] = "container"
    """Our own service, or vLLM in AWS's own image, which needs a machine with a GPU."""
    image: str | None = Field(None, pattern=IMAGE, max_length=255)
    """Image of the service in ECR of the region; none: it is built there with CodeBuild. With run
    vllm: another image with vLLM (AWS's vllm, huggingface-vllm, djl-inference) than the usual."""
    cuda: float | None = Field(None, ge=11, le=20)
    """CUDA version of the image, where its tag does not tell (12.4, 13.0)."""
    ami: Ami | None = None
    """InferenceAmiVersion; none: the one whose driver matches the image."""
    fallback: tuple[str, ...] = Field((), max_length=4)
    """Other machine types, in order, for when the first has no capacity."""
    provision_timeout: int = Field(1800, ge=300, le=3600)
    """Seconds to look for a machine of each type, where there are several."""
    routing: Literal["LEAST_OUTSTANDING_REQUESTS", "RANDOM", "PREFIX_AWARE"] = (
        "LEAST_OUTSTANDING_REQUESTS"
    )
    """How requests are spread over instances."""
    update: Literal["all-at-once", "canary", "linear", "rolling"] = "all-at-once"
    """How a new revision takes over; all but the first need two instances at least."""
    step: int = Field(10, ge=5, le=50)
    """Percent of the instances that move at a time, where the update is gradual."""
    soak: int | None = Field(None, ge=0, le=3600)
    """Seconds for which the old revision stays beside the new one, ready to come back, and bills;
    none: 300 with alarms, which can roll back only then, else 0."""
    alarms: bool = True
    """Make alarms on errors and latency that roll an update back by themselves."""
    latency: int = Field(60, ge=1, le=3600)
    """Seconds of model latency (99th percentile) above which an update is rolled back."""
    scale_target: float | None = Field(None, gt=0)
    """Requests under way per instance that autoscaling aims at; none: 70 % of concurrency."""
    asynchronous: bool = False
    """Queue requests in S3 (up to an hour each, scales to zero) instead of answering at once."""
    network_isolation: bool = True
    """Cut the container off from every network."""
    subnets: tuple[str, ...] = Field((), max_length=16)
    """Subnets of your VPC."""
    security_groups: tuple[str, ...] = Field((), max_length=5)
    """Security groups in that VPC."""
    kms_key: str | None = None
    """KMS key for the instances' volumes, captured data and the weights in S3."""
    data_capture: int = Field(0, ge=0, le=100)
    """Percent of requests and answers that are kept in S3."""

    @model_validator(mode="after")
    def _together(self) -> Options:
        if bool(self.subnets) != bool(self.security_groups):
            raise ValueError("subnets and security_groups belong together")
        return self


def read(spec: DeploymentSpec) -> Options:
    """The options of ``spec``; ``UsageError`` for what the platform would refuse later."""
    options = Options.model_validate(dict(spec.options))
    for problem, found in (_problems(spec, options) | _text_problems(spec)).items():
        if found:
            raise UsageError(
                f"SageMaker: {problem}", hint="docs/sagemaker.md says what is possible"
            )
    return options


def _problems(spec: DeploymentSpec, options: Options) -> dict[str, bool]:
    idle = spec.scale_to_zero or spec.replicas_min == 0
    gradual = options.update != "all-at-once"
    return {
        "calls are always signed by an AWS identity: access must be private": spec.access
        != "private",
        "replicas_min 0 needs scale_to_zero: true": spec.replicas_min == 0
        and not spec.scale_to_zero,
        "a gradual update needs two instances at least": gradual and spec.replicas_min < 2,
        "what scales to zero is updated all at once": idle and gradual,
        **_fallback_problems(options),
        "data capture and asynchronous answers exclude each other": options.asynchronous
        and options.data_capture > 0,
    }


def _fallback_problems(options: Options) -> dict[str, bool]:
    strange = [one for one in options.fallback if one not in machines.table()]
    return {f"the machine types {', '.join(strange)} of fallback are not known": bool(strange)}


def _text_problems(spec: DeploymentSpec) -> dict[str, bool]:
    secrets = [key for key in spec.environment if SECRET.search(key)]
    folded = [key.lower() for key in spec.tags]
    size = sum(len(f"{key}{value}".encode()) for key, value in spec.environment.items())
    return {
        f"{', '.join(secrets)}: variables are shown to whoever may describe the model, so they "
        "may hold no secrets": bool(secrets),
        "the environment is larger than 32 KB": size > 30 << 10,
        f"at most {MOST_VARIABLES} variables of your own are possible, of the 100 that SageMaker "
        "takes": len(spec.environment) > MOST_VARIABLES,
        f"a variable's name and its value have at most {LONGEST_VARIABLE} bytes each": any(
            len(text.encode()) > LONGEST_VARIABLE
            for pair in spec.environment.items()
            for text in pair
        ),
        "tags differ only in case, which IAM does not tell apart": len(set(folded)) < len(folded),
        f"at most {MOST_TAGS} tags of your own are possible": len(spec.tags) > MOST_TAGS,
        "tags may hold letters, digits, spaces and _.:/=+-@ only": any(
            not TAG.fullmatch(text) for pair in spec.tags.items() for text in pair
        ),
        "a tag's name has at most 128 characters, its value 256": any(
            len(key) > 128 or len(value) > 256 for key, value in spec.tags.items()
        ),
        "tags that begin with aws: belong to AWS": any(
            key.lower().startswith("aws:") for key in spec.tags
        ),
    }
