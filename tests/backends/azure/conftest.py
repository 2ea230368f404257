"""A plane for every test, and a small model whose files are all different."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.installed import needs

needs("azure.ai.ml", "azure")

from llama_hub.backends.azure.backend import AzureBackend  # noqa: E402
from llama_hub.deploy.backend import Artifact, Context, Step, Target  # noqa: E402
from llama_hub.hub.transfer.proxy import CERTIFICATE_VARIABLES  # noqa: E402
from tests.support.azure_plane import Plane  # noqa: E402
from tests.support.azure_target import make_artifact, make_target, stub_service  # noqa: E402


@pytest.fixture(scope="module")
def _running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with Plane(tmp_path_factory.mktemp("plane")) as running:
        yield running


@pytest.fixture
def plane(_running: Plane, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plane]:
    """A fresh Azure; nothing may reach for another host, and every PUT body must be valid."""
    for name in list(os.environ):
        if name.startswith(("AZURE", "MSI_", "IDENTITY_")) or name.lower() in ("all_proxy",):
            monkeypatch.delenv(name)
    for name in CERTIFICATE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    _running.reset()
    _running.arm.launch = stub_service
    for name, value in _running.environment.items():
        monkeypatch.setenv(name, value)
    yield _running
    assert _running.leaks == []
    assert _running.problems == []
    assert "AZUREML_CURRENT_CLOUD" not in os.environ


@pytest.fixture
def backend(plane: Plane) -> AzureBackend:
    """The backend on the plane; it does not sleep."""
    return AzureBackend(sleep=lambda seconds: None)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    """A model folder of some hundred kilobytes."""
    return make_artifact(tmp_path / "model")


class Driver:
    """Plans and applies without a journal: what a test of the backend alone needs."""

    def __init__(self, backend: AzureBackend) -> None:
        self.backend = backend

    def target(self, artifact: Artifact, **spec: Any) -> Target:
        """A target for the cheapest machine that fits."""
        return make_target(self.backend, artifact, **spec)

    def plan(self, target: Target) -> list[Step]:
        """Today's steps."""
        return list(self.backend.plan(target, self.backend.observe(target.spec.name)))

    def judge(self, target: Target) -> None:
        """What the deployer asks after it has a plan; raises what would be refused later."""
        self.backend.validate(target, self.backend.observe(target.spec.name))

    def apply(self, target: Target) -> list[Step]:
        """Do what is needed; returns the steps that were done."""
        done = [step for step in self.plan(target) if step.action != "noop"]
        for step in done:
            self.backend.execute(step, Context(target))
        return done

    def delete(self, name: str) -> list[Step]:
        """Remove everything of ``name``."""
        steps = list(self.backend.plan_delete(name, self.backend.observe(name)))
        for step in steps:
            self.backend.execute(step, Context(None))
        return steps


@pytest.fixture
def drive(backend: AzureBackend) -> Driver:
    """Plans and applies."""
    return Driver(backend)
