"""llama-hub: from a granted Llama 2 licence to a verified endpoint anywhere.

The public Python API is what this package names; each name is loaded at its first use, so that
importing the package costs nothing. ``llama_hub.api`` documents it with an example that runs.
Every other module is private.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llama_hub._version import __version__

if TYPE_CHECKING:
    from llama_hub import errors
    from llama_hub.api import Service, attest, convert, download, serve, verify
    from llama_hub.deploy.deployer import Deployer
    from llama_hub.deploy.spec import DeploymentSpec
    from llama_hub.hub.catalog import Model
    from llama_hub.licenses.gate import Acceptance

_HOMES = {
    "Acceptance": "llama_hub.licenses.gate",
    "Deployer": "llama_hub.deploy.deployer",
    "DeploymentSpec": "llama_hub.deploy.spec",
    "Model": "llama_hub.hub.catalog",
    "Service": "llama_hub.api",
    "attest": "llama_hub.api",
    "convert": "llama_hub.api",
    "download": "llama_hub.api",
    "serve": "llama_hub.api",
    "verify": "llama_hub.api",
}

__all__ = [
    "Acceptance",
    "Deployer",
    "DeploymentSpec",
    "Model",
    "Service",
    "__version__",
    "attest",
    "convert",
    "deploy",  # the package, which is called as the function
    "download",
    "errors",
    "serve",
    "verify",
]


def __getattr__(name: str) -> Any:
    """A public name, imported at its first use."""
    if name in ("deploy", "errors"):
        return import_module(f"llama_hub.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'llama_hub' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
