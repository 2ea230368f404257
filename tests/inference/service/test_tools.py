"""Tools: described in the prompt, bounded by a grammar, read from the answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from llama_hub.hub.catalog import load
from llama_hub.inference.chat_format import Message, encode_chat
from llama_hub.inference.config import EngineOptions
from llama_hub.inference.engine import OR_TEXT
from llama_hub.inference.service import served_model
from llama_hub.inference.service.tool_calls import CallReader, CallStream, read_calls
from llama_hub.inference.service.tool_schemas import Function
from llama_hub.inference.service.tools import INSTRUCTION, Toolbox, grammar
from llama_hub.inference.tokenizer import Tokenizer
from llama_hub.inference.torch_engine import TorchEngine
from tests.support.demo_model import demo_folder
from tests.support.scripted_engine import ScriptedEngine
from tests.support.serving import Running, demo_tokenizer, serving

CITY = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"]}
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "Weather.", "parameters": CITY},
    },
    {"type": "function", "function": {"name": "now"}},
]
USER: list[Any] = [{"role": "user", "content": "Rome?"}]
TWO = '[{"name":"weather","arguments":{"city":"Rome"}},{"name":"now","arguments":{}}]'


@pytest.fixture(scope="module")
def scripted() -> Iterator[Running]:
    with serving(ScriptedEngine(demo_tokenizer())) as found:
        yield found


@pytest.fixture
def client(scripted: Running) -> Iterator[OpenAI]:
    scripted.engine.script = TWO
    with OpenAI(base_url=f"{scripted.url}/v1", api_key="x", max_retries=0) as found:
        yield found


def ask(client: OpenAI, **fields: Any) -> Any:
    given = {"model": "m", "messages": USER, "tools": TOOLS} | fields
    return client.chat.completions.create(**given)


def test_calls_come_as_calls_whole_and_streamed(client: OpenAI) -> None:
    choice = ask(client).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    called = [
        (c.function.name, json.loads(c.function.arguments)) for c in choice.message.tool_calls
    ]
    assert called == [("weather", {"city": "Rome"}), ("now", {})]
    assert len({call.id for call in choice.message.tool_calls}) == 2

    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    chunks = list(ask(client, stream=True))
    for chunk in chunks:
        for delta in chunk.choices[0].delta.tool_calls or ():
            if delta.id:
                names[delta.index] = delta.function.name
            arguments[delta.index] = arguments.get(delta.index, "") + delta.function.arguments
        assert not chunk.choices[0].delta.content
    assert names == {0: "weather", 1: "now"}
    assert [json.loads(arguments[index]) for index in (0, 1)] == [{"city": "Rome"}, {}]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    deltas = [c.choices[0].delta.tool_calls for c in chunks if c.choices[0].delta.tool_calls]
    assert len(deltas) > 4, "the arguments come as they are written"


@pytest.mark.parametrize("text", ["It is sunny.", "[1, 2] are numbers", '[{"name":"other"}]', "["])
def test_what_is_no_call_is_text(client: OpenAI, scripted: Running, text: str) -> None:
    scripted.engine.script = text
    choice = ask(client).choices[0]
    assert (choice.message.content, choice.finish_reason) == (text, "stop")
    assert choice.message.tool_calls is None
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in ask(client, stream=True))
    assert streamed == text


def test_a_call_that_is_cut_off_says_so(client: OpenAI) -> None:
    choice = ask(client, max_tokens=24).choices[0]
    assert choice.finish_reason == "length"
    assert choice.message.tool_calls[0].function.name == "weather"


def test_what_the_model_is_told(client: OpenAI, scripted: Running) -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        *USER,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city":"Rome"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "c2", "content": "noon"},
        {"role": "user", "content": "and?"},
    ]
    ask(client, messages=messages, tools=TOOLS[:1])
    described = json.dumps({"name": "weather", "description": "Weather.", "parameters": CITY})
    assert list(scripted.engine.seen[-1].prompt) == encode_chat(
        demo_tokenizer(),
        [
            Message("system", f"be brief\n\n{INSTRUCTION}\n{described}"),
            Message("user", "Rome?"),
            Message("assistant", '[{"name":"weather","arguments":{"city":"Rome"}}]'),
            Message("user", "Result of weather: sunny\nResult of the call: noon\n\nand?"),
        ],
    )


def test_choices_bound_the_answer(client: OpenAI, scripted: Running) -> None:
    def bound(**fields: Any) -> Any:
        ask(client, **fields)
        text = scripted.engine.seen[-1].sampling.grammar
        return None if text is None else json.loads(text)

    assert bound(tool_choice="none") is None
    assert bound()[OR_TEXT] is True
    assert OR_TEXT not in bound(tool_choice="required")
    assert bound(tool_choice="required", parallel_tool_calls=False)["maxItems"] == 1
    named = bound(tool_choice={"type": "function", "function": {"name": "now"}})
    assert [c["properties"]["name"]["const"] for c in named["items"]["anyOf"]] == ["now"]
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer"}}}
    either = bound(response_format=wanted)
    assert either["$defs"]["answer"] == {"type": "integer"}
    assert len(either["anyOf"]) == 2


def test_a_named_call_ends_as_a_text_does(client: OpenAI, scripted: Running) -> None:
    scripted.engine.script = '[{"name":"now","arguments":{}}]'
    named = {"type": "function", "function": {"name": "now"}}
    choice = ask(client, tool_choice=named).choices[0]
    assert choice.finish_reason == "stop"
    assert choice.message.tool_calls[0].function.name == "now"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools"),
        ({"tools": [{"type": "retrieval"}]}, "tools.0.type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "a" * 65}}]},
            "tools.0.function.name",
        ),
        ({"tools": [TOOLS[1]] * 129}, "tools"),
        (
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "a", "parameters": {"multipleOf": 12347}},
                    }
                ]
            },
            "tools",
        ),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages.0"),
        ({"messages": [{"role": "user", "tool_calls": [{"function": {}}]}]}, None),
        ({"functions": [{"name": "a"}]}, "functions"),
    ],
)
def test_wrong_tools_are_named(scripted: Running, fields: dict[str, Any], param: str) -> None:
    body = {"messages": USER, "tools": TOOLS} | fields
    answer = httpx.post(f"{scripted.url}/v1/chat/completions", json=body, trust_env=False)
    assert answer.status_code == 400
    found = answer.json()["error"]["param"] or ""
    assert found.startswith(param or "messages.0"), answer.text


def test_references_of_a_tool_stay_its_own() -> None:
    schema = {"$defs": {"P": {"type": "string"}}, "properties": {"p": {"$ref": "#/$defs/P"}}}
    box = Toolbox((Function(name="a", parameters=schema),), "required")
    moved = json.loads(grammar(box))["$defs"]["tool0"]
    assert moved["properties"]["p"]["$ref"] == "#/$defs/tool0/$defs/P"


def test_a_call_has_no_arguments_but_those_that_are_named() -> None:
    def closed(schema: dict[str, Any]) -> Any:
        box = Toolbox((Function(name="a", parameters=schema),), "required")
        return json.loads(grammar(box))["$defs"]["tool0"].get("additionalProperties")

    assert closed({"properties": {"a": {"type": "integer"}}}) is False
    assert closed({"properties": {"a": {}}, "additionalProperties": True}) is True
    assert closed({"properties": {"a": {}}, "allOf": [{"properties": {"b": {}}}]}) is None
    assert closed({"type": "object"}) is None


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_calls_are_read_however_they_are_cut(size: int) -> None:
    text = (
        ' [ {"name" : "a", "arguments": {"x": "]}\\"\\\\", "name": [1, {"y": 2}]}},\n'
        '{"arguments":{"k":1},"name":"b"}, {"name":"a","arguments":{}}]'
    )
    stream = CallStream({"a", "b"})
    found: dict[int, list[str]] = {}
    for start in range(0, len(text), size):
        said, deltas = stream.push(text[start : start + size], last=start + size >= len(text))
        assert not said.strip()
        for delta in deltas:
            call = found.setdefault(delta.index, ["", ""])
            call[0] = delta.name or call[0]
            call[1] += delta.arguments
    assert [name for name, _ in found.values()] == ["a", "b", "a"]
    expected = [{"x": ']}"\\', "name": [1, {"y": 2}]}, {"k": 1}, {}]
    assert [json.loads(arguments) for _, arguments in found.values()] == expected


@pytest.mark.parametrize("text", ["]]]]{{", '[{"name":', '[{"name":"a","arguments":', '["', "[{}]"])
def test_broken_lists_are_read_to_their_end(text: str) -> None:
    CallReader().push(text)
    read_calls(text, {"a"})


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    stored = demo_folder(tmp_path_factory.mktemp("home"))
    what = served_model.mounted(Path(stored.path), load())
    options = EngineOptions(device="cpu", dtype="float32", max_batch=4, context=512, threads=1)
    with serving(
        TorchEngine(stored.path, options),
        served=what.served,
        tokenizer=Tokenizer(stored.path / "tokenizer.model"),
    ) as found:
        yield found


def test_the_real_engine_keeps_to_the_grammar(demo: Running) -> None:
    with OpenAI(base_url=f"{demo.url}/v1", api_key="x", max_retries=0) as client:
        named = {"type": "function", "function": {"name": "weather"}}
        for choice in (named, "required"):
            said = ask(client, tool_choice=choice, parallel_tool_calls=False, seed=1).choices[0]
            (call,) = said.message.tool_calls
            arguments = json.loads(call.function.arguments)
            assert call.function.name in ("weather", "now")
            assert arguments == {} or arguments["city"] in ("Oslo", "Rome")
        free = ask(client, tool_choice="auto", max_tokens=24, seed=1).choices[0].message
        assert free.content or free.tool_calls
