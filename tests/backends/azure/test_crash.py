"""SIGKILL in the middle of everything that takes time: the next run goes on and converges."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llama_hub.backends.azure import storage
from llama_hub.backends.azure.backend import AzureBackend
from llama_hub.deploy.backend import Artifact
from tests.backends.azure.conftest import Driver
from tests.support.azure_plane import Plane
from tests.support.tiers import family

# The child does what the deployer does, with blocks small enough that an upload has many.
CHILD = """
import sys
from pathlib import Path
from llama_hub.backends.azure import storage
storage.BLOCK = 16384
from llama_hub.backends.azure.backend import AzureBackend
from llama_hub.deploy.backend import Artifact, Context
from llama_hub.hub.manifest import read
from tests.support.azure_target import make_target

backend = AzureBackend(sleep=lambda seconds: None)
folder = Path(sys.argv[2])
observed = backend.observe("support")
if sys.argv[1] == "delete":
    target, steps = None, backend.plan_delete("support", observed)
else:
    artifact = Artifact(folder, read(folder), "r-1")
    target = make_target(backend, artifact, replicas_max=2, context=int(sys.argv[3]))
    steps = backend.plan(target, observed)
for step in steps:
    if step.action != "noop":
        backend.execute(step, Context(target))
"""

CREATING = {
    "upload": (r"PUT .*comp=block&blockid=MDAwMDAwMDU", False),
    "commit": (r"PUT .*comp=blocklist", True),
    "endpoint comes up": (r"GET .*mfeOperationsStatus/oe:", False),
    "deployment asked for": (r"PUT .*/deployments/", True),
    "deployment comes up": (r"GET .*mfeOperationsStatus/od:", False),
}
DELETING = {
    "endpoint goes": (r"GET .*mfeOperationsStatus/oe:", False),
    "weights go": (r"DELETE .*safetensors", True),
}
UPDATING = {
    "canary": (r"PUT .*/onlineEndpoints/support\?", True),
    "blue goes": (r"DELETE .*/deployments/", True),
}


def killed_at(plane: Plane, artifact: Artifact, moment: tuple[str, bool], *words: str) -> None:
    """Run the child until a request matches, and kill it there."""
    pattern, applied = moment
    fault = plane.hold(pattern, applied=applied)
    environment = os.environ | plane.environment | {"PYTHONPATH": str(Path.cwd())}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, words[0], str(artifact.folder), *words[1:]],
        env=environment,
        stderr=subprocess.PIPE,
    )
    reached = fault.reached.wait(timeout=90)
    child.send_signal(signal.SIGKILL)
    _, said = child.communicate()
    assert fault.release is not None
    fault.release.set()
    assert reached, said.decode()


@pytest.mark.parametrize("moment", family(reversed(CREATING), everyday=1))
def test_creating_converges(
    plane: Plane,
    drive: Driver,
    backend: AzureBackend,
    artifact: Artifact,
    moment: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(storage, "BLOCK", 16384)
    killed_at(plane, artifact, CREATING[moment], "deploy", "256")
    target = drive.target(artifact, replicas_max=2)
    plane.forget()
    drive.apply(target)
    assert {step.action for step in drive.plan(target)} == {"noop"}
    assert backend.status("support").status == "ready"
    assert len(plane.arm.deployments) == len(plane.arm.endpoints) == 1
    if moment == "upload":
        assert any("comp=block&" in line for line in plane.writes())
    if moment not in ("upload", "commit"):
        assert not any("safetensors" in line for line in plane.writes())


@pytest.mark.parametrize("moment", family(UPDATING, everyday=1))
def test_updating_converges(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact, moment: str
) -> None:
    drive.apply(drive.target(artifact, replicas_max=2))
    killed_at(plane, artifact, UPDATING[moment], "deploy", "128")
    assert b"".join(backend.invoke("support", {"prompt": "x"}, stream=False))  # still answers
    target = drive.target(artifact, replicas_max=2, context=128)
    drive.apply(target)
    assert {step.action for step in drive.plan(target)} == {"noop"}
    assert len(plane.arm.deployments) == len(plane.arm.autoscale) == 1


@pytest.mark.parametrize("moment", family(DELETING, everyday=1))
def test_deleting_converges(
    plane: Plane, drive: Driver, backend: AzureBackend, artifact: Artifact, moment: str
) -> None:
    drive.apply(drive.target(artifact, replicas_max=2))
    killed_at(plane, artifact, DELETING[moment], "delete")
    drive.delete("support")
    for orphan in backend.orphans():  # weights whose model is gone are found by gc
        assert orphan.kind == "weights"
    arm = plane.arm
    assert (arm.endpoints, arm.deployments, arm.autoscale, arm.assets) == ({}, {}, {}, {})
