"""The conformance suite on the plane, with the real service and the demo model behind it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_hub.backends.azure.backend import AzureBackend
from llama_hub.deploy import reference_core
from llama_hub.deploy.apply import ApplyOptions
from llama_hub.deploy.backend import Artifact
from llama_hub.deploy.client import text_of
from llama_hub.deploy.conformance import BackendContract, Subject
from llama_hub.deploy.spec import DeploymentSpec
from tests.support.azure_plane import Plane
from tests.support.azure_service import Services
from tests.support.demo_model import CHAT, demo_folder
from tests.support.tiers import exhaustive


def no_sleep(seconds: float) -> None:
    """Instead of ``time.sleep``."""


@pytest.mark.sized
class TestAzure(BackendContract):
    """Greedy answers through Azure equal those of the local core."""

    @pytest.fixture
    def subject(self, plane: Plane, tmp_path: Path) -> Iterator[Subject]:
        """The demo model on the plane."""
        stored = demo_folder(tmp_path / "store")
        artifact = Artifact(stored.path, stored.manifest, stored.manifest.receipt or "r-0")
        services = Services()
        plane.arm.launch = services.launch
        plane.arm.quota["standardFSv2Family"] = 100
        yield Subject(
            make=lambda: AzureBackend(sleep=no_sleep),
            # A given image: the built one is named by the package's bytes, which may change here.
            spec=DeploymentSpec(
                name="conform",
                backend="azure",
                model=CHAT,
                context=256,
                options={"image": "registry.azurecr.io/llama-hub:1"},
            ),
            artifacts=lambda spec: artifact,
            root=tmp_path / "journals",
            reference=lambda body: text_of(
                b"".join(reference_core.answer(stored.path, body, False))
            ),
            options=ApplyOptions(sleep=no_sleep),
            crash_everywhere=exhaustive(),
        )
        services.close()
