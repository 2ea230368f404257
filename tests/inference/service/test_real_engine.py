"""The service on the real engine with the demo model: real clients, a crowd, and the two ways of
generating compared."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI

from llama_hub.hub.catalog import load
from llama_hub.inference.config import EngineOptions
from llama_hub.inference.service import served_model
from llama_hub.inference.service.settings import ServiceSettings
from llama_hub.inference.tokenizer import Tokenizer
from llama_hub.inference.torch_engine import TorchEngine
from tests.support.demo_model import demo_folder
from tests.support.serving import Running, serving

QUESTION = [{"role": "user", "content": "Who are you?"}]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    stored = demo_folder(tmp_path_factory.mktemp("home"))
    what = served_model.mounted(stored.path, load())
    options = EngineOptions(
        device="cpu", dtype="float32", max_batch=32, max_queue=1024, context=512, threads=1
    )
    with serving(
        TorchEngine(stored.path, options),
        ServiceSettings(max_queue=512),
        served=what.served,
        tokenizer=Tokenizer(stored.path / "tokenizer.model"),
    ) as found:
        yield found


@pytest.fixture
def client(running: Running) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{running.url}/v1", api_key="x", max_retries=0) as found:
        yield found


def test_greedy_is_the_same_streamed_and_whole(client: OpenAI) -> None:
    whole = client.chat.completions.create(
        model="demo", messages=QUESTION, temperature=0, max_tokens=40
    )
    text = whole.choices[0].message.content
    assert text
    assert not text.startswith(" ")
    stream = client.chat.completions.create(
        model="demo", messages=QUESTION, temperature=0, max_tokens=40, stream=True
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text


def test_scores_of_echo_equal_those_of_generation(running: Running) -> None:
    def post(path: str, body: dict[str, Any]) -> Any:
        answer = httpx.post(running.url + path, json=body, trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer.json()

    greedy = {"max_new_tokens": 6, "details": True}
    made = post("/generate", {"inputs": "The old house", "parameters": greedy})["details"]["tokens"]
    prompt = running.service.tokenizer.encode("The old house", bos=True)
    body = {"prompt": prompt + [token["id"] for token in made], "max_tokens": 1, "temperature": 0,
            "echo": True, "logprobs": 2, "seed": 1234}  # fmt: skip
    scored = post("/v1/completions", body)["choices"][0]
    part = scored["logprobs"]["token_logprobs"][len(prompt) : -1]
    assert part == pytest.approx([token["logprob"] for token in made], abs=1e-4)
    tops = scored["logprobs"]["top_logprobs"][len(prompt) : -1]
    for token, top in zip(made, tops, strict=True):
        assert token["text"] == max(top, key=top.__getitem__)  # greedy, as lm_eval judges it


def test_structured_output_is_json(client: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "n": {"enum": [1, 2]}},
        "required": ["ok", "n"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model="demo",
        messages=QUESTION,
        max_tokens=60,
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
    )
    found = json.loads(answer.choices[0].message.content or "")
    assert set(found) == {"ok", "n"}
    bad = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nonsense"}}}
    refused = httpx.post(
        f"{client.base_url}chat/completions",
        json={"messages": QUESTION, "response_format": bad},
        trust_env=False,
    )
    assert refused.status_code == 400


def test_seeds_repeat(client: OpenAI) -> None:
    def ask(seed: int) -> list[str | None]:
        answer = client.chat.completions.create(
            model="demo", messages=QUESTION, temperature=1.5, max_tokens=20, seed=seed, n=3
        )
        return [choice.message.content for choice in answer.choices]

    first = ask(5)
    assert first == ask(5)
    assert len(set(first)) > 1


def test_two_hundred_clients_of_which_half_vanish(running: Running) -> None:
    """Every client that stays gets the greedy answer; none that leaves holds anything."""
    questions = [f"Tell me about the number {number}." for number in range(10)]

    async def ask(client: AsyncOpenAI, question: str, leave: bool) -> str | None:
        stream = await client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": question}],
            temperature=0,
            max_tokens=16,
            stream=True,
        )
        text, seen = "", 0
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            seen += 1
            if leave and seen == 3:
                await stream.close()
                return None
        return text

    async def crowd() -> tuple[list[str | None], list[str | None]]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        http = httpx.AsyncClient(limits=limits, timeout=100, trust_env=False)
        async with AsyncOpenAI(
            base_url=f"{running.url}/v1", api_key="x", max_retries=0, http_client=http
        ) as client:
            alone = [await ask(client, question, False) for question in questions]
            tasks = [ask(client, questions[n % 10], n % 20 >= 10) for n in range(200)]
            return alone, list(await asyncio.gather(*tasks))

    alone, found = asyncio.run(crowd())
    stayed = [text for text in found if text is not None]
    assert len(stayed) == 100
    for position, text in enumerate(found):
        assert text is None or text == alone[position % 10]
    emptied = asyncio.run_coroutine_threadsafe(running.service.admission.emptied(), running.loop)
    emptied.result(20)
    assert running.service.admission.sequences == 0
    assert running.service.active == set()
    for _ in range(400):
        stats = running.engine.stats()
        if stats.running == stats.waiting == 0:
            break
        httpx.get(f"{running.url}/health", trust_env=False)
    assert (stats.running, stats.waiting) == (0, 0)
    assert ask_after(running) == alone[0]


def ask_after(running: Running) -> str:
    body = {
        "messages": [{"role": "user", "content": "Tell me about the number 0."}],
        "temperature": 0,
        "max_tokens": 16,
    }
    answer = httpx.post(
        f"{running.url}/v1/chat/completions", json=body, trust_env=False, timeout=60
    )
    return str(answer.json()["choices"][0]["message"]["content"])


def test_manifest_names_the_weights(running: Running, tmp_path: Path) -> None:
    found = httpx.get(f"{running.url}/manifest", trust_env=False).json()
    assert found["model"] == "llama-demo-chat"
    assert found["manifest"].startswith("sha256:")
    assert found["document"]["digest"] == found["manifest"]
    assert found["engine"]["engine"] == "torch"
    assert found["license"]["id"] == "llama-hub-demo"


def test_a_call_whose_values_have_bounds_is_always_whole(client: OpenAI) -> None:
    """What instructor and LangChain's function calling send, with the bounds that the page names.

    Without them this model's texts often run to the end of the context.
    """
    parameters = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
        },
        "required": ["name", "age"],
    }
    for seed in range(4):
        answer = client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "J. is 25"}],
            tools=[{"type": "function", "function": {"name": "P", "parameters": parameters}}],
            tool_choice={"type": "function", "function": {"name": "P"}},
            seed=seed,
        )
        (choice,) = answer.choices
        assert choice.finish_reason == "stop"
        (call,) = choice.message.tool_calls or ()
        assert call.type == "function"
        arguments = json.loads(call.function.arguments)
        assert len(arguments["name"]) <= 20
        assert 0 <= arguments["age"] <= 150
