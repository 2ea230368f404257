"""The same against a real account: ``pytest -m live_sagemaker``. It costs about 0.05 US dollars.

Needs credentials, a region, and ``LLAMA_HUB_LIVE_IMAGE`` (an image of the service in ECR of the
region; without it CodeBuild makes one, which takes a quarter of an hour and costs more).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llama_hub.backends.sagemaker.backend import SageMakerBackend
from llama_hub.deploy import attest, client
from llama_hub.deploy.backend import Artifact
from llama_hub.deploy.deployer import Deployer
from llama_hub.deploy.spec import DeploymentSpec
from tests.support.demo_model import CHAT, demo_folder

NAME = "llama-hub-smoke"
QUESTION = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "temperature": 0}


@pytest.mark.live_sagemaker
@pytest.mark.timeout(3600)
def test_the_demo_model_on_a_small_machine(home: Path, tmp_path: Path) -> None:
    stored = demo_folder(home)
    artifact = Artifact(stored.path, stored.manifest, str(stored.manifest.receipt))
    image = os.environ.get("LLAMA_HUB_LIVE_IMAGE")
    spec = DeploymentSpec(
        name=NAME,
        backend="sagemaker",
        model=CHAT,
        context=256,
        instance="ml.m5.large",
        ttl=3600,
        options={"image": image} if image else {},
    )
    backend = SageMakerBackend()
    assert all(line.ok for line in backend.check() if line.name != "quota")
    deployer = Deployer(backend, artifacts=lambda _: artifact, root=tmp_path / "journals")
    try:
        assert deployer.apply(deployer.plan(spec)).status == "ready"
        assert deployer.plan(spec).changes == ()
        assert client.text_of(b"".join(client.chat(backend, NAME, QUESTION, stream=False)))
        assert client.streamed_text(client.chat(backend, NAME, QUESTION, stream=True))
        assert attest.attest(deployer, NAME, lambda _: artifact).ok
    finally:
        deployer.apply(deployer.plan_delete(NAME))
    assert backend.observe(NAME).resources == ()
    assert [one for one in backend.orphans() if one.name.startswith(NAME)] == []
