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
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from llama_hub.errors import UsageError
from llama_hub.home import home


def read() -> Mapping[str, Any]:
    """The whole file; empty if there is none."""
    path = home() / "config.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", hint="mend or remove it") from error


def spec_defaults(keys: Iterable[str]) -> dict[str, Any]:
    """Defaults of specs, of which ``keys`` may also be set in the environment."""
    return _table(read(), "deploy") | _environment("LLAMA_HUB_DEPLOY_", keys)


def backend_settings(name: str, keys: Iterable[str]) -> dict[str, Any]:
    """Settings of one backend's constructor, of which ``keys`` may be set in the environment."""
    prefix = f"LLAMA_HUB_{name.upper().replace('-', '_')}_"
    return _table(_table(read(), "backends"), name) | _environment(prefix, keys)


def _table(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = document.get(key, {})
    if not isinstance(found, Mapping):
        raise UsageError(f"{home() / 'config.toml'}: [{key}] is not a table")
    return dict(found)


def _environment(prefix: str, keys: Iterable[str]) -> dict[str, str]:
    set_here = {key: os.environ.get(prefix + key.upper()) for key in keys}
    return {key: value for key, value in set_here.items() if value}
