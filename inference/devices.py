"""The choice of the device and of the type of numbers that an engine computes with."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch

from llama_hub.errors import NotEnoughError, UsageError
from llama_hub.hub.model_config import Config

logger = logging.getLogger(__name__)

BFLOAT16_FROM = (8, 0)  # compute capability: older devices have no instructions for it
DRIVER_FILE = Path("/proc/driver/nvidia/version")
TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def choose_device(name: str) -> torch.device:
    """The device that ``EngineOptions.device`` means.

    ``UsageError`` for one that torch does not know, ``NotEnoughError`` for a CUDA device where
    there is none: ``cuda`` never quietly becomes the CPU, ``auto`` does.
    """
    cuda = _cuda_available()
    if name == "auto":
        return torch.device("cuda:0" if cuda else "cpu")
    try:
        device = torch.device("cuda:0" if name == "cuda" else name)
    except RuntimeError as error:
        raise UsageError(f"device {name!r} is not known to torch") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is not supported", hint="--device cpu or --device cuda")
    if device.type == "cuda" and not cuda:
        raise NotEnoughError(
            f"device {name!r} is not there: {why_no_cuda()}",
            hint="--device cpu, or fix the driver (nvidia-smi shows what it sees)",
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device {name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices",
            hint=f"--device cuda:0 to cuda:{torch.cuda.device_count() - 1}",
        )
    return device


def _cuda_available() -> bool:
    """Whether torch sees a CUDA device; what it warns of is told by ``why_no_cuda``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


def operations() -> list[str]:
    """How steps could be computed on the CUDA device, the best first; empty without one."""
    if not _cuda_available():
        return []
    return ["triton", "torch"] if find_spec("triton") is not None else ["torch"]


def why_no_cuda() -> str:
    """What torch and the driver are, in words, where torch sees no CUDA device."""
    built = torch.version.cuda
    wheel = f"torch {torch.__version__} is built for CUDA {built}" if built else (
        f"torch {torch.__version__} is a build without CUDA"
    )  # fmt: skip
    module, supports = driver_version(), driver_cuda()
    driver = f"the NVIDIA driver is {module}" if module else "no NVIDIA driver is loaded"
    if supports:
        driver += f" (CUDA {supports[0]}.{supports[1]})"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = "" if visible is None else f"; CUDA_VISIBLE_DEVICES is {visible!r}"
    return f"{wheel}; {driver}{hidden}"


def driver_version() -> str | None:
    """The NVIDIA kernel module's version, as 580.65.06; ``None`` without one."""
    try:
        text = DRIVER_FILE.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    match = re.search(r"\d+\.\d+(?:\.\d+)?", text)
    return match.group() if match else None


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that the driver's library supports; ``None`` without a library."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
        number = ctypes.c_int()
        if library.cuDriverGetVersion(ctypes.byref(number)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return number.value // 1000, number.value % 1000 // 10


def choose_dtype(name: str, config: Config, device: torch.device) -> torch.dtype:
    """The type that weights and activations have.

    ``auto`` is the folder's, but float16 for bfloat16 on devices older than Ampere (T4, V100).
    ``UsageError`` if the folder states a type that we do not know.
    """
    stated = (config.weight_type if name == "auto" else name).removeprefix("torch.")
    dtype = TYPES.get(stated)
    if dtype is None:
        raise UsageError(f"config.json states the type {stated!r}", hint="--dtype bfloat16")
    if name == "auto" and dtype == torch.bfloat16 and not _has_bfloat16(device):
        logger.info("%s has no bfloat16: computing in float16", torch.cuda.get_device_name(device))
        return torch.float16
    return dtype


def _has_bfloat16(device: torch.device) -> bool:
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= BFLOAT16_FROM
