"""No request makes the service work without limit: counts come before work, on every route."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import httpx
import pydantic_core
import pytest

from llama_hub.hub.manifest import Manifest
from llama_hub.inference.service import body as bodies
from llama_hub.inference.service import limits, server
from llama_hub.inference.service.app import create_app
from llama_hub.inference.service.body import Bodies, parse_json
from llama_hub.inference.service.limits import Pacer
from llama_hub.inference.service.problems import Problem
from llama_hub.inference.service.settings import ServiceSettings
from tests.support.serving import SERVED, Running, demo_tokenizer, echo_engine, serving

USER = [{"role": "user", "content": "hello"}]
LONG = "a" * 100_000  # more characters than the context holds tokens of


@pytest.fixture(scope="module")
def small() -> Iterator[Running]:
    """A server for at most six sequences, which notes what it tokenises."""
    with serving(echo_engine(max_batch=2), ServiceSettings(max_queue=4)) as running:
        yield running


@pytest.fixture
def tokenised(small: Running, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    encode = small.service.tokenizer.encode_raw

    def noted(text: str, **more: Any) -> list[int]:
        seen.append(text)
        return encode(text, **more)

    monkeypatch.setattr(small.service.tokenizer, "encode_raw", noted)
    return seen


def post(running: Running, path: str, document: Any) -> httpx.Response:
    return httpx.post(running.url + path, json=document, trust_env=False, timeout=60)


TOO_MANY = [
    ("/v1/completions", {"prompt": ["a"] * 7}),
    ("/v1/completions", {"prompt": ["a"] * 65_000}),
    ("/v1/completions", {"prompt": [[1, 5]] * 7}),
    ("/v1/completions", {"prompt": ["a", "b"], "n": 4}),
    ("/v1/completions", {"prompt": ["a", "b"], "best_of": 4}),
    ("/v1/completions", {"prompt": "a", "best_of": 128}),
    ("/v1/chat/completions", {"messages": USER, "n": 7}),
    ("/", {"inputs": ["a"] * 7}),
    ("/generate", {"inputs": ["a"] * 65_000}),
    ("/generate", {"inputs": ["a", "b"], "parameters": {"best_of": 4}}),
    ("/invocations", {"prompt": ["a"] * 7}),
    ("/invocations", {"inputs": ["a"] * 7}),
    ("/invocations", {"messages": USER, "n": 7}),
    ("/score", {"prompt": ["a"] * 7}),
    ("/score", {"input_data": {"input_string": ["a"] * 7}}),
    ("/score", {"input_data": {"input_string": ["a"] * 3, "parameters": {"best_of": 3}}}),
]


@pytest.mark.parametrize(("path", "document"), TOO_MANY)
def test_sequences_are_counted_before_anything_is_tokenised(
    small: Running, tokenised: list[str], path: str, document: Any
) -> None:
    refused = post(small, path, document)
    assert refused.status_code in (400, 422)
    assert "at most 6" in refused.text
    assert tokenised == []


TOO_LONG = [
    ("/v1/completions", {"prompt": LONG}),
    ("/v1/completions", {"prompt": ["a", LONG]}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": LONG}]}),
    ("/generate", {"inputs": LONG}),
    ("/", {"inputs": ["a", LONG]}),
    ("/tokenize", {"prompt": LONG}),
    ("/tokenize", {"messages": [{"role": "user", "content": LONG}]}),
    ("/score", {"input_data": {"input_string": LONG}}),
    ("/score", {"input_data": {"input_string": ["a", LONG]}}),
    ("/score", {"input_data": {"input_string": [{"role": "user", "content": LONG}]}}),
]


@pytest.mark.parametrize(("path", "document"), TOO_LONG)
def test_what_cannot_fit_is_not_tokenised(
    small: Running, tokenised: list[str], path: str, document: Any
) -> None:
    refused = post(small, path, document)
    assert refused.status_code in (400, 422)
    assert "could fit" in refused.text
    assert tokenised == []


def test_the_first_prompt_that_does_not_fit_is_the_last_tokenised(
    small: Running, tokenised: list[str]
) -> None:
    wide = "xylophones " * 200  # fewer characters than the limit, more tokens than the context
    assert post(small, "/v1/completions", {"prompt": [wide] * 6}).status_code == 400
    assert len(tokenised) == 1


def test_tokens_are_counted_also_of_what_does_not_fit(small: Running) -> None:
    wide = {"prompt": "xylophones " * 200}
    counted = post(small, "/tokenize", wide)
    assert counted.status_code == 200
    assert counted.json()["count"] > counted.json()["max_model_len"]


BIASES = {str(token): 1 for token in range(400)}
TOO_MUCH = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}] * 5000}),
    ("/v1/chat/completions", {"messages": [1] * 60_000}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [1] * 60_000}]}),
    ("/v1/chat/completions", {"messages": USER, "model": "m" * 100_000}),
    ("/v1/chat/completions", {"messages": USER, "m" * 100_000: 1}),
    ("/v1/chat/completions", {"messages": USER, "stop": ["a"] * 60_000}),
    ("/v1/chat/completions", {"messages": USER, "stop": "a" * 60_000}),
    ("/v1/chat/completions", {"messages": USER, "stop_token_ids": ["a"] * 60_000}),
    ("/v1/chat/completions", {"messages": USER, "modalities": ["a"] * 60_000}),
    ("/v1/completions", {"prompt": "a", "logit_bias": {str(n): 1 for n in range(3000)}}),
    ("/v1/completions", {"prompt": "a", "logit_bias": {str(n): "x" for n in range(3000)}}),
    ("/v1/completions", {f"field{n}": 1 for n in range(50_000)}),
    ("/generate", {"inputs": "a", "parameters": {f"field{n}": 1 for n in range(50_000)}}),
    ("/generate", {"inputs": "a", "parameters": {"stop": ["a"] * 60_000}}),
    ("/detokenize", {"tokens": [1] * 200_000}),
    ("/detokenize", {"tokens": ["a"] * 200_000}),
    ("/invocations", {"inputs": "a", "parameters": {"grammar": {"type": "json", "value": {
        "multipleOf": 9999991}}}}),
    ("/score", {"messages": USER, "response_format": {"type": "json_schema", "json_schema": {
        "name": "a", "schema": {"multipleOf": 9999991}}}}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "document"), TOO_MUCH)
def test_long_lists_names_and_schemas_are_refused_in_few_words(
    small: Running, path: str, document: Any
) -> None:
    small.engine.seen.clear()
    refused = post(small, path, document)
    assert refused.status_code in (400, 422), refused.text
    assert len(refused.content) < 2000
    assert small.engine.seen == []


def test_biases_within_the_limit_are_taken(small: Running) -> None:
    body = {"prompt": "a", "max_tokens": 1, "logit_bias": BIASES}
    assert post(small, "/v1/completions", body).status_code == 200


@pytest.mark.parametrize("more", [{"n": 4, "logprobs": 20}, {"logprobs": 20, "echo": True}])
def test_log_probabilities_have_a_limit(monkeypatch: pytest.MonkeyPatch, more: Any) -> None:
    from llama_hub.inference.service import generation

    monkeypatch.setattr(generation, "MAX_LOGPROBS", 1000)
    with serving() as running:
        body = {"prompt": "one two three", "max_tokens": 50} | more
        refused = post(running, "/v1/completions", body)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "logprobs"
        assert running.engine.seen == []


def test_a_prompts_log_probabilities_are_not_streamed_beyond_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from llama_hub.inference.service import openai

    monkeypatch.setattr(openai, "MAX_STREAMED", 10)
    with serving() as running:
        body = {"prompt": "one two three", "max_tokens": 1, "echo": True, "logprobs": 5}
        assert post(running, "/v1/completions", body).status_code == 200
        assert post(running, "/v1/completions", body | {"stream": True}).status_code == 400


# --- the body ---------------------------------------------------------------------------------

HOSTILE = {
    "lists": b"[" + b",".join([b"[]"] * 70_000) + b"]",
    "objects": b"[" + b",".join([b"{}"] * 70_000) + b"]",
    "numbers": b"[" + b",".join([b"1"] * 300_000) + b"]",
    "fields": b"{" + b",".join(b'"%d":1' % n for n in range(5000)) + b"}",
    "fields of all": b"[" + b",".join([b'{"a":1,"b":2,"c":3}'] * 12_000) + b"]",
    "fractions": b"[" + b",".join([b"0.5"] * 40_000) + b"]",
    "exponents": b"[" + b",".join([b"1E3"] * 40_000) + b"]",
    "nested": b"[" * 101 + b"]" * 101,
    "nested without end": b"[" * 5_000_000,
    "nested objects": b'{"a":' * 101 + b"1" + b"}" * 101,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_json_is_counted_not_parsed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from_json = pydantic_core.from_json

    def guarded(data: bytes, **more: Any) -> Any:
        assert name == "fields"
        return from_json(data, **more)

    monkeypatch.setattr(bodies.pydantic_core, "from_json", guarded)
    with pytest.raises(Problem, match="at most"):
        parse_json(b'{"prompt": ' + HOSTILE[name] + b"}")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 500 + "]" * 500,
        '\\"' + "[" * 500,
        "\\\\" + "{,[" * 200_000,
        '\\\\\\"' + "{,[" * 500,
        "é\U0001f600" * 5000,
    ],
)
def test_what_stands_in_a_string_is_not_counted(text: str) -> None:
    body = json.dumps({"prompt": text, "a\\": [text, '"']}).encode()
    assert parse_json(body)["prompt"] == text


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"', b"null", b"\xff", b'{"a":NaN}'])
def test_what_is_no_object_is_a_400(body: bytes) -> None:
    with pytest.raises(Problem) as refused:
        parse_json(body)
    assert refused.value.status == 400


def test_large_bodies_together_have_a_limit() -> None:
    held = Bodies(100)
    try:
        with held.room() as first:
            first.add(b"a" * 100)
            with pytest.raises(Problem, match="larger"):
                first.add(b"a")
            held.held = bodies.AT_ONCE * 100
            with held.room() as second, pytest.raises(Problem, match="at once") as refused:
                second.add(b"a")
            assert refused.value.status == 429
            held.held = 100
        assert held.held == 0
    finally:
        held.close()


# --- the event loop ---------------------------------------------------------------------------


def test_requests_that_come_together_are_prepared_one_in_a_round() -> None:
    async def main() -> None:
        pacer, order = Pacer(), []

        async def request(number: int) -> None:
            await pacer.next_round()
            order.append(f"request {number}")

        requests = [asyncio.create_task(request(number)) for number in range(5)]
        while not all(each.done() for each in requests):
            await asyncio.sleep(0)
            order.append("others")
        numbers = [index for index, what in enumerate(order) if what != "others"]
        assert all(after - before > 1 for before, after in pairwise(numbers))

    asyncio.run(main())


def test_requests_rest_for_as_long_as_the_event_loop_was_busy() -> None:
    async def main() -> None:
        pacer, loop = Pacer(), asyncio.get_running_loop()
        await pacer.next_round()
        waiting = asyncio.create_task(pacer.next_round())
        await asyncio.sleep(0)
        time.sleep(3 * limits.PACE)  # something else holds the loop up
        busy_until = loop.time()
        await waiting
        assert loop.time() - busy_until >= 2 * limits.PACE

    asyncio.run(main())


def test_a_thread_gets_pythons_lock_back_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    before, default, seen = sys.getswitchinterval(), 0.005, list[float]()
    sys.setswitchinterval(default)  # another test's server may have left its own

    async def serve(*_: object) -> None:
        seen.append(sys.getswitchinterval())

    monkeypatch.setattr(server, "_serve", serve)
    app = create_app(echo_engine(), demo_tokenizer(), SERVED, ServiceSettings())
    bound = server.bind("127.0.0.1", 0)
    try:
        server.run(app, bound, on_ready=lambda: None)
    finally:
        sys.setswitchinterval(before)
        bound.close()
    assert seen[0] < default / 10


def test_the_manifest_is_hashed_once_not_for_each_token(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    manifest = Manifest(model="echo-model", license="llama-hub-demo", format="hf", files=())
    whole = Manifest._identity

    def identity(self: Manifest) -> dict[str, Any]:
        hashed.append(self.model)
        return whole(self)

    monkeypatch.setattr(Manifest, "_identity", identity)
    with serving(served=dataclasses.replace(SERVED, manifest=manifest)) as running:
        body = {"prompt": "one two", "max_tokens": 30, "stream": True}
        assert post(running, "/v1/completions", body).text.count("fp_") == 30
        for _ in range(3):
            assert httpx.get(f"{running.url}/manifest", trust_env=False).json()["manifest"]
    assert len(hashed) <= 2  # the digest, and the document that states it
