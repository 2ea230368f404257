"""What is harmless in a body is taken, what would change the answer and cannot be had is named."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from llama_hub.inference.chat_format import Message, encode_chat
from llama_hub.inference.service import tolerance
from llama_hub.inference.service.base_schemas import read
from llama_hub.inference.service.schemas import ChatBody
from llama_hub.inference.service.settings import ServiceSettings
from tests.support.serving import Running, demo_tokenizer, serving

USER = [{"role": "user", "content": "tell me"}]
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def strict() -> Iterator[Running]:
    with serving(settings=ServiceSettings(strict=True)) as found:
        yield found


def chat(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post(CHAT, json={"messages": USER, "max_tokens": 2} | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"stream_options": {"continuous_usage_stats": True, "new": 1}, "stream": True},
        {"messages": [{**USER[0], "type": "message", "id": "1", "reasoning_content": None}]},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}
                    ],
                }
            ]
        },
        {"skip_special_tokens": True, "chat_template_kwargs": {"enable_thinking": False}},
        {"top_p": 0},
        {"typical_p": 1.0, "num_beams": 1, "mirostat": 0, "length_penalty": 1},
        {"best_of": 1, "echo": False, "documents": [], "guided_json": None, "verbosity": "medium"},
        {"a_field_of_next_year": {"deep": [1, {"deeper": 2}]}},
    ],
)
def test_what_changes_no_answer_is_taken(client: httpx.Client, fields: dict[str, Any]) -> None:
    answer = chat(client, **fields)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"typical_p": 0.5}, "typical_p"),
        ({"num_beams": 4}, "num_beams"),
        ({"best_of": 2}, "best_of"),
        ({"guided_regex": "a+"}, "guided_regex"),
        ({"echo": True}, "echo"),
        ({"skip_special_tokens": False}, "skip_special_tokens"),
        ({"chat_template": "{{ messages }}"}, "chat_template"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"num_beams": True}, "num_beams"),
    ],
)
def test_a_wish_that_cannot_be_met_is_named(
    client: httpx.Client, fields: dict[str, Any], param: str
) -> None:
    answer = chat(client, **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert answer.json()["error"]["code"] == "unsupported_parameter"


def test_an_unknown_field_is_logged_once_by_its_path_not_by_its_value(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tolerance, "_logged", set())
    document = {"messages": [{**USER[0], "vendor": "secret"}, {**USER[0], "vendor": "secret"}]}
    with caplog.at_level(logging.INFO, logger=tolerance.__name__):
        read(ChatBody, document)
        read(ChatBody, document)
    assert len(caplog.records) == 1
    assert "messages[].vendor" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("part", "param", "says"),
    [
        (
            {"type": "image_url", "image_url": {"url": "x"}},
            "messages.0.content.0.type",
            "image_url",
        ),
        ({"type": "input_audio"}, "messages.0.content.0.type", "text only"),
        ({"type": "text"}, "messages.0.content.0.text", "missing"),
        ({"type": "text", "text": 5}, "messages.0.content.0.text", "string"),
    ],
)
def test_an_error_in_a_part_names_the_part(
    client: httpx.Client, part: dict[str, Any], param: str, says: str
) -> None:
    error = chat(client, messages=[{"role": "user", "content": [part]}]).json()["error"]
    assert error["param"] == param
    assert says in error["message"]


def test_max_tokens_gives_way_and_usage_says_so(client: httpx.Client, strict: Running) -> None:
    usage = chat(client, max_tokens=10_000).json()["usage"]
    assert usage["total_tokens"] == 256
    assert usage["max_tokens"] == usage["completion_tokens"]
    rest = chat(client, max_tokens=-1).json()["usage"]
    assert rest["total_tokens"] == 256
    assert "max_tokens" not in rest
    late = client.post("/v1/completions", json={"prompt": "one", "max_tokens": 300})
    assert late.json()["usage"]["total_tokens"] == 256
    refused = httpx.post(
        f"{strict.url}/v1/completions", json={"prompt": "one", "max_tokens": 300}, trust_env=False
    )
    assert refused.status_code == 400
    assert "300" in refused.json()["error"]["message"]


SYSTEM = {"role": "system", "content": "be brief"}
GREETING = {"role": "assistant", "content": "hello"}


@pytest.mark.parametrize(
    ("messages", "usual"),
    [
        (
            [*USER, {"role": "user", "content": "more"}],
            [Message("user", "tell me\n\nmore")],
        ),
        (
            [SYSTEM, SYSTEM, *USER],
            [Message("system", "be brief\n\nbe brief"), Message("user", "tell me")],
        ),
        (
            [*USER, GREETING, SYSTEM, *USER],
            [
                Message("system", "be brief"),
                Message("user", "tell me"),
                Message("assistant", "hello"),
                Message("user", "tell me"),
            ],
        ),
        (
            [GREETING, *USER],
            [Message("user", ""), Message("assistant", "hello"), Message("user", "tell me")],
        ),
    ],
)
def test_orders_that_the_format_does_not_know_become_the_usual_one(
    client: httpx.Client,
    running: Running,
    strict: Running,
    messages: list[dict[str, str]],
    usual: list[Message],
) -> None:
    assert chat(client, messages=messages).status_code == 200
    assert list(running.engine.seen[-1].prompt) == encode_chat(demo_tokenizer(), usual)
    refused = httpx.post(strict.url + CHAT, json={"messages": messages}, trust_env=False)
    assert refused.status_code == 400


def test_a_last_message_from_the_assistant_is_continued(
    client: httpx.Client, running: Running
) -> None:
    begun = [*USER, {"role": "assistant", "content": "Once upon "}]
    for fields in ({}, {"continue_final_message": True, "add_generation_prompt": False}):
        assert chat(client, messages=begun, **fields).status_code == 200
        prompt = list(running.engine.seen[-1].prompt)
        assert prompt == demo_tokenizer().encode("[INST] tell me [/INST] Once upon", bos=True)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"continue_final_message": True}, "continue_final_message"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        (
            {
                "messages": [*USER, GREETING],
                "continue_final_message": True,
                "add_generation_prompt": True,
            },
            "add_generation_prompt",
        ),
    ],
)
def test_wishes_about_the_last_message_that_contradict_it(
    client: httpx.Client, fields: dict[str, Any], param: str
) -> None:
    answer = chat(client, **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_compressed_body_is_415(client: httpx.Client) -> None:
    answer = client.post(CHAT, content=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 415
    assert "gzip" in answer.json()["error"]["message"]
