"""A fine-tune behind the service: its own template, raw prompts, and a base model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from llama_hub.inference.service.settings import ServiceSettings
from llama_hub.inference.tokenizer import tokenizer_of
from tests.support.derivatives import DERIVATIVES, build
from tests.support.echo_engine import EchoEngine
from tests.support.lazy import transformers
from tests.support.serving import SERVED, Running, serving

MESSAGES = [{"role": "user", "content": "hi <|im_end|></s>"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("chatml") / "m", DERIVATIVES["chatml"])


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Running]:
    with serving(EchoEngine(vocab_size=1282), tokenizer=tokenizer_of(folder)) as made:
        yield made


def post(running: Running, path: str, **body: Any) -> Any:
    return httpx.post(f"{running.url}{path}", json=body, trust_env=False)


def test_chat_and_tokenize_use_the_model_s_own_template(running: Running, folder: Path) -> None:
    judge = transformers.AutoTokenizer.from_pretrained(folder)
    expected = judge.apply_chat_template(
        MESSAGES, add_generation_prompt=True, sanitize_control_tokens=True, return_dict=False
    )
    special = [token for token in expected if token >= 1280]
    tokens = post(running, "/tokenize", messages=MESSAGES).json()["tokens"]
    assert [token for token in tokens if token >= 1280] == special
    assert judge.decode(tokens) == judge.decode(expected)
    answer = post(running, "/v1/chat/completions", messages=MESSAGES, max_tokens=2)
    assert answer.status_code == 200
    assert list(running.engine.seen[-1].prompt) == tokens


def test_raw_prompts_parse_special_tokens_unless_told_otherwise(
    running: Running, folder: Path
) -> None:
    judge = transformers.AutoTokenizer.from_pretrained(folder)
    text = "<|im_start|>user\nhi</s>"
    tokens = post(running, "/tokenize", prompt=text).json()["tokens"]
    assert tokens == judge.encode(text)
    literal = post(running, "/tokenize", prompt=text, parse_special=False).json()["tokens"]
    assert not {2, 1280, 1281} & set(literal)
    for path, body in (("/v1/completions", {"prompt": text}), ("/generate", {"inputs": text})):
        assert post(running, path, **body).status_code == 200
        assert list(running.engine.seen[-1].prompt) == tokens
    post(running, "/v1/completions", prompt=text, parse_special=False)
    assert list(running.engine.seen[-1].prompt) == literal


def test_a_server_can_be_told_not_to_parse_them(folder: Path) -> None:
    settings = ServiceSettings(parse_special=False)
    engine = EchoEngine(vocab_size=1282)
    with serving(engine, settings, tokenizer=tokenizer_of(folder)) as made:
        assert 2 not in post(made, "/tokenize", prompt="a</s>").json()["tokens"]
        assert 2 in post(made, "/tokenize", prompt="a</s>", parse_special=True).json()["tokens"]


def test_a_base_model_is_not_chatted_with(folder: Path) -> None:
    served = replace(SERVED, chat=False)
    engine = EchoEngine(vocab_size=1282)
    with serving(engine, served=served, tokenizer=tokenizer_of(folder)) as made:
        answer = post(made, "/v1/chat/completions", messages=MESSAGES)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["code"] == "base_model"
        assert "base model" in error["message"]
        assert "/v1/completions" in error["message"]
        assert post(made, "/tokenize", messages=MESSAGES).status_code == 400
        assert post(made, "/v1/completions", prompt="a", max_tokens=2).status_code == 200
        bad = post(made, "/invocations", messages=MESSAGES)
        assert bad.status_code == 400


def test_a_padding_row_given_as_an_id_breaks_no_stream(tmp_path: Path) -> None:
    folder = build(tmp_path / "m", DERIVATIVES["nous-hermes-padded"])
    with serving(EchoEngine(vocab_size=1344), tokenizer=tokenizer_of(folder)) as made:
        ids = [1, 1300, 940, 1343, 749]
        body = {"prompt": ids, "max_tokens": 8, "stream": True, "logprobs": 2, "echo": True}
        answer = post(made, "/v1/completions", **body)
        assert answer.status_code == 200
        assert "error" not in answer.text
        assert answer.text.rstrip().endswith("data: [DONE]")
        assert post(made, "/detokenize", tokens=ids).json()["prompt"] == "Hello wor"
