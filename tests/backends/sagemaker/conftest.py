"""A plane for every test, and a small model whose files are all different."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("boto3", reason="needs the extra sagemaker")
pytest.importorskip("moto", reason="needs moto[server]")

from llama_hub.backends.sagemaker.client import Aws  # noqa: E402
from llama_hub.deploy.plan import Plan  # noqa: E402
from tests.support.sagemaker_bench import Bench, QuickAws  # noqa: E402
from tests.support.sagemaker_plane import Plane  # noqa: E402


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
        assert running.s3.unnamed == []


@pytest.fixture
def aws(plane: Plane) -> Aws:
    """Calls to the plane, whose time goes by when the backend waits."""
    return QuickAws(sleep=plane.sleep)


@pytest.fixture
def bench(plane: Plane, aws: Aws, tmp_path: Path) -> Bench:
    """Deploys and deletes."""
    return Bench(plane, aws, tmp_path)


@pytest.fixture
def kinds() -> Callable[[Plan], list[str]]:
    """``action kind`` of each step that would do something."""
    return lambda plan: [f"{step.action} {step.kind}" for step in plan.changes]
