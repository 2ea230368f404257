"""Deploys a small model on a plane, the way new processes do."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import boto3

from llama_hub.backends.sagemaker.backend import SageMakerBackend
from llama_hub.backends.sagemaker.client import Aws
from llama_hub.deploy.apply import ApplyOptions
from llama_hub.deploy.backend import Artifact, Deployed
from llama_hub.deploy.deployer import Deployer
from llama_hub.deploy.plan import Plan
from llama_hub.deploy.spec import DeploymentSpec
from tests.support.deployments import artifact, make_folder
from tests.support.sagemaker_plane import Plane

IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/vllm:0.27.1-gpu-py312-cu130-sagemaker"


@cache
def core() -> Any:
    """One session for all tests: the descriptions of the services take long to parse."""
    return boto3.Session(region_name="us-east-1")


class QuickAws(Aws):
    """The backend's own calls, with descriptions that are parsed once."""

    @property
    def _session(self) -> Any:  # type: ignore[override]
        return core()


class Bench:
    """A backend on the plane, a model folder, and deployers as new processes make them."""

    def __init__(self, plane: Plane | None, aws: Aws, root: Path) -> None:
        self.plane, self.aws, self.root = plane, aws, root
        self.folder = make_folder(root / "model")
        self.options = ApplyOptions(sleep=aws.sleep)

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
        how = changes.pop("how", self.options)
        deployer = self.deployer()
        return deployer.apply(deployer.plan(self.spec(name, **changes)), how)

    def delete(self, name: str = "x") -> None:
        """Remove it."""
        deployer = self.deployer()
        deployer.apply(deployer.plan_delete(name), self.options)
