"""On a real account: costs money while it runs. ``pytest -m live_huggingface``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llama_hub.backends.huggingface.backend import HuggingFaceBackend
from llama_hub.deploy.backend import Artifact
from llama_hub.deploy.conformance import Subject, run
from tests.backends.huggingface.conftest import spec

pytestmark = pytest.mark.live_huggingface


@pytest.mark.timeout(7200)
def test_conforms_on_a_real_account(demo: Artifact, tmp_path: Path) -> None:
    image = os.environ["LLAMA_HUB_LIVE_IMAGE"]
    subject = Subject(
        make=HuggingFaceBackend,
        spec=spec(name="llama-hub-live", options={"image": image, "keep_repository": False}),
        artifacts=lambda _: demo,
        root=tmp_path / "journals",
        crash_everywhere=False,
    )
    report = run(subject)
    assert report.ok, report.text()
