"""The user's defaults: ``config.toml`` in the home folder, then the environment over it.

.. code-block:: toml

    [deploy]                # defaults of every spec; LLAMA_HUB_DEPLOY_CONTEXT=2048 beats it
    context = 8192

    [backends.sagemaker]    # where a backend looks; LLAMA_HUB_SAGEMAKER_REGION=… beats it
    region = "eu-west-1"

Secrets have no place here: backends take them from the platform's own variables and files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from llama_hub.home import home
from llama_hub.schema import conform, did_you_mean
from llama_hub.strict import read_toml, text_kind

KIND = text_kind(
    "the settings", max_bytes=256 << 10, hint="correct the file, or remove it: it is optional"
)


@dataclass(frozen=True)
class Settings:
    """The tables that the file may have."""

    deploy: Mapping[str, Any] = field(default_factory=dict)
    backends: Mapping[str, Mapping[str, str | int | float | bool]] = field(default_factory=dict)

    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid"}


def read() -> Settings:
    """The whole file; empty if there is none."""
    path = home() / "config.toml"
    if not path.exists() and not path.is_symlink():
        return Settings()
    return conform(Settings, read_toml(path, KIND), path, KIND)


def spec_defaults(keys: Iterable[str]) -> dict[str, Any]:
    """Defaults of specs, of which ``keys`` may also be set in the environment."""
    keys = list(keys)
    stated = read().deploy
    require_known("deploy", stated, keys)
    return {**stated, **_environment("LLAMA_HUB_DEPLOY_", keys)}


def backend_settings(name: str, keys: Iterable[str]) -> dict[str, Any]:
    """Settings of one backend's constructor, of which ``keys`` may be set in the environment."""
    prefix = f"LLAMA_HUB_{name.upper().replace('-', '_')}_"
    return {**read().backends.get(name, {}), **_environment(prefix, keys)}


def require_known(table: str, stated: Iterable[str], known: Iterable[str]) -> None:
    """Refuse a key of ``[table]`` that nobody reads."""
    known = list(known)
    for key in stated:
        if key not in known:
            problem = f"unknown key{did_you_mean(key, known)}"
            raise KIND.invalid(home() / "config.toml", problem, f"{table}.{key}")


def _environment(prefix: str, keys: Iterable[str]) -> dict[str, str]:
    set_here = {key: os.environ.get(prefix + key.upper()) for key in keys}
    return {key: value for key, value in set_here.items() if value}
