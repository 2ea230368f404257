"""Ollama's API over the wire, by its words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from llama_hub.inference.service.settings import ServiceSettings
from tests.support.scripted_engine import ScriptedEngine
from tests.support.serving import Running, demo_tokenizer, serving

HI = [{"role": "user", "content": "tell me a story"}]


def lines(answer: httpx.Response) -> list[Any]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_chat_streams_lines_unless_told_not_to(client: httpx.Client) -> None:
    body = {"model": "echo-model", "messages": HI, "options": {"num_predict": 6}}
    parts = lines(client.post("/api/chat", json=body))
    assert "".join(part["message"]["content"] for part in parts) == "[INST] tell me a"
    assert [part["done"] for part in parts] == [False] * (len(parts) - 1) + [True]
    whole = client.post("/api/chat", json=body | {"stream": False}).json()
    assert whole["message"] == {"role": "assistant", "content": "[INST] tell me a"}
    for last in (parts[-1], whole):
        assert (last["done_reason"], last["eval_count"]) == ("length", 6)
        assert last["prompt_eval_count"] > 6


def test_generate_takes_the_chat_format_unless_raw(client: httpx.Client, running: Running) -> None:
    body = {"model": "m", "prompt": "one two", "stream": False, "options": {"num_predict": 2}}
    client.post("/api/generate", json=body | {"system": "be brief"})
    said = demo_tokenizer().decode(list(running.engine.seen[-1].prompt))
    assert "[INST] <<SYS>>\nbe brief" in said
    raw = client.post("/api/generate", json=body | {"raw": True}).json()
    assert raw["response"] == " one two"
    assert lines(client.post("/api/generate", json={**body, "stream": True}))[-1]["done"] is True


def test_options_reach_the_engine(client: httpx.Client, running: Running) -> None:
    options = {
        "temperature": 0.25, "top_p": 0.5, "top_k": 7, "min_p": 0.125, "seed": 3, "num_predict": 4,
        "repeat_penalty": 1.25, "presence_penalty": 0.5, "frequency_penalty": -0.5, "stop": ["zz"],
        "num_ctx": 4096, "num_gpu": 1, "mirostat": 0,
    }  # fmt: skip
    body = {"model": "m", "messages": HI, "options": options, "format": "json", "keep_alive": "5m"}
    assert client.post("/api/chat", json=body).status_code == 200
    sampling = running.engine.seen[-1].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.25, 0.5, 7)
    assert (sampling.min_p, sampling.seed, sampling.max_tokens) == (0.125, 3, 4)
    assert sampling.repetition_penalty == 1.25
    assert json.loads(sampling.grammar) == {"type": "object"}
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    client.post("/api/chat", json=body | {"format": schema})
    assert json.loads(running.engine.seen[-1].sampling.grammar) == schema


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"messages": HI}, "model"),
        ({"model": "m", "messages": HI, "options": {"mirostat": 2}}, "options.mirostat"),
        ({"model": "m", "messages": HI, "think": True}, "think"),
        ({"model": "m", "messages": [{**HI[0], "images": ["AAAA"]}]}, "messages.0.images"),
        ({"model": "m", "messages": HI, "options": {"temperature": "hot"}}, "options.temperature"),
        ({"model": "m", "messages": HI, "format": 5}, "format"),
    ],
)
def test_errors_have_ollamas_shape(client: httpx.Client, body: dict[str, Any], says: str) -> None:
    answer = client.post("/api/chat", json=body)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}
    assert says in answer.json()["error"]


def test_a_body_without_a_prompt_asks_whether_the_model_is_there(client: httpx.Client) -> None:
    for path in ("/api/chat", "/api/generate"):
        assert client.post(path, json={"model": "m"}).json()["done_reason"] == "load"


def test_the_model_is_listed_and_shown(client: httpx.Client) -> None:
    (model,) = client.get("/api/tags").json()["models"]
    assert model["name"] == "echo-model"
    shown = client.post("/api/show", json={"model": model["name"]}).json()
    assert shown["model_info"]["llama.context_length"] == 256
    assert "tools" in shown["capabilities"]
    assert client.get("/api/version").json()["version"]


def test_names_are_checked_when_told() -> None:
    with serving(settings=ServiceSettings(check_model=True)) as strict:
        for name, status in (("other", 404), ("echo-model", 200), ("echo-model:latest", 200)):
            body = {"model": name, "messages": HI, "options": {"num_predict": 1}}
            answer = httpx.post(f"{strict.url}/api/chat", json=body, trust_env=False)
            assert answer.status_code == status


@pytest.fixture(scope="module")
def scripted() -> Iterator[Running]:
    with serving(ScriptedEngine(demo_tokenizer())) as found:
        yield found


def test_calls_have_arguments_as_objects(scripted: Running) -> None:
    scripted.engine.script = '[{"name":"weather","arguments":{"city":"Rome"}}]'
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    body = {"model": "m", "messages": HI, "tools": [tool]}
    url = f"{scripted.url}/api/chat"
    called = [{"function": {"name": "weather", "arguments": {"city": "Rome"}}}]
    whole = httpx.post(url, json=body | {"stream": False}, trust_env=False).json()
    assert whole["message"]["tool_calls"] == called
    assert lines(httpx.post(url, json=body, trust_env=False))[0]["message"]["tool_calls"] == called
    turns = [*HI, whole["message"], {"role": "tool", "tool_name": "weather", "content": "sunny"}]
    scripted.engine.script = "It is sunny."
    answer = httpx.post(url, json=body | {"messages": turns, "stream": False}, trust_env=False)
    assert answer.json()["message"]["content"] == "It is sunny."


@pytest.mark.parametrize("arguments", ['{"a":1e999}', '{"a":' + "[" * 90_000])
def test_arguments_that_cannot_be_sent_as_an_object_are_none(
    scripted: Running, arguments: str
) -> None:
    scripted.engine.script = f'[{{"name":"weather","arguments":{arguments}}}]'
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    body = {"model": "m", "messages": HI, "tools": [tool], "stream": False}
    answer = httpx.post(f"{scripted.url}/api/chat", json=body, trust_env=False)
    assert answer.status_code == 200
    for call in answer.json()["message"].get("tool_calls", []):
        assert call["function"] == {"name": "weather", "arguments": {}}


def test_content_in_parts_is_one_text(client: httpx.Client, running: Running) -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    body = {"model": "m", "messages": [{"role": "user", "content": parts}], "stream": False}
    assert client.post("/api/chat", json=body).status_code == 200
    assert "one two" in demo_tokenizer().decode(list(running.engine.seen[-1].prompt))
