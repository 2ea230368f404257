"""The shipped conformance suite, played on the plane."""

from __future__ import annotations

import pytest

from llama_hub.deploy.conformance import BackendContract, Subject
from tests.support.sagemaker_bench import Bench
from tests.support.tiers import exhaustive


def subject_of(bench: Bench, **changes: object) -> Subject:
    return Subject(
        bench.backend,
        bench.spec(**changes),
        bench.artifact,
        bench.root / "j",
        options=bench.options,
        crash_everywhere=exhaustive(),
    )


@pytest.mark.sized
class TestSageMaker(BackendContract):
    @pytest.fixture
    def subject(self, bench: Bench) -> Subject:
        return subject_of(bench)

    def test_conforms(self, subject: Subject, bench: Bench) -> None:
        super().test_conforms(subject)
        assert bench.plane.inventory() == []
