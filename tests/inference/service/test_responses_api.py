"""OpenAI's Responses API, with the openai package as a client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.support.scripted_engine import ScriptedEngine
from tests.support.serving import Running, demo_tokenizer, serving

TOOLS: list[Any] = [{"type": "function", "name": "weather", "parameters": {"type": "object"}}]
CALLS = '[{"name":"weather","arguments":{"city":"Rome"}},{"name":"weather","arguments":{}}]'


@pytest.fixture(scope="module")
def scripted() -> Iterator[Running]:
    with serving(ScriptedEngine(demo_tokenizer())) as found:
        yield found


@pytest.fixture
def openai(scripted: Running) -> Iterator[OpenAI]:
    scripted.engine.script = "It is sunny."
    with OpenAI(base_url=f"{scripted.url}/v1", api_key="x", max_retries=0) as found:
        yield found


def test_a_text_is_answered(openai: OpenAI) -> None:
    answer = openai.responses.create(model="m", input="Rome?", instructions="be brief")
    assert (answer.status, answer.output_text) == ("completed", "It is sunny.")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens


def test_an_answer_that_is_cut_off_says_so(openai: OpenAI) -> None:
    answer = openai.responses.create(model="m", input="Rome?", max_output_tokens=2)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"


def test_a_stream_ends_with_what_is_answered_whole(openai: OpenAI) -> None:
    with openai.responses.stream(model="m", input="Rome?") as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-1] == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == (
        "It is sunny."
    )
    assert final.output_text == "It is sunny."


def test_calls_are_items_whole_and_streamed(openai: OpenAI, scripted: Running) -> None:
    scripted.engine.script = CALLS
    whole = openai.responses.create(model="m", input="Rome?", tools=TOOLS)
    with openai.responses.stream(model="m", input="Rome?", tools=TOOLS) as stream:
        streamed = stream.get_final_response()
    for answer in (whole, streamed):
        called: list[Any] = list(answer.output)
        assert [item.type for item in called] == ["function_call"] * 2
        assert [json.loads(item.arguments) for item in called] == [{"city": "Rome"}, {}]
        assert len({item.call_id for item in called}) == 2


def test_calls_and_results_come_back_as_input(openai: OpenAI, scripted: Running) -> None:
    items: list[Any] = [
        {"role": "user", "content": [{"type": "input_text", "text": "Rome?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
    ]
    assert openai.responses.create(model="m", input=items).output_text == "It is sunny."
    said = demo_tokenizer().decode(list(scripted.engine.seen[-1].prompt))
    assert '[{"name":"weather","arguments":{}}]' in said
    assert "Result of weather: sunny" in said


def test_a_result_in_parts_is_one_text(openai: OpenAI, scripted: Running) -> None:
    parts = [{"type": "input_text", "text": "sun"}, {"type": "input_text", "text": "ny"}]
    items: list[Any] = [
        {"role": "user", "content": "Rome?"},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": parts},
    ]
    assert openai.responses.create(model="m", input=items).output_text == "It is sunny."
    said = demo_tokenizer().decode(list(scripted.engine.seen[-1].prompt))
    assert "Result of weather: sunny" in said


def test_formats_reach_the_engine(openai: OpenAI, scripted: Running) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form: Any = {"format": {"type": "json_schema", "name": "x", "schema": schema}}
    openai.responses.create(model="m", input="a", text=form)
    assert json.loads(scripted.engine.seen[-1].sampling.grammar) == schema


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"role": "user"}]}, "input.0"),
        ({"input": [{"type": "function_call", "name": "a"}]}, "input.0"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type"),
        ({"input": "a", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "a", "truncation": "auto"}, "truncation"),
        ({"input": "a", "background": True}, "background"),
        ({"input": "a", "reasoning": {"effort": "high"}}, "reasoning"),
        ({"input": "a", "tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"input": "a", "tool_choice": {"type": "function", "name": "x"}}, "tool_choice"),
        ({"input": "a " * 3000}, "prompt"),
    ],
)
def test_what_cannot_be_had_is_named(scripted: Running, body: dict[str, Any], param: str) -> None:
    for stream in (False, True):
        answer = httpx.post(
            f"{scripted.url}/v1/responses", json=body | {"stream": stream}, trust_env=False
        )
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"] == param


def test_what_asks_for_nothing_is_taken(scripted: Running) -> None:
    body = {"input": "a", "truncation": "disabled", "store": True, "reasoning": {}, "include": []}
    answer = httpx.post(f"{scripted.url}/v1/responses", json=body, trust_env=False)
    assert answer.status_code == 200
    assert answer.json()["store"] is False
