"""The real service behind the plane: ``llama-hub serve`` in a process, with the demo model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra serve")

from llama_hub.deploy import attest, client  # noqa: E402
from llama_hub.deploy.backend import Artifact  # noqa: E402
from tests.support import sagemaker_host as host  # noqa: E402
from tests.support.demo_model import demo_folder  # noqa: E402
from tests.support.sagemaker_bench import Bench  # noqa: E402
from tests.support.sagemaker_plane import Plane  # noqa: E402

QUESTION = {
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
    "max_tokens": 16,
}


@pytest.fixture
def real(plane: Plane, bench: Bench, home: Path) -> Bench:
    """Containers are real, and the model answers."""
    stored = demo_folder(home)
    receipt = str(stored.manifest.receipt)
    bench.artifact = lambda spec=None: Artifact(stored.path, stored.manifest, receipt)  # type: ignore[method-assign]
    plane.launch = host.process
    return bench


def test_it_answers_streams_and_says_what_it_serves(plane: Plane, real: Bench) -> None:
    deployer = real.deployer()
    plan = deployer.plan(real.spec(model="llama-demo-chat"))
    assert deployer.apply(plan, real.options).status == "ready"
    backend = real.backend()

    whole = client.text_of(b"".join(client.chat(backend, "x", QUESTION, stream=False)))
    assert whole.strip()
    streamed = client.streamed_text(client.chat(backend, "x", QUESTION, stream=True))
    assert streamed == whole

    found = attest.attest(deployer, "x", real.artifact)
    assert found.ok, [one for one in found.checks if not one.ok]

    real.delete()
    assert plane.inventory() == []


def test_a_folder_that_is_not_what_its_manifest_says_does_not_start(
    plane: Plane, real: Bench
) -> None:
    """The service checks what was mounted before it says 200 to ``/ping``."""
    good = plane.launch

    def tampered(folder: Path, variables: object) -> host.Container:
        path = next(folder.glob("*.safetensors"))
        folder.chmod(0o755)
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-1])
        return good(folder, variables)  # type: ignore[arg-type]

    plane.launch = tampered
    from llama_hub.errors import ProvisioningError

    with pytest.raises(ProvisioningError, match="the manifest says") as caught:
        real.deploy(model="llama-demo-chat")
    assert "GET /ping did not answer" in caught.value.message
    assert json.dumps(plane.control.inventory()) == "[]"
