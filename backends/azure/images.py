"""The two ways to run, and what each container needs to be told.

``container`` is our own service, built from ``deploy.image`` or given. ``vllm`` is vLLM's official
image with two more lines, because a managed endpoint starts a container without arguments: they
come in a variable. A managed endpoint has one scoring route; vLLM's ``/invocations`` takes the
bodies of all its OpenAI routes (``messages`` or ``prompt``), streamed or not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_hub.deploy.environment import service_environment, vllm_arguments

if TYPE_CHECKING:
    from llama_hub.backends.azure.options import Options
    from llama_hub.deploy.backend import Target

VLLM_IMAGE = "vllm/vllm-openai:v0.23.0"  # the same as on Hugging Face
ARGUMENTS = "VLLM_ARGS"  # as examples for Azure ML call it
# Where the platform mounts the model differs with its version: the folder with the configuration.
_START = (
    'exec vllm serve "$(dirname "$(find -L "$AZUREML_MODEL_DIR" -name config.json '
    f'| sort | head -n 1)")" ${ARGUMENTS}'
)


@dataclass(frozen=True)
class Contract:
    """How the platform talks to a container."""

    port: int
    live: str
    ready: str
    scoring: str
    loads_before_it_lives: bool  # whether the liveness route is silent until the model is loaded


CONTRACTS = {
    "container": Contract(8080, "/health/live", "/health/ready", "/score", False),
    "vllm": Contract(8000, "/health", "/health", "/invocations", True),
}


def is_built(options: Options) -> bool:
    """Whether Azure ML builds the image; for vLLM a given one is what it is built on."""
    return options.run == "vllm" or options.image is None


def vllm_context(options: Options) -> dict[str, bytes]:
    """Three lines on the official image, or on the one that is given (a mirror, a curated one)."""
    lines = (
        f"FROM {options.image or VLLM_IMAGE}",
        'ENTRYPOINT ["/bin/sh", "-c"]',
        f"CMD [{json.dumps(_START)}]",
    )
    return {"Dockerfile": "\n".join([*lines, ""]).encode()}


def variables(target: Target, options: Options) -> dict[str, str]:
    """What the container is told: our service in ``LLAMA_HUB_*``, vLLM in its own arguments."""
    contract = CONTRACTS[options.run]
    if options.run == "container":
        return service_environment(target, "azureml", port=contract.port)
    told = {"host": "0.0.0.0", "port": str(contract.port)} | vllm_arguments(target)
    # A shell splits them: none may hold a space, which neither numbers nor a ``ModelId`` do.
    arguments = " ".join(f"--{key} {value}" for key, value in sorted(told.items()))
    return _joined({ARGUMENTS: arguments}, target.spec.environment)


def _joined(ours: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Arguments of the spec's own come after ours, so that they count."""
    further = given.get(ARGUMENTS)
    both = {ARGUMENTS: f"{ours[ARGUMENTS]} {further}"} if further else {}
    return {**ours, **given, **both}
