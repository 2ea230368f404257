"""A container's conventions: what each cloud gives it, in the cloud's own variables and paths.

=============  ==========================================  =============================
SageMaker      ``docker run IMAGE serve``                  weights in ``/opt/ml/model``
Azure ML       ``AZUREML_MODEL_DIR``                       weights somewhere below it
Hugging Face   Inference Endpoints, custom container       weights in ``/repository``
=============  ==========================================  =============================

``LLAMA_HUB_MODEL_DIR`` names another folder and ``LLAMA_HUB_PLATFORM`` (sagemaker,
azureml, huggingface) says whose contract holds; a plain ``docker run`` sets the first only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from llama_hub.errors import NotFoundError, UsageError

PORT = 8080  # SageMaker's fixed port; the others are told it by our deployments
MOUNTS = {"sagemaker": "/opt/ml/model", "huggingface": "/repository"}
AZURE = "AZUREML_MODEL_DIR"
NAMES = ("sagemaker", "azureml", "huggingface")
MAX_DEPTH = 8  # folders below the mount
CONFIG = "config.json"


@dataclass(frozen=True)
class Platform:
    """Where the service runs, as far as the environment tells."""

    name: str | None  # one of NAMES; None in a container of somebody's own
    folder: Path  # holds config.json
    port: int

    @property
    def guarded(self) -> bool:
        """Whether the platform authenticates callers before they reach the container."""
        return self.name is not None


def detect(environment: Mapping[str, str] | None = None) -> Platform | None:
    """The platform around this process, or ``None`` on a machine of its own.

    ``NotFoundError`` if its mount holds no model.
    """
    variables = os.environ if environment is None else environment
    named = _named(variables)
    mounted = _mount(variables, named)
    if mounted is None:
        return None
    name, mount = mounted
    return Platform(named or name, model_below(mount), _port(variables))


def _named(variables: Mapping[str, str]) -> str | None:
    name = variables.get("LLAMA_HUB_PLATFORM") or None
    if name not in (None, *NAMES):
        raise UsageError(f"LLAMA_HUB_PLATFORM is {name!r}", hint=f"one of {', '.join(NAMES)}")
    return name


def _mount(variables: Mapping[str, str], named: str | None) -> tuple[str | None, Path] | None:
    if variables.get("LLAMA_HUB_MODEL_DIR"):
        return named, Path(variables["LLAMA_HUB_MODEL_DIR"])
    if variables.get(AZURE):
        return "azureml", Path(variables[AZURE])
    for name, mount in MOUNTS.items():
        if named in (None, name) and Path(mount).is_dir():
            return name, Path(mount)
    return None


def _port(variables: Mapping[str, str]) -> int:
    given = variables.get("LLAMA_HUB_PORT") or variables.get("SAGEMAKER_BIND_TO_PORT") or str(PORT)
    if not (given.isascii() and given.isdigit() and int(given) < 65536):
        raise UsageError(f"the port {given!r} is not a number below 65536")
    return int(given)


def model_below(mount: Path) -> Path:
    """The folder nearest below ``mount`` that holds ``config.json``.

    The clouds add folders of their own (name, version), differently from case to case.
    ``NotFoundError`` if there is none, ``UsageError`` if two are equally near.
    """
    for level in _levels(mount):
        models = [folder for folder in level if (folder / CONFIG).is_file()]
        if len(models) > 1:
            names = ", ".join(str(folder.relative_to(mount)) for folder in models)
            raise UsageError(
                f"{mount} holds more than one model: {names}",
                hint="mount one of them, or name its folder: llama-hub serve FOLDER",
            )
        if models:
            return models[0]
    there = ", ".join(sorted(path.name for path in mount.iterdir())[:10]) if mount.is_dir() else ""
    raise NotFoundError(
        f"there is no {CONFIG} in or below {mount} (it holds: {there or 'nothing'})",
        hint="upload the folder that `llama-hub path MODEL --format hf` prints",
    )


def _levels(mount: Path) -> Iterator[list[Path]]:
    """The folders at depth 0, 1, 2 … below ``mount``."""
    level = [mount] if mount.is_dir() else []
    for _ in range(MAX_DEPTH):
        yield level
        level = [child for folder in level for child in sorted(folder.iterdir()) if child.is_dir()]
