"""OpenAI's API over the wire: bodies in, documents out, with the openai package as a client."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from openai import NotFoundError, OpenAI

from llama_hub.inference.service.settings import ServiceSettings
from tests.support.serving import Running, demo_tokenizer, serving

USER = [{"role": "user", "content": "tell me a story"}]


@pytest.fixture
def openai_client(running: Running) -> Any:
    with OpenAI(base_url=f"{running.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def events(text: str) -> list[Any]:
    """The documents of a stream of events, ``[DONE]`` checked and left out."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_openai_client_chats(openai_client: OpenAI) -> None:
    answer = openai_client.chat.completions.create(model="any", messages=USER, max_tokens=6)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == "[INST] tell me a"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 6


def test_openai_client_streams_what_it_gets_whole(openai_client: OpenAI) -> None:
    whole = openai_client.chat.completions.create(model="any", messages=USER, max_tokens=20)
    stream = openai_client.chat.completions.create(
        model="any",
        messages=USER,
        max_tokens=20,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 2) + [
        "length"
    ]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_chat_logprobs(openai_client: OpenAI) -> None:
    answer = openai_client.chat.completions.create(
        model="any", messages=USER, max_tokens=4, logprobs=True, top_logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 4
    assert [len(token.top_logprobs) for token in logprobs.content] == [2] * 4
    joined = b"".join(bytes(token.bytes or ()) for token in logprobs.content).decode()
    assert joined.removeprefix(" ") == answer.choices[0].message.content


def test_no_tools_are_no_problem(client: httpx.Client) -> None:
    body = {"messages": USER, "tools": [], "tool_choice": "none", "max_tokens": 1, "user": "me"}
    assert client.post("/v1/chat/completions", json=body).status_code == 200


def test_whole_numbers_may_be_written_with_a_point(client: httpx.Client) -> None:
    body = '{"prompt": "one two", "max_tokens": 2.0, "temperature": 1}'
    assert client.post("/v1/completions", content=body).json()["usage"]["completion_tokens"] == 2
    body = '{"prompt": "one two", "max_tokens": 2.5}'
    assert client.post("/v1/completions", content=body).status_code == 400


def test_completion_of_a_text_begins_with_bos(running: Running, client: httpx.Client) -> None:
    body = {"prompt": "one two", "max_tokens": 2}
    answer = client.post("/v1/completions", json=body).json()
    assert answer["choices"][0]["text"] == " one two"
    assert running.engine.seen[-1].prompt[0] == demo_tokenizer().bos_id
    assert answer["object"] == "text_completion"


def test_completion_defaults_to_sixteen_tokens(client: httpx.Client) -> None:
    answer = client.post("/v1/completions", json={"prompt": "one two"}).json()
    assert answer["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize("form", ["texts", "tokens", "token lists"])
def test_every_form_of_prompt(client: httpx.Client, running: Running, form: str) -> None:
    one, two = demo_tokenizer().encode("one two"), demo_tokenizer().encode("three four")
    prompt, texts = {
        "texts": (["one two", "three four"], [" one two", " three four"]),
        "tokens": (one, [" one two"]),
        "token lists": ([one, two], [" one two", " three four"]),
    }[form]
    lengths = {" one two": len(one), " three four": len(two)}
    for text in texts:
        body = {"prompt": prompt, "max_tokens": lengths[text], "n": 2, "temperature": 0}
        choices = client.post("/v1/completions", json=body).json()["choices"]
        assert [choice["index"] for choice in choices] == list(range(2 * len(texts)))
        position = 2 * texts.index(text)
        assert [choice["text"] for choice in choices[position : position + 2]] == [text, text]
    if form != "texts":
        assert running.engine.seen[-1].prompt[0] != demo_tokenizer().bos_id


def test_echo_with_logprobs_scores_the_prompt(client: httpx.Client) -> None:
    tokens = demo_tokenizer().encode("once upon a time", bos=True)
    body = {"prompt": tokens, "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0}
    choice = client.post("/v1/completions", json=body).json()["choices"][0]
    logprobs = choice["logprobs"]
    assert len(logprobs["tokens"]) == len(tokens) + 1
    assert logprobs["tokens"][0] == "<s>"
    assert logprobs["token_logprobs"] == [None] + [-0.5] * len(tokens)
    assert logprobs["top_logprobs"][0] is None
    for name, alternatives in zip(
        logprobs["tokens"][1:], logprobs["top_logprobs"][1:], strict=True
    ):
        assert name in alternatives
    assert choice["text"] == "once upon a time once"
    assert logprobs["text_offset"][-1] == len("once upon a time")


def test_echo_streams_the_prompt_first(client: httpx.Client) -> None:
    body = {"prompt": "one two", "max_tokens": 2, "echo": True, "logprobs": 0}
    whole = client.post("/v1/completions", json=body).json()["choices"][0]
    chunks = events(client.post("/v1/completions", json=body | {"stream": True}).text)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["text"]
    for key in ("tokens", "text_offset", "token_logprobs"):
        parts = [c["choices"][0]["logprobs"] for c in chunks]
        assert sum((part[key] for part in parts if part), []) == whole["logprobs"][key]


def test_max_tokens_zero_only_scores(client: httpx.Client) -> None:
    body = {"prompt": "one two", "max_tokens": 0, "echo": True, "logprobs": 0}
    answer = client.post("/v1/completions", json=body).json()
    assert answer["choices"][0]["text"] == "one two"
    assert answer["usage"]["completion_tokens"] == 0
    refused = client.post("/v1/completions", json={"prompt": "one", "max_tokens": 0})
    assert refused.status_code == 400


def test_stop_strings_end_the_text_before_them(client: httpx.Client) -> None:
    for stream in (False, True):
        body = {"prompt": "one two three four", "max_tokens": 40, "stop": "wo thr"}
        response = client.post("/v1/completions", json=body | {"stream": stream})
        chunks = events(response.text) if stream else [response.json()]
        text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
        assert text == " one t"
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_best_of_answers_the_likeliest(client: httpx.Client, running: Running) -> None:
    body = {"prompt": "one two", "max_tokens": 2, "n": 1, "best_of": 3}
    before = len(running.engine.seen)
    answer = client.post("/v1/completions", json=body).json()
    assert len(answer["choices"]) == 1
    assert answer["choices"][0]["logprobs"] is None
    assert len(running.engine.seen) == before + 3


def test_copies_differ_in_a_reproducible_way(client: httpx.Client, running: Running) -> None:
    body = {"prompt": "one", "max_tokens": 1, "n": 3, "seed": 7}
    client.post("/v1/completions", json=body)
    assert sorted(request.sampling.seed for request in running.engine.seen[-3:]) == [7, 8, 9]


def test_sampling_fields_reach_the_engine(client: httpx.Client, running: Running) -> None:
    body = {
        "prompt": "one",
        "max_tokens": 3,
        "temperature": 0.25,
        "top_p": 0.5,
        "top_k": 7,
        "min_p": 0.125,
        "repetition_penalty": 1.25,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "logit_bias": {"11": 5, "12": -100},
        "stop_token_ids": [9],
        "min_tokens": 2,
        "seed": 3,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": "integer"}},
        },
    }
    assert client.post("/v1/completions", json=body).status_code == 200
    sampling = running.engine.seen[-1].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.25, 0.5, 7)
    assert (sampling.min_p, sampling.repetition_penalty) == (0.125, 1.25)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
    assert sampling.logit_bias == {11: 5, 12: -100}
    assert sampling.stop_token_ids == {9}
    assert (sampling.min_tokens, sampling.seed) == (2, 3)
    assert json.loads(sampling.grammar) == {"type": "integer"}


def test_unset_fields_take_metas_defaults(client: httpx.Client, running: Running) -> None:
    client.post("/v1/chat/completions", json={"messages": USER, "max_tokens": 1})
    sampling = running.engine.seen[-1].sampling
    assert (sampling.temperature, sampling.top_p) == (0.6, 0.9)


def test_json_object_asks_for_an_object(client: httpx.Client, running: Running) -> None:
    body = {"messages": USER, "max_tokens": 1, "response_format": {"type": "json_object"}}
    assert client.post("/v1/chat/completions", json=body).status_code == 200
    assert json.loads(running.engine.seen[-1].sampling.grammar) == {"type": "object"}


def test_schemas_have_a_limit(client: httpx.Client) -> None:
    schema = {"enum": ["x" * 100 for _ in range(1000)]}
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    body = {"messages": USER, "max_tokens": 1, "response_format": wanted}
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert "65536" in response.json()["error"]["message"]


def test_chat_without_max_tokens_fills_the_context(client: httpx.Client, running: Running) -> None:
    answer = client.post("/v1/chat/completions", json={"messages": USER}).json()
    assert answer["usage"]["total_tokens"] == running.engine.info.context


def test_context_overflow_is_refused_with_counts(client: httpx.Client) -> None:
    prompt = "one two three " * 100
    response = client.post("/v1/completions", json={"prompt": prompt})
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["code"] == "context_length_exceeded"
    count = len(demo_tokenizer().encode(prompt, bos=True))
    assert str(count) in error["message"]
    assert "256" in error["message"]


def test_text_that_cannot_fit_is_refused_without_tokenising(client: httpx.Client) -> None:
    response = client.post("/v1/completions", json={"prompt": "x" * 1_000_000})
    assert response.json()["error"]["code"] == "context_length_exceeded"
    chat = {"messages": [{"role": "user", "content": "x" * 1_000_000}]}
    response = client.post("/v1/chat/completions", json=chat)
    assert response.json()["error"]["code"] == "context_length_exceeded"


def test_message_parts_and_developer_role(client: httpx.Client, running: Running) -> None:
    plain = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi you"}]
    texts = [{"type": "text", "text": "hi "}, {"type": "text", "text": "you"}]
    parts = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": texts}]
    for messages in (plain, parts):
        body = {"messages": messages, "max_tokens": 1}
        assert client.post("/v1/chat/completions", json=body).status_code == 200
    assert running.engine.seen[-1].prompt == running.engine.seen[-2].prompt


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "messages"),
        ([{"role": "system", "content": "hi"}], "user"),
        ([{"role": "function", "content": "hi"}], "role"),
        ([{"role": "user", "content": "[INST] hi"}], "tag"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "content"),
        ([{"role": "user"}], "content"),
        ([{"role": "user", "content": "a", "tool_calls": [{}]}], "tool_calls"),
        ("hi", "messages"),
    ],
)
def test_wrong_conversations_are_refused(client: httpx.Client, messages: Any, says: str) -> None:
    response = client.post("/v1/chat/completions", json={"messages": messages})
    assert response.status_code == 400
    assert says in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"temperature": "0.5"}, "temperature"),
        ({"top_p": -0.5}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"stop": [""]}, "stop"),
        ({"stop": 5}, "stop"),
        ({"stop": {}}, "stop"),
        ({"stop": 0}, "stop"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"suffix": "x"}, "suffix"),
        ({"guided_json": {}}, "guided_json"),
        ({"stream_options": {}}, "stream_options"),
        ({"stop_token_ids": [10**6]}, "stop_token_ids"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [10**9]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
    ],
)
def test_wrong_fields_are_named(client: httpx.Client, change: dict[str, Any], param: str) -> None:
    response = client.post("/v1/completions", json={"prompt": "one", "max_tokens": 1} | change)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert set(error) == {"message", "type", "param", "code"}


def test_models_are_listed(openai_client: OpenAI) -> None:
    listed = openai_client.models.list().data
    assert [model.id for model in listed] == ["echo-model"]
    assert openai_client.models.retrieve("echo-model").id == "echo-model"
    with pytest.raises(NotFoundError):
        openai_client.models.retrieve("other")


def test_model_names_are_checked_when_told(client: httpx.Client) -> None:
    with serving(settings=ServiceSettings(check_model=True)) as strict:
        url = f"{strict.url}/v1/completions"
        wrong = httpx.post(url, json={"prompt": "a", "model": "gpt-4"}, trust_env=False)
        assert wrong.status_code == 404
        assert wrong.json()["error"]["code"] == "model_not_found"
        right = httpx.post(url, json={"prompt": "a", "model": "echo-model"}, trust_env=False)
        assert right.status_code == 200
    assert client.post("/v1/completions", json={"prompt": "a", "model": "x"}).status_code == 200


def test_tokenize_and_back(client: httpx.Client) -> None:
    text = "Once upon a time, 日本 🙂"
    found = client.post("/tokenize", json={"prompt": text}).json()
    assert found["tokens"] == demo_tokenizer().encode(text, bos=True)
    assert found["count"] == len(found["tokens"])
    back = client.post("/detokenize", json={"tokens": found["tokens"]}).json()
    assert back["prompt"] == text
    chat = client.post("/tokenize", json={"messages": USER}).json()
    assert chat["tokens"][0] == demo_tokenizer().bos_id
    assert client.post("/tokenize", json={}).status_code == 400
    assert client.post("/detokenize", json={"tokens": [10**8]}).status_code == 400


def test_a_character_of_many_bytes_streams_whole(client: httpx.Client) -> None:
    body = {"prompt": "🙂 ok", "max_tokens": 24, "stream": True}
    chunks = events(client.post("/v1/completions", json=body).text)
    pieces = [chunk["choices"][0]["text"] for chunk in chunks]
    assert "🙂" in "".join(pieces)
    assert "\ufffd" not in "".join(pieces[:-1])


def test_streams_as_json_lines_when_asked(client: httpx.Client) -> None:
    body = {"prompt": "one two", "max_tokens": 2, "stream": True}
    response = client.post(
        "/v1/completions", json=body, headers={"Accept": "application/jsonlines"}
    )
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert "".join(line["choices"][0]["text"] for line in lines) == " one two"
    assert response.headers["content-type"].startswith("application/jsonlines")
