"""The environment of a container of our service: from a target to ``LLAMA_HUB_*`` variables.

``llama-hub serve`` reads each of them as the option of the same name, so that every backend's
containers serve with the context, batch, devices and type that the plan was sized for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from llama_hub.errors import UsageError

if TYPE_CHECKING:
    from llama_hub.deploy.backend import Target
    from llama_hub.inference.config import EngineOptions

PREFIX = "LLAMA_HUB_"
WITHOUT_BFLOAT16 = {"t4", "v100", "p100", "p40", "m60"}  # compute capability below 8.0


def service_environment(
    target: Target,
    platform: str,
    *,
    port: int | None = None,
    request_timeout: int | None = None,
) -> dict[str, str]:
    """Variables of the service in its container; those of the spec go over ours.

    ``platform``: whose routes, paths and signals apply. ``port``: where it listens, if not where
    the platform has it by default. ``request_timeout``: seconds after which the platform cuts an
    answer off. No value is a secret: platforms show these to whoever may read the deployment.
    """
    spec = target.spec
    told: dict[str, str | int | None] = {
        "PLATFORM": platform,
        "CONTEXT": spec.context,
        "MAX_BATCH": spec.concurrency,
        "SERVED_NAME": target.artifact.manifest.model,
        "QUANTIZE": spec.quantization,
        "PORT": port,
        "REQUEST_TIMEOUT": request_timeout,
        "TENSOR_PARALLEL": tensor_parallel(target) if tensor_parallel(target) > 1 else None,
        "DTYPE": dtype(target),
        "MODERATION": moderation(target),
    }
    ours = {f"{PREFIX}{key}": str(value) for key, value in told.items() if value is not None}
    return ours | dict(spec.environment)


def vllm_arguments(target: Target) -> dict[str, str]:
    """The same in vLLM's own terms: name of its argument, without the dashes → value.

    Weights that we quantised say so in their ``config.json``, which vLLM reads by itself. An image
    that is configured by variables has them under the same names in capitals (``SM_VLLM_*``).
    ``UsageError`` for a spec with a moderation policy, which vLLM cannot keep.
    """
    refuse_moderation(target, "vLLM's own image")
    told = {
        "max-model-len": str(target.spec.context),
        "max-num-seqs": str(target.spec.concurrency),
        "served-model-name": str(target.artifact.manifest.model),
        "gpu-memory-utilization": f"{target.need.utilization:g}",
        "tensor-parallel-size": str(tensor_parallel(target)),
    }
    kind = dtype(target)
    return told | ({"dtype": kind} if kind else {})


def moderation(target: Target) -> str | None:
    """The policy for the service, as JSON; ``None`` without one."""
    if not target.spec.moderation:
        return None
    from llama_hub.inference.service.moderators import policy

    return policy.to_variable(policy.of_spec(target.spec.moderation))


def refuse_moderation(target: Target, runtime: str) -> None:
    """``UsageError`` for a spec with a policy that ``runtime``, which is not ours, cannot keep."""
    if target.spec.moderation:
        raise UsageError(
            f"{runtime} has no moderators, so that it would serve without the policy",
            hint="deploy with our container, or without `moderation`",
        )


def tensor_parallel(target: Target) -> int:
    """Devices over which every layer is split: all of the machine's; 1 on a CPU."""
    return max(1, target.offer.accelerators)


def dtype(target: Target) -> str | None:
    """The type to compute in where the machine cannot do the weights' own (T4, V100).

    ``None``: that of the folder.
    """
    if target.need.dtype == "bfloat16" and not target.offer.bfloat16:
        return "float16"
    return None


def has_bfloat16(device: str) -> bool:
    """Whether the accelerator called ``device`` (``Tesla T4``, ``nvidia-l4``) computes in it."""
    return not WITHOUT_BFLOAT16 & set(re.split(r"[^a-z0-9]+", device.lower()))


def engine_options(variables: Mapping[str, str]) -> EngineOptions:
    """The engine's options out of the variables, where our service is no process of its own."""
    from llama_hub.inference.config import EngineOptions

    def told(key: str) -> str | None:
        return variables.get(PREFIX + key) or None

    return EngineOptions(
        dtype=told("DTYPE") or "auto",
        context=int(told("CONTEXT") or 0) or None,
        max_batch=int(told("MAX_BATCH") or EngineOptions.max_batch),
        tensor_parallel=int(told("TENSOR_PARALLEL") or 1),
        gpu_memory_utilization=float(
            told("GPU_MEMORY_UTILIZATION") or EngineOptions.gpu_memory_utilization
        ),
    )
