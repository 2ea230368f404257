"""Hugging Face on loopback for every test: Hub, storage and control plane, each its own origin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from llama_hub.backends.huggingface.backend import HuggingFaceBackend
from llama_hub.deploy.backend import Artifact, Target
from llama_hub.deploy.deployer import Deployer
from llama_hub.deploy.spec import DeploymentSpec
from tests.support.demo_model import CHAT, demo_folder
from tests.support.endpoints_plane import EndpointsPlane
from tests.support.hub_launch import Launcher
from tests.support.hub_writes import WritableHub

TOKEN = "hf_manager0000"
USER = "acme"


@dataclass
class Loopback:
    """Everything that stands for Hugging Face."""

    hub: WritableHub
    plane: EndpointsPlane
    launcher: Launcher

    def backend(self) -> HuggingFaceBackend:
        """A new object, as a new process would make it; it does not sleep."""
        return HuggingFaceBackend(token=TOKEN, plane=self.plane.url, sleep=lambda seconds: None)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The demo model in the form that is served."""
    stored = demo_folder(tmp_path_factory.mktemp("store"))
    return Artifact(stored.path, stored.manifest, stored.manifest.receipt or "r-0")


@pytest.fixture(scope="module")
def origins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """The servers of a module; ``loopback`` makes them as new for each test."""
    with WritableHub({TOKEN: USER}) as hub:
        launcher = Launcher(hub, tmp_path_factory.mktemp("mounts"))
        with EndpointsPlane(
            tokens={TOKEN: USER}, launch=launcher, resolve=hub.resolve, page_size=3
        ) as plane:
            yield Loopback(hub, plane, launcher)
        launcher.close()


@pytest.fixture
def loopback(origins: Loopback, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    """Fresh origins; the token never reaches the storage."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    hub = origins.hub
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    close_session()
    yield origins
    close_session()
    leaks = list(hub.leaks)
    origins.plane.reset()
    origins.launcher.close()
    hub.reset()
    assert leaks == []


def spec(**given: Any) -> DeploymentSpec:
    """A spec for the demo model; ``options`` are added to the image's."""
    options = {"image": "ghcr.io/acme/llama-hub:1"} | given.pop("options", {})
    defaults: dict[str, Any] = {"name": "chat", "model": CHAT, "context": 256, "concurrency": 2}
    return DeploymentSpec(backend="huggingface", options=options, **(defaults | given))


@pytest.fixture(scope="module")
def stub() -> Iterator[str]:
    """A service that answers 200 to everything at once."""
    from tests.support.hub_writes import Origin, send

    origin = Origin(lambda origin, handler, body: send(handler, 200, {"status": "ok"}))
    origin.start()
    yield origin.url
    origin.stop()


@pytest.fixture
def quick(loopback: Loopback, stub: str) -> Loopback:
    """For tests in which the service is not asked."""
    loopback.launcher.stub = stub
    return loopback


@pytest.fixture
def deployer(loopback: Loopback, demo: Artifact, tmp_path: Path) -> Deployer:
    """Plans and applies with a journal of the test's own."""
    return Deployer(loopback.backend(), artifacts=lambda _: demo, root=tmp_path / "journals")


def target_of(backend: HuggingFaceBackend, artifact: Artifact, wanted: DeploymentSpec) -> Target:
    """What ``plan`` gets for ``wanted``."""
    found: Target = Deployer(backend, artifacts=lambda _: artifact)._target(
        wanted, backend.observe(wanted.name)
    )
    return found
