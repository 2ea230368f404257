"""One model on four backends: local for real, the clouds on their loopback planes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("azure.ai.ml")
pytest.importorskip("boto3")
pytest.importorskip("moto")

from huggingface_hub import constants  # noqa: E402
from huggingface_hub.utils import close_session  # noqa: E402

from examples.same_tokens_everywhere import PROMPTS, Answers, ask, differences  # noqa: E402
from llama_hub.backends.azure.backend import AzureBackend  # noqa: E402
from llama_hub.backends.huggingface.backend import HuggingFaceBackend  # noqa: E402
from llama_hub.backends.local.backend import LocalBackend  # noqa: E402
from llama_hub.backends.sagemaker.backend import SageMakerBackend  # noqa: E402
from llama_hub.deploy.apply import ApplyOptions  # noqa: E402
from llama_hub.deploy.backend import Artifact, Backend  # noqa: E402
from llama_hub.deploy.deployer import Deployer  # noqa: E402
from llama_hub.deploy.spec import DeploymentSpec  # noqa: E402
from tests.support import sagemaker_host  # noqa: E402
from tests.support.azure_plane import Plane as Azure  # noqa: E402
from tests.support.azure_service import Services  # noqa: E402
from tests.support.demo_model import CHAT, demo_folder  # noqa: E402
from tests.support.endpoints_plane import EndpointsPlane  # noqa: E402
from tests.support.hub_launch import Launcher  # noqa: E402
from tests.support.hub_writes import WritableHub  # noqa: E402
from tests.support.sagemaker_bench import IMAGE, QuickAws  # noqa: E402
from tests.support.sagemaker_plane import Plane as Aws  # noqa: E402

TOKEN = "hf_manager0000"


def no_sleep(seconds: float) -> None:
    """Instead of ``time.sleep``."""


class Clouds:
    """Every plane, started when its backend is asked for."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> None:
        self._root, self._patch, self._stack = root, monkeypatch, stack

    def backend(self, name: str) -> tuple[Backend, ApplyOptions, dict[str, Any]]:
        """The backend, how to wait for it, and the options that it needs."""
        made: tuple[Backend, ApplyOptions, dict[str, Any]] = getattr(self, name)()
        return made

    def local(self) -> tuple[Backend, ApplyOptions, dict[str, Any]]:
        return LocalBackend(root=str(self._root / "local")), ApplyOptions(), {}

    def azure(self) -> tuple[Backend, ApplyOptions, dict[str, Any]]:
        folder = self._root / "azure"
        folder.mkdir()
        plane = self._stack.enter_context(Azure(folder))
        services = Services()
        self._stack.callback(services.close)
        plane.arm.launch = services.launch
        plane.arm.quota["standardFSv2Family"] = 100
        self._set(plane.environment)
        options = {"image": "registry.azurecr.io/llama-hub:1"}
        return AzureBackend(sleep=no_sleep), ApplyOptions(sleep=no_sleep), options

    def sagemaker(self) -> tuple[Backend, ApplyOptions, dict[str, Any]]:
        plane = self._stack.enter_context(Aws(self._root / "aws"))
        plane.launch = sagemaker_host.process
        self._set(plane.environment)
        aws = QuickAws(sleep=plane.sleep)
        return SageMakerBackend(aws=aws), ApplyOptions(sleep=plane.sleep), {"image": IMAGE}

    def huggingface(self) -> tuple[Backend, ApplyOptions, dict[str, Any]]:
        hub = self._stack.enter_context(WritableHub({TOKEN: "acme"}))
        self._patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        self._patch.setattr(constants, "ENDPOINT", hub.url)
        close_session()
        self._stack.callback(close_session)
        launcher = Launcher(hub, self._root / "mounts")
        self._stack.callback(launcher.close)
        plane = EndpointsPlane(tokens={TOKEN: "acme"}, launch=launcher, resolve=hub.resolve)
        self._stack.enter_context(plane)
        backend = HuggingFaceBackend(token=TOKEN, plane=plane.url, sleep=no_sleep)
        return backend, ApplyOptions(sleep=no_sleep), {"image": "ghcr.io/acme/llama-hub:1"}

    def _set(self, environment: dict[str, str]) -> None:
        for name in list(os.environ):
            if name.startswith(("AZURE", "AWS_")) or name.lower().endswith("_proxy"):
                self._patch.delenv(name)
        for name, value in environment.items():
            self._patch.setenv(name, value)


@pytest.fixture
def clouds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clouds]:
    with ExitStack() as stack:
        yield Clouds(tmp_path, monkeypatch, stack)


def test_four_backends_answer_with_the_same_tokens(clouds: Clouds, tmp_path: Path) -> None:
    stored = demo_folder(tmp_path / "store")
    artifact = Artifact(stored.path, stored.manifest, stored.manifest.receipt or "r-0")
    answers = []
    for name in ("local", "azure", "sagemaker", "huggingface"):
        backend, apply_options, options = clouds.backend(name)
        spec = DeploymentSpec(
            name="parity", backend=name, model=CHAT, context=256, concurrency=2, options=options
        )
        deployer = Deployer(backend, artifacts=lambda _: artifact, root=tmp_path / "journals")
        answers.append(ask(deployer, spec, lambda _: artifact, apply_options))
    assert differences(answers) == []
    assert {one.manifest for one in answers} == {stored.manifest.digest}
    assert all(text.strip() for text in answers[0].texts)


def test_a_difference_is_told() -> None:
    one = Answers("local", "sha256:1", ("yes",) * len(PROMPTS))
    two = Answers("azure", "sha256:2", ("no",) + ("yes",) * (len(PROMPTS) - 1))
    assert len(differences([one, two])) == 2
