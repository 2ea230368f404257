"""Each cloud's own contract, as its probes and clients speak it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import InferenceClient

from llama_hub.errors import LicenseError, NotFoundError, UsageError
from llama_hub.inference.service.platforms import container
from tests.support.serving import Running, echo_engine, serving

USER = [{"role": "user", "content": "tell me a story"}]


@pytest.fixture
def hugging_face(running: Running, monkeypatch: pytest.MonkeyPatch) -> InferenceClient:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return InferenceClient(running.url)


# --- readiness --------------------------------------------------------------------------------


def test_it_answers_before_it_is_ready() -> None:
    load = asyncio.Event()
    with serving(echo_engine(load=load), wait=False) as running:
        with httpx.Client(base_url=running.url, trust_env=False) as client:
            assert client.get("/health/live").status_code == 200
            for path in ("/health", "/ping", "/health/ready", "/v1/models"):
                assert client.get(path).status_code == 503, path
            refused = client.post("/invocations", json={"prompt": "a"})
            assert refused.status_code == 503
            assert int(refused.headers["Retry-After"]) > 0
            assert client.get("/metrics").status_code == 200
            assert client.get("/manifest").json()["engine"] is None
            running.loop.call_soon_threadsafe(load.set)
            while client.get("/health").status_code == 503:
                pass
            assert client.get("/ping").status_code == 200


def test_an_engine_that_does_not_start_is_never_ready() -> None:
    with serving(echo_engine(fail=NotFoundError("no weights"))) as running:
        answer = httpx.get(f"{running.url}/health", trust_env=False)
        assert answer.status_code == 503
        assert "no weights" in answer.json()["reason"]
        assert httpx.get(f"{running.url}/health/live", trust_env=False).status_code == 200
        assert httpx.get(f"{running.url}/metrics", trust_env=False).status_code == 200


def test_an_engine_that_breaks_is_no_longer_ready() -> None:
    with serving() as running:
        assert httpx.get(f"{running.url}/ping", trust_env=False).status_code == 200
        running.engine.trouble = "the device is gone"
        assert httpx.get(f"{running.url}/ping", trust_env=False).status_code == 503
        ready = httpx.get(f"{running.url}/health/ready", trust_env=False)
        assert ready.json()["reason"] == "the engine has failed: the device is gone"


# --- SageMaker --------------------------------------------------------------------------------


def test_ping_has_an_empty_body(client: httpx.Client) -> None:
    answer = client.get("/ping")
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ({"messages": USER, "max_tokens": 2}, "chat.completion"),
        ({"prompt": "one two", "max_tokens": 2}, "text_completion"),
    ],
)
def test_invocations_take_openai_bodies(client: httpx.Client, body: Any, key: str) -> None:
    # SageMaker passes whatever content type the caller gave.
    headers = {"Content-Type": "application/octet-stream"}
    answer = client.post("/invocations", content=json.dumps(body), headers=headers)
    assert answer.status_code == 200
    assert answer.json()["object"] == key


def test_invocations_take_hugging_face_bodies(client: httpx.Client) -> None:
    body = {"inputs": "one two", "parameters": {"max_new_tokens": 2}}
    assert client.post("/invocations", json=body).json() == {"generated_text": " one two"}


def test_invocations_stream(client: httpx.Client) -> None:
    body = {"prompt": "one two", "max_tokens": 2, "stream": True}
    with client.stream("POST", "/invocations", json=body) as answer:
        assert answer.headers["transfer-encoding"] == "chunked"
        lines = [line for line in answer.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    accept = {"Accept": "application/jsonlines"}
    with client.stream("POST", "/invocations", json=body, headers=accept) as answer:
        documents = [json.loads(line) for line in answer.iter_lines()]
    assert "".join(one["choices"][0]["text"] for one in documents) == " one two"


def test_invocations_route_by_custom_attributes(client: httpx.Client) -> None:
    headers = {"X-Amzn-SageMaker-Custom-Attributes": "trace=1,route=/tokenize"}
    answer = client.post("/invocations", json={"prompt": "one two"}, headers=headers)
    assert answer.json()["count"] > 0
    headers = {"X-Amzn-SageMaker-Custom-Attributes": "route=/etc/passwd"}
    assert client.post("/invocations", json={"prompt": "a"}, headers=headers).status_code == 404


@pytest.mark.parametrize("body", [{}, {"foo": 1}, {"prompt": "a", "inputs": "b"}])
def test_invocations_refuse_what_is_ambiguous(client: httpx.Client, body: Any) -> None:
    answer = client.post("/invocations", json=body)
    assert answer.status_code == 400
    assert "exactly one" in answer.json()["error"]["message"]


# --- Azure ML ---------------------------------------------------------------------------------


def test_score_takes_every_body(client: httpx.Client) -> None:
    assert client.post("/score", json={"messages": USER, "max_tokens": 2}).json()["choices"]
    texts = {"input_data": {"input_string": ["one two"], "parameters": {"max_new_tokens": 2}}}
    assert client.post("/score", json=texts).json() == {"output": [" one two"]}
    one = {"input_data": {"input_string": "one two", "parameters": {"max_new_tokens": 2}}}
    assert client.post("/score", json=one).json() == {"output": [" one two"]}
    chat = {"input_data": {"input_string": USER, "parameters": {"max_new_tokens": 6}}}
    assert client.post("/score", json=chat).json() == {"output": "[INST] tell me a"}
    assert client.post("/score", json={"input_data": {}}).status_code == 400
    assert client.post("/score", json={"input_data": {"input_string": []}}).status_code == 400


def test_probes_of_azure(client: httpx.Client) -> None:
    assert client.get("/health/live").status_code == 200
    assert client.get("/health/ready").status_code == 200
    assert client.get("/").status_code == 200
    assert client.get("/swagger.json").json()["openapi"].startswith("3.")


# --- Hugging Face -----------------------------------------------------------------------------


def test_inference_client_generates(hugging_face: InferenceClient) -> None:
    assert hugging_face.text_generation("one two", max_new_tokens=2) == " one two"


def test_inference_client_details(hugging_face: InferenceClient) -> None:
    found = hugging_face.text_generation(
        "one two", max_new_tokens=2, details=True, decoder_input_details=True, top_n_tokens=2
    )
    assert found.details is not None
    assert found.details.finish_reason == "length"
    assert "".join(token.text for token in found.details.tokens) == found.generated_text
    assert found.details.prefill[0].text == "<s>"
    assert found.details.top_tokens is not None
    assert len(found.details.top_tokens[0]) == 2


def test_inference_client_streams(hugging_face: InferenceClient) -> None:
    pieces = list(hugging_face.text_generation("one two", max_new_tokens=2, stream=True))
    assert "".join(pieces) == " one two"
    detailed = hugging_face.text_generation(
        "one two", max_new_tokens=9, stop=["wo"], stream=True, details=True
    )
    events = list(detailed)
    assert events[-1].generated_text == " one t"
    assert events[-1].details is not None
    assert events[-1].details.finish_reason == "stop_sequence"


def test_inference_client_chats_with_any_model_name(hugging_face: InferenceClient) -> None:
    answer = hugging_face.chat_completion(USER, max_tokens=6)
    assert answer.choices[0].message.content == "[INST] tell me a"
    pieces = hugging_face.chat_completion(USER, max_tokens=6, stream=True)
    assert "".join(p.choices[0].delta.content or "" for p in pieces) == "[INST] tell me a"


def test_root_answers_in_a_list(client: httpx.Client) -> None:
    body = {"inputs": "one two", "parameters": {"max_new_tokens": 2, "return_full_text": True}}
    assert client.post("/", json=body).json() == [{"generated_text": "one two one two"}]
    assert client.post("/generate", json=body).json() == {"generated_text": "one two one two"}
    several = {"inputs": ["one two", "six ten"], "parameters": {"max_new_tokens": 1}}
    assert len(client.post("/", json=several).json()) == 2


def test_greedy_unless_sampling_is_asked_for(client: httpx.Client, running: Running) -> None:
    for parameters, temperature in (
        ({}, 0.0),
        ({"do_sample": True}, 1.0),
        ({"temperature": 0.5}, 0.5),
        ({"do_sample": False, "temperature": 0.5}, 0.0),
    ):
        body = {"inputs": "one", "parameters": {"max_new_tokens": 1, **parameters}}
        assert client.post("/generate", json=body).status_code == 200
        assert running.engine.seen[-1].sampling.temperature == temperature


def test_errors_have_the_shape_of_their_servers(client: httpx.Client) -> None:
    answer = client.post("/generate", json={"inputs": "one", "parameters": {"temperature": 0}})
    assert answer.status_code == 422
    assert answer.json()["error_type"] == "validation"
    assert "temperature" in answer.json()["error"]
    assert client.post("/", json={"parameters": {}}).status_code == 422
    for name in ("truncate", "typical_p", "watermark", "adapter_id"):
        body = {"inputs": "one", "parameters": {name: 0.5}}
        answer = client.post("/generate", json=body)
        assert answer.status_code == 422, name
        assert name in answer.json()["error"]
    assert client.post("/", json={"inputs": ["a", "b"], "stream": True}).status_code == 422


# --- where the weights are ----------------------------------------------------------------------


def model_at(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_azure_mounts_at_any_depth(tmp_path: Path) -> None:
    folder = model_at(tmp_path / "azureml-models" / "llama" / "3" / "hf")
    found = container.detect({"AZUREML_MODEL_DIR": str(tmp_path)})
    assert found is not None
    assert (found.name, found.folder, found.port) == ("azureml", folder, 8080)
    assert found.guarded


def test_sagemaker_and_hugging_face_mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sagemaker", "huggingface"):
        folder = model_at(tmp_path / name)
        monkeypatch.setattr(container, "MOUNTS", {name: str(folder)})
        found = container.detect({})
        assert found is not None
        assert (found.name, found.folder) == (name, folder)
    found = container.detect({"SAGEMAKER_BIND_TO_PORT": "9000"})
    assert found is not None
    assert found.port == 9000


def test_a_container_of_ones_own_is_not_guarded(tmp_path: Path) -> None:
    folder = model_at(tmp_path / "model")
    found = container.detect({"LLAMA_HUB_MODEL_DIR": str(folder), "LLAMA_HUB_PORT": "81"})
    assert found is not None
    assert (found.name, found.port, found.guarded) == (None, 81, False)
    named = {"LLAMA_HUB_MODEL_DIR": str(folder), "LLAMA_HUB_PLATFORM": "sagemaker"}
    guarded = container.detect(named)
    assert guarded is not None
    assert guarded.guarded


def test_no_platform_no_answer() -> None:
    assert container.detect({}) is None


def test_mounts_without_a_model_are_named(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(NotFoundError, match=r"weights\.bin"):
        container.detect({"AZUREML_MODEL_DIR": str(tmp_path)})
    with pytest.raises(NotFoundError, match="nothing"):
        container.detect({"AZUREML_MODEL_DIR": str(tmp_path / "absent")})
    model_at(tmp_path / "a")
    model_at(tmp_path / "b")
    with pytest.raises(UsageError, match="a, b"):
        container.detect({"AZUREML_MODEL_DIR": str(tmp_path)})
    for wrong in ({"LLAMA_HUB_PLATFORM": "gcp"}, {"LLAMA_HUB_PORT": "99999"}):
        with pytest.raises(UsageError):
            container.detect({"LLAMA_HUB_MODEL_DIR": str(tmp_path / "a"), **wrong})


def test_a_gated_mount_must_carry_its_receipt(tmp_path: Path) -> None:
    from llama_hub.hub.catalog import load
    from llama_hub.hub.manifest import Manifest
    from llama_hub.inference.service import served_model

    Manifest("llama-2-7b-chat", "hf", "llama-2-community", ()).write(tmp_path)
    with pytest.raises(LicenseError, match="receipt"):
        served_model.mounted(tmp_path, load())
    Manifest("llama-2-7b-chat", "hf", "llama-2-community", (), receipt="r-1").write(tmp_path)
    found = served_model.mounted(tmp_path, load())
    assert "Llama 2 is licensed" in found.served.notice
    assert found.served.chat
