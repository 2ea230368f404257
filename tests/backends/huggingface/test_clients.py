"""Real clients against a deployed endpoint, in a container and behind the stock image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_hub.deploy import client, reference_core
from llama_hub.deploy.apply import ApplyOptions
from llama_hub.deploy.attest import attest
from llama_hub.deploy.backend import Artifact
from llama_hub.deploy.deployer import Deployer
from tests.backends.huggingface.conftest import TOKEN, Loopback, spec

BODY = {
    "messages": [{"role": "user", "content": "What is the capital of Italy?"}],
    "temperature": 0,
    "max_tokens": 24,
}
OPTIONS = ApplyOptions(sleep=lambda seconds: None)


@pytest.fixture
def reference(demo: Artifact) -> str:
    """The local core's answer."""
    return client.text_of(b"".join(reference_core.answer(demo.folder, BODY, False)))


@pytest.fixture
def running(loopback: Loopback, deployer: Deployer) -> Iterator[str]:
    """The URL of a deployed container."""
    deployed = deployer.apply(deployer.plan(spec()), OPTIONS)
    yield str(deployed.url)
    loopback.launcher.close()


def test_openai_and_inference_client_get_the_local_answer(running: str, reference: str) -> None:
    import httpx
    from huggingface_hub import InferenceClient
    from openai import OpenAI

    with OpenAI(base_url=f"{running}/v1", api_key=TOKEN, http_client=httpx.Client()) as client:
        said = client.chat.completions.create(model="dummy", **BODY)  # type: ignore[call-overload]
    assert said.choices[0].message.content == reference

    hub_client = InferenceClient(base_url=running, token=TOKEN)
    answer = hub_client.chat_completion(BODY["messages"], max_tokens=24, temperature=0)  # type: ignore[arg-type]
    assert answer.choices[0].message.content == reference


def test_the_stock_image_runs_our_core_without_an_image(
    loopback: Loopback, demo: Artifact, tmp_path: Path, reference: str
) -> None:
    deployer = Deployer(loopback.backend(), artifacts=lambda _: demo, root=tmp_path / "journals")
    wanted = spec(options={"run": "handler", "image": None})
    deployer.apply(deployer.plan(wanted), OPTIONS)
    backend = loopback.backend()
    try:
        whole = b"".join(client.chat(backend, "chat", BODY, stream=False))
        assert client.text_of(whole) == reference
        pieces = client.chat(backend, "chat", BODY, stream=True)
        assert client.streamed_text(pieces) == reference
        found = attest(deployer, "chat", lambda _: demo)
        assert found.served == demo.manifest.digest
    finally:
        deployer.apply(deployer.plan_delete("chat"), OPTIONS)
