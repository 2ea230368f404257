"""The routes for embeddings, by OpenAI's and Ollama's words, over the echo engine."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import httpx
import pytest
from openai import OpenAI

from llama_hub.inference.service import embeddings
from llama_hub.inference.service.settings import Moderation, ServiceSettings
from tests.support.echo_engine import EMBEDDING_SIZE
from tests.support.serving import Running, demo_tokenizer, echo_engine, serving


def axis(last_token: int) -> list[float]:
    return [float(each == last_token % EMBEDDING_SIZE) for each in range(EMBEDDING_SIZE)]


def post(running: Running, path: str = "/v1/embeddings", **body: Any) -> httpx.Response:
    return httpx.post(running.url + path, json=body, trust_env=False, timeout=30)


def problem(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"]["message"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([5], [[5]]),
        ([1, 9], [[1, 9]]),
        ([[4], [1, 3]], [[4], [1, 3]]),
    ],
)
def test_token_ids_are_taken_as_they_are(
    running: Running, given: Any, expected: list[list[int]]
) -> None:
    document = post(running, input=given, model="m").json()
    assert [each["embedding"] for each in document["data"]] == [axis(each[-1]) for each in expected]
    assert [each["index"] for each in document["data"]] == list(range(len(expected)))
    count = sum(map(len, expected))
    assert document["usage"] == {"prompt_tokens": count, "total_tokens": count}
    assert (document["object"], document["model"]) == ("list", "echo-model")
    assert {each["object"] for each in document["data"]} == {"embedding"}


def test_texts_get_bos_and_keep_their_order(running: Running) -> None:
    texts = [f"number {n} of many" for n in range(20)]
    document = post(running, input=texts).json()
    encoded = [demo_tokenizer().encode(text, bos=True) for text in texts]
    assert [each["embedding"] for each in document["data"]] == [axis(each[-1]) for each in encoded]
    assert document["usage"]["prompt_tokens"] == sum(map(len, encoded))
    assert {request.prompt[0] for request in running.engine.seen[-20:]} == {1}


def test_openai_s_client_reads_base64_and_floats(running: Running) -> None:
    with OpenAI(base_url=f"{running.url}/v1", api_key="x", max_retries=0) as client:
        by_default = client.embeddings.create(model="m", input=["a", "b"])
        floats = client.embeddings.create(model="m", input=["a", "b"], encoding_format="float")
    assert [each.embedding for each in by_default.data] == [each.embedding for each in floats.data]
    text = post(running, input="a", encoding_format="base64").json()["data"][0]["embedding"]
    assert len(text) == 4 * -(-4 * EMBEDDING_SIZE // 3)


def test_dimensions_are_the_model_s_own(running: Running) -> None:
    assert post(running, input="a", dimensions=EMBEDDING_SIZE).status_code == 200
    said = problem(post(running, input="a", dimensions=4), 400)
    assert f"{EMBEDDING_SIZE} numbers" in said
    assert "dimensions" in said


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "'input' is missing"),
        ({"input": []}, "input must be a text"),
        ({"input": ""}, "empty"),
        ({"input": ["a", ""]}, "empty"),
        ({"input": ["a", 5]}, "input must be a text"),
        ({"input": [True]}, "input must be a text"),
        ({"input": [[1], []]}, "input must be a text"),
        ({"input": {"text": "a"}}, "input must be a text"),
        ({"input": [-1]}, "outside the vocabulary"),
        ({"input": [10**9]}, "outside the vocabulary"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
        ({"input": ["a"] * 2049}, "at most 2048"),
        ({"input": [[3, 4], list(range(257))]}, "input 1 has 257 tokens"),
        ({"input": "word " * 400}, "at most 256"),
    ],
)
def test_what_cannot_be_is_said(running: Running, body: dict[str, Any], said: str) -> None:
    before = len(running.engine.seen)
    assert said in problem(post(running, **body), 400)
    assert len(running.engine.seen) == before
    assert running.service.admission.sequences == 0


def test_all_numbers_of_a_call_have_a_limit(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "MAX_NUMBERS", 3 * EMBEDDING_SIZE)
    assert post(running, input=["a"] * 3).status_code == 200
    assert "at most 3" in problem(post(running, input=["a"] * 4), 400)


def test_a_text_may_fill_the_context_but_not_the_server_s_own_limit(running: Running) -> None:
    assert post(running, input=[3] * 256).status_code == 200
    with serving(settings=ServiceSettings(max_prompt_tokens=10)) as small:
        assert "at most 10" in problem(post(small, input=[3] * 11), 400)


def test_what_is_unknown_and_harmless_is_ignored(running: Running) -> None:
    harmless = {"user": "u", "input_type": "query", "dimensions": None, "model": "other"}
    assert post(running, input="a", **harmless).status_code == 200


def test_few_texts_of_a_call_are_on_the_engine_at_once() -> None:
    """Two thousand texts of one call leave the places to others."""
    engine = echo_engine()
    with serving(engine, ServiceSettings(max_queue=1)) as running:
        most = 0
        taken = engine.generate

        def counting(request: Any) -> Any:
            nonlocal most
            most = max(most, len(engine.running) + 1)
            return taken(request)

        engine.generate = counting  # type: ignore[method-assign]
        assert len(post(running, input=["a"] * 200).json()["data"]) == 200
    assert most == embeddings.AT_ONCE


def test_the_key_guards_them() -> None:
    with serving(settings=ServiceSettings(api_key="secret")) as running:
        for path in ("/v1/embeddings", "/api/embed", "/api/embeddings"):
            assert post(running, path, input="a", model="m").status_code == 401


@pytest.mark.parametrize("mode", ["before", "parallel"])
def test_hooks_judge_the_texts(mode: Literal["before", "parallel"]) -> None:
    seen: list[str] = []

    def judge(passage: Any) -> str | None:
        seen.append(passage.text)
        return "no" if "evil" in passage.text else None

    settings = ServiceSettings(moderators=(judge,), moderation=Moderation(mode))
    with serving(settings=settings) as running:
        assert post(running, input=["good", "nice"]).status_code == 200
        tokens = demo_tokenizer().encode("an evil text", bos=True)
        assert "content filter" in problem(post(running, input=tokens), 400)
    assert seen[0] == "good\nnice"


def test_an_engine_without_embeddings_says_so() -> None:
    engine = echo_engine()
    engine.info = replace(engine.info, engine="vllm", embedding_size=0)
    with serving(engine) as running:
        assert "vllm engine makes no embeddings" in problem(post(running, input="a"), 501)
        said = post(running, "/api/embed", input="a", model="m")
        assert (said.status_code, set(said.json())) == (501, {"error"})


def test_they_are_counted_and_described(running: Running) -> None:
    post(running, input=["a", "b"])
    text = httpx.get(running.url + "/metrics", trust_env=False).text
    line = next(each for each in text.splitlines() if "llama_hub_embedding_seconds_count" in each)
    assert int(line.rsplit(" ", 1)[1]) >= 2
    assert 'llama_hub_http_requests_total{route="/v1/embeddings",status="200"}' in text
    described = httpx.get(running.url + "/openapi.json", trust_env=False).json()
    assert "EmbeddingBody" in described["components"]["schemas"]
    assert {"/v1/embeddings", "/api/embed", "/api/embeddings"} <= set(described["paths"])


@pytest.fixture
def held() -> Iterator[Running]:
    """An engine that does not go on by itself."""
    engine = echo_engine()
    with serving(engine, ServiceSettings(request_timeout=0.5)) as running:
        engine.gate = asyncio.Event()
        yield running


def test_a_call_has_a_time_limit_and_leaves_nothing(held: Running) -> None:
    assert "longer than this server allows" in problem(post(held, input=["a"] * 9), 504)
    assert held.service.admission.sequences == 0
    assert not held.engine.running
    assert not held.service.active


def test_ollama_s_routes(running: Running) -> None:
    whole = post(running, "/api/embed", model="m", input=["a", "b"], keep_alive="5m").json()
    single = post(running, "/api/embed", model="echo-model:latest", input="a", options={}).json()
    older = post(running, "/api/embeddings", model="m", prompt="a").json()
    assert single["embeddings"][0] == older["embedding"] == whole["embeddings"][0]
    assert whole["model"] == "echo-model"
    assert whole["prompt_eval_count"] == 2 * single["prompt_eval_count"]
    assert whole["total_duration"] > 0


def test_ollama_leaves_the_end_of_a_long_text_out(running: Running) -> None:
    long = "word " * 20_000
    answer = post(running, "/api/embed", model="m", input=long)
    assert answer.json()["prompt_eval_count"] == 256
    refused = post(running, "/api/embed", model="m", input=long, truncate=False)
    assert refused.status_code == 400
    assert post(running, "/api/embeddings", model="m", prompt=long).status_code == 200


def test_ollama_without_a_text_asks_whether_the_model_is_there(running: Running) -> None:
    assert post(running, "/api/embed", model="m").json()["embeddings"] == []
    assert post(running, "/api/embed", model="m", input=[]).json()["embeddings"] == []
    assert post(running, "/api/embeddings", model="m").json() == {"embedding": []}


def test_bytes_of_a_vector_are_little_endian() -> None:
    assert embeddings.numbers_of(struct.pack("<2f", 0.5, -2)) == [0.5, -2.0]
