"""The conformance suite against loopback Hugging Face, the real service behind the URL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_hub.deploy import reference_core
from llama_hub.deploy.apply import ApplyOptions
from llama_hub.deploy.backend import Artifact
from llama_hub.deploy.client import text_of
from llama_hub.deploy.conformance import BackendContract, Subject
from tests.backends.huggingface.conftest import Loopback, spec
from tests.support.tiers import exhaustive


@pytest.mark.sized
class TestHuggingFace(BackendContract):
    """Greedy answers through an endpoint equal those of the local core."""

    @pytest.fixture
    def subject(self, loopback: Loopback, demo: Artifact, tmp_path: Path) -> Iterator[Subject]:
        """The demo model in a private repository that goes with its deployment."""
        yield Subject(
            make=loopback.backend,
            spec=spec(name="conform", options={"keep_repository": False}),
            artifacts=lambda _: demo,
            root=tmp_path / "journals",
            reference=lambda body: text_of(
                b"".join(reference_core.answer(demo.folder, body, False))
            ),
            options=ApplyOptions(sleep=lambda seconds: None),
            crash_everywhere=exhaustive(),
        )
        loopback.launcher.close()
