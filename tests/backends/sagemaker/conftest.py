"""A plane for every test, and a small model whose files are all different."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("boto3", reason="needs the extra sagemaker")
pytest.importorskip("moto", reason="needs moto[server]")

from llama_hub.backends.sagemaker.backend import SageMakerBackend  # noqa: E402
from llama_hub.backends.sagemaker.client import Aws  # noqa: E402
from llama_hub.deploy.apply import Manner  # noqa: E402
from llama_hub.deploy.backend import Artifact, Deployed  # noqa: E402
from llama_hub.deploy.deployer import Deployer  # noqa: E402
from llama_hub.deploy.plan import Plan  # noqa: E402
from llama_hub.deploy.spec import DeploymentSpec  # noqa: E402
from tests.support.deployments import artifact, make_folder  # noqa: E402
from tests.support.sagemaker_plane import Plane  # noqa: E402

IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/vllm:0.27.1-gpu-py312-cu130-sagemaker"


@pytest.fixture
def plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plane]:
    """A fresh AWS; every request must be one that the service's own model allows."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower() in ("all_proxy", "https_proxy", "http_proxy"):
            monkeypatch.delenv(name)
    with Plane(tmp_path / "aws") as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running
        assert running.problems == []


@pytest.fixture
def aws(plane: Plane) -> Aws:
    """Calls to the plane, whose time goes by when the backend waits."""
    return Aws(sleep=plane.sleep)


class Bench:
    """A backend on the plane, a model folder, and deployers as new processes make them."""

    def __init__(self, plane: Plane, aws: Aws, root: Path) -> None:
        self.plane, self.aws, self.root = plane, aws, root
        self.folder = make_folder(root / "model")
        self.manner = Manner(sleep=plane.sleep)

    def backend(self) -> SageMakerBackend:
        """A new one."""
        return SageMakerBackend(aws=self.aws)

    def artifact(self, spec: DeploymentSpec | None = None) -> Artifact:
        """The model."""
        return artifact(self.folder)

    def new_model(self, content: str) -> None:
        """Other weights in the same folder."""
        make_folder(self.folder, content)

    def deployer(self) -> Deployer:
        """A new one."""
        return Deployer(self.backend(), artifacts=self.artifact, root=self.root / "journals")

    def spec(self, name: str = "x", **changes: Any) -> DeploymentSpec:
        """A spec that the small model fits; ``options`` are merged."""
        options = {"image": IMAGE} | changes.pop("options", {})
        known = {"name": name, "backend": "sagemaker", "model": "llama-demo", "context": 256}
        chosen = {key: value for key, value in options.items() if value is not None}
        return DeploymentSpec(**{**known, **changes, "options": chosen})

    def plan(self, name: str = "x", **changes: Any) -> Plan:
        """Today's plan."""
        return self.deployer().plan(self.spec(name, **changes))

    def deploy(self, name: str = "x", **changes: Any) -> Deployed:
        """Plan and apply."""
        manner = changes.pop("manner", self.manner)
        return self.deployer().apply(self.plan(name, **changes), manner)

    def delete(self, name: str = "x") -> None:
        """Remove it."""
        deployer = self.deployer()
        deployer.apply(deployer.plan_delete(name), self.manner)


@pytest.fixture
def bench(plane: Plane, aws: Aws, tmp_path: Path) -> Bench:
    """Deploys and deletes."""
    return Bench(plane, aws, tmp_path)


@pytest.fixture
def kinds() -> Callable[[Plan], list[str]]:
    """``action kind`` of each step that would do something."""
    return lambda plan: [f"{step.action} {step.kind}" for step in plan.changes]
