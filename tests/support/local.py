"""A local deployment of the stand-in service: real processes, real supervisor, real proxy."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from llama_hub.backends.local.backend import LocalBackend
from llama_hub.backends.local.documents import SupervisorState
from llama_hub.backends.local.state import Folder
from llama_hub.deploy.deployer import Deployer
from llama_hub.deploy.spec import DeploymentSpec
from tests.support.deployments import artifact, make_folder, spec

STANDIN = Path(__file__).parent / "standin.py"


class Local:
    """A backend, a deployer and a model folder of one test; ends what it started."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model = make_folder(root / "model")
        self.backend = LocalBackend(
            root=str(root / "local"), command=[sys.executable, str(STANDIN)]
        )
        self.deployer = Deployer(
            self.backend, artifacts=lambda wanted: artifact(self.model), root=root / "journals"
        )

    def spec(self, **changes: Any) -> DeploymentSpec:
        return spec("x", backend="local", **changes)

    def deploy(self, content: str | None = None, **changes: Any) -> Any:
        if content is not None:
            make_folder(self.model, content)
        return self.deployer.apply(self.deployer.plan(self.spec(**changes)))

    def delete(self) -> None:
        self.deployer.apply(self.deployer.plan_delete("x"))

    def get(self, path: str = "/") -> Any:
        endpoint = self.backend.endpoint("x")
        return httpx.get(endpoint.url + path, headers=dict(endpoint.headers), timeout=30).json()

    @property
    def folder(self) -> Folder:
        return Folder(self.root / "local" / "x" / "service")

    @property
    def state(self) -> SupervisorState:
        state = self.folder.state()
        assert state is not None
        return state


def until(condition: Callable[[], Any], timeout: float = 20) -> Any:
    """Poll a condition that other processes make true."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("the condition did not become true")
