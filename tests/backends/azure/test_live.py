"""The same road on a real subscription: ``pytest -m live_azure``. It costs about a dollar.

Needs ``az login`` (or a service principal) and AZURE_SUBSCRIPTION_ID, AZURE_RESOURCE_GROUP and
AZUREML_WORKSPACE_NAME. It deploys the demo model on a CPU machine, asks it, and removes it.
"""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from llama_hub.backends.azure.backend import AzureBackend
from llama_hub.deploy import reference_core
from llama_hub.deploy.backend import Artifact
from llama_hub.deploy.client import text_of
from llama_hub.deploy.conformance import Subject, run
from llama_hub.deploy.spec import DeploymentSpec
from tests.support.demo_model import CHAT, demo_folder

pytestmark = [pytest.mark.live_azure, pytest.mark.timeout(4 * 3600)]


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    """The demo model in the workspace that the environment names."""
    if not AzureBackend().configured():
        pytest.skip("no workspace is named")
    stored = demo_folder(tmp_path / "store")
    artifact = Artifact(stored.path, stored.manifest, stored.manifest.receipt or "r-0")
    name = f"hub-{uuid.uuid4().hex[:8]}"  # unique in the region, as endpoints must be
    return Subject(
        make=AzureBackend,
        spec=DeploymentSpec(name=name, backend="azure", model=CHAT, context=256),
        artifacts=lambda spec: artifact,
        root=tmp_path / "journals",
        reference=lambda body: text_of(b"".join(reference_core.answer(stored.path, body, False))),
        crash_everywhere=False,
    )


def test_all_checks_of_the_doctor_pass() -> None:
    wrong = [f"{check.name}: {check.detail}" for check in AzureBackend().check() if not check.ok]
    assert not [line for line in wrong if not line.startswith("GPU quota")]


def test_conforms_on_the_real_platform(subject: Subject) -> None:
    report = run(subject, print)
    assert report.ok, report.text()
