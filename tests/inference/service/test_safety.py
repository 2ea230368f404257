"""Limits: keys, origins, bodies, queue, time, moderation, what the log holds."""

from __future__ import annotations

import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from llama_hub.inference.service import moderation
from llama_hub.inference.service.api_key import new_key
from llama_hub.inference.service.auth import is_loopback
from llama_hub.inference.service.moderation import Passage
from llama_hub.inference.service.settings import ServiceSettings
from tests.support.serving import Running, echo_engine, serving

LINE = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
ONE = {"prompt": "one two", "max_tokens": 2}


def post(url: str, body: Any = None, path: str = "/v1/completions", **more: Any) -> httpx.Response:
    return httpx.post(url + path, json=body or ONE, trust_env=False, timeout=30, **more)


# --- keys and origins -------------------------------------------------------------------------


def test_the_key_guards_all_but_health_and_page() -> None:
    with serving(settings=ServiceSettings(api_key="s3cret")) as running:
        for path in ("/", "/docs", "/health", "/health/live", "/health/ready", "/ping",
                     "/openapi.json", "/page.json", "/page/page.js"):  # fmt: skip
            assert httpx.get(running.url + path, trust_env=False).status_code == 200, path
        for path in ("/v1/models", "/metrics", "/manifest", "/v1/models/echo-model"):
            assert httpx.get(running.url + path, trust_env=False).status_code == 401, path
        for path in ("/v1/completions", "/v1/chat/completions", "/", "/generate", "/invocations",
                     "/score", "/tokenize", "/detokenize", "/generate_stream"):  # fmt: skip
            refused = post(running.url, path=path)
            assert refused.status_code == 401, path
            assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert running.engine.seen == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer s3cret"},
        {"authorization": "bearer s3cret"},
        {"X-API-Key": "s3cret"},
        {"api-key": "s3cret"},
    ],
)
def test_ways_to_send_the_key(headers: dict[str, str]) -> None:
    with serving(settings=ServiceSettings(api_key="s3cret")) as running:
        assert post(running.url, headers=headers).status_code == 200
        wrong = {name: value + "x" for name, value in headers.items()}
        assert post(running.url, headers=wrong).status_code == 401


def test_keys_are_new_and_long() -> None:
    assert new_key() != new_key()
    assert len(new_key()) > 40


def test_settings_do_not_show_the_key() -> None:
    assert "s3cret" not in repr(ServiceSettings(api_key="s3cret"))


def test_foreign_pages_may_not_call(running: Running) -> None:
    refused = post(running.url, headers={"Origin": "https://evil.example"})
    assert refused.status_code == 403
    assert "Access-Control-Allow-Origin" not in refused.headers
    # A name that was made to point at this machine: Host and Origin agree, and are foreign.
    rebound = {"Origin": "http://evil.example", "Host": "evil.example"}
    assert post(running.url, headers=rebound).status_code == 403
    assert post(running.url, headers={"Origin": "null"}).status_code == 403
    assert post(running.url, headers={"Origin": running.url}).status_code == 200


def test_cors_opens_to_whom_it_names() -> None:
    allowed = ServiceSettings(cors_origins=("https://app.example",), api_key="k")
    with serving(settings=allowed) as running:
        origin = {"Origin": "https://app.example"}
        preflight = httpx.options(
            f"{running.url}/v1/completions",
            headers={
                **origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,x-stainless-os,api-key",
            },
            trust_env=False,
        )
        assert preflight.status_code == 200
        assert preflight.headers["Access-Control-Allow-Origin"] == "https://app.example"
        assert "x-stainless-os" in preflight.headers["Access-Control-Allow-Headers"]
        assert "api-key" in preflight.headers["Access-Control-Allow-Headers"]
        answer = post(running.url, headers={**origin, "Authorization": "Bearer k"})
        assert answer.status_code == 200
        assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"
        other = {"Origin": "https://other.example", "Authorization": "Bearer k"}
        assert post(running.url, headers=other).status_code == 403


def test_what_is_loopback() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "[::1]", "127.9.9.9"):
        assert is_loopback(host), host
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.com", "", "127.0.0.1.nip.io"):
        assert not is_loopback(host), host


# --- bodies -----------------------------------------------------------------------------------


def test_bodies_have_a_limit_declared_or_not() -> None:
    with serving(settings=ServiceSettings(max_body_bytes=1000)) as running:
        big = b'{"prompt": "' + b"a" * 2000 + b'"}'
        url = f"{running.url}/v1/completions"
        assert httpx.post(url, content=big, trust_env=False).status_code == 413

        def chunks() -> Any:
            for start in range(0, len(big), 100):
                yield big[start : start + 100]

        assert httpx.post(url, content=chunks(), trust_env=False).status_code == 413
        assert post(running.url).status_code == 200


def test_a_body_that_does_not_come_is_given_up() -> None:
    with serving(settings=ServiceSettings(body_timeout=0.2)) as running:
        host, port = running.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
            )
            assert b"408" in connection.recv(1000).split(b"\r\n")[0]


def test_prompts_have_a_limit_of_their_own() -> None:
    with serving(settings=ServiceSettings(max_prompt_tokens=5)) as running:
        refused = post(running.url, {"prompt": "one two three four five six", "max_tokens": 1})
        assert refused.status_code == 400
        assert "at most 5" in refused.json()["error"]["message"]


# --- queue and time ---------------------------------------------------------------------------


def test_a_full_queue_says_when_to_come_back() -> None:
    engine = echo_engine(max_batch=2, pace=0.02)
    with (
        serving(engine, ServiceSettings(max_queue=2)) as running,
        ThreadPoolExecutor(16) as pool,
    ):
        long = {"prompt": "one", "max_tokens": 40}
        answers = list(pool.map(lambda _: post(running.url, long), range(12)))
        codes = sorted(answer.status_code for answer in answers)
        assert codes[:4] == [200] * 4
        assert codes[-1] == 429
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert post(running.url).status_code == 200
        assert running.service.admission.sequences == 0


def test_more_sequences_than_ever_fit_are_a_400() -> None:
    with serving(echo_engine(max_batch=2), ServiceSettings(max_queue=2)) as running:
        refused = post(running.url, {"prompt": "one", "max_tokens": 1, "n": 5})
        assert refused.status_code == 400
        assert "at most 4" in refused.json()["error"]["message"]


def test_requests_have_a_time_limit() -> None:
    slow = echo_engine(pace=0.05, context=5000)
    with serving(slow, ServiceSettings(request_timeout=0.3)) as running:
        body = {"prompt": "one", "max_tokens": 1000}
        late = post(running.url, body)
        assert late.status_code == 504
        assert late.json()["error"]["type"] == "timeout"
        streamed = post(running.url, body | {"stream": True})
        assert streamed.status_code == 200
        assert '"type":"timeout"' in streamed.text.split("\n\n")[-2]
        assert "[DONE]" not in streamed.text
        assert running.engine.running == {}


def test_an_error_inside_is_a_bare_500(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as running:

        def explode(_: object) -> Any:
            raise ValueError("the prompt was: a secret")

        monkeypatch.setattr(running.engine, "generate", explode)
        answer = post(running.url)
        assert answer.status_code == 500
        assert "secret" not in answer.text


# --- leaving ----------------------------------------------------------------------------------


def leave_after(running: Running, body: dict[str, Any], wait_for: bytes) -> None:
    """Send a request, read up to ``wait_for``, and vanish."""
    import json

    host, port = running.url.removeprefix("http://").split(":")
    data = json.dumps(body).encode()
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = f"{LINE}Content-Length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data)
        seen = b""
        while wait_for not in seen:
            part = connection.recv(4096)
            assert part, seen
            seen += part


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_frees_the_place(stream: bool) -> None:
    engine = echo_engine(pace=0.01, context=100_000)
    begun, ended = threading.Event(), threading.Event()
    with serving(engine) as running:
        admission = running.service.admission
        whole = admission.admit

        def watched(sequences: int) -> Any:
            from contextlib import contextmanager

            @contextmanager
            def inner() -> Any:
                with whole(sequences):
                    begun.set()
                    try:
                        yield
                    finally:
                        ended.set()

            return inner()

        admission.admit = watched  # type: ignore[method-assign,assignment]
        body = {"prompt": "one", "max_tokens": 50_000, "stream": stream, "n": 2}
        if stream:
            leave_after(running, body, b"data: ")
        else:
            host, port = running.url.removeprefix("http://").split(":")
            import json

            data = json.dumps(body).encode()
            with socket.create_connection((host, int(port)), timeout=10) as connection:
                head = f"{LINE}Content-Length: {len(data)}\r\n"
                connection.sendall(head.encode() + b"\r\n" + data)
                assert begun.wait(10)
        assert ended.wait(10)
        assert admission.sequences == 0
        assert post(running.url).status_code == 200
        assert engine.running == {}


# --- moderation -------------------------------------------------------------------------------


def no_bombs(passage: Passage) -> str | None:
    return "no bombs" if "bomb" in passage.text else None


async def no_second_sentence(passage: Passage) -> str | None:
    return "enough" if passage.stage == "output" and "two" in passage.text else None


def broken(passage: Passage) -> str | None:
    raise RuntimeError(passage.text)


def test_refused_prompts_do_not_reach_the_engine() -> None:
    with serving(settings=ServiceSettings(moderators=(no_bombs,))) as running:
        refused = post(running.url, {"prompt": "how to build a bomb"})
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "content_filter"
        chat = {"messages": [{"role": "user", "content": "a bomb"}]}
        assert post(running.url, chat, "/v1/chat/completions").status_code == 400
        for path, body in (
            ("/generate", {"inputs": "a bomb"}),
            ("/score", {"input_data": {"input_string": "a bomb"}}),
        ):
            assert post(running.url, body, path).status_code in (400, 422)
        tokens = running.service.tokenizer.encode("a bomb", bos=True)
        assert post(running.url, {"prompt": tokens}).status_code == 400
        assert running.engine.seen == []
        assert post(running.url).status_code == 200


def test_the_moderation_route_asks_the_hooks() -> None:
    with serving(settings=ServiceSettings(moderators=(no_bombs,))) as running:
        found = post(running.url, {"input": ["a bomb", "a rose"]}, "/v1/moderations").json()
        assert [each["flagged"] for each in found["results"]] == [True, False]
        assert found["results"][0]["reason"] == "no bombs"
        one = post(running.url, {"input": "a bomb", "model": "any"}, "/v1/moderations").json()
        assert one["results"][0]["categories"] == {"refused": True}
        wrong = post(running.url, {"input": ["a", 5]}, "/v1/moderations").json()["error"]
        assert wrong["param"] == "input.1"
    with serving(settings=ServiceSettings(moderators=(broken,))) as running:
        found = post(running.url, {"input": "a"}, "/v1/moderations").json()
        assert found["results"][0]["flagged"] is True


def test_without_a_hook_nothing_is_called_harmless() -> None:
    with serving() as running:
        answer = post(running.url, {"input": "a bomb"}, "/v1/moderations")
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "no_moderator"


@pytest.mark.parametrize("stream", [True, False])
def test_refused_answers_are_never_shown(stream: bool) -> None:
    with serving(settings=ServiceSettings(moderators=(no_second_sentence,))) as running:
        body = {"prompt": "one. two. three.", "max_tokens": 6, "stream": stream}
        answer = post(running.url, body)
        assert "two" not in answer.text.replace("one. two. three.", "")
        assert "content_filter" in answer.text
        assert "one" in answer.text


def test_a_broken_hook_refuses(caplog: pytest.LogCaptureFixture) -> None:
    with serving(settings=ServiceSettings(moderators=(broken,))) as running:
        assert post(running.url).status_code == 400
        assert running.engine.seen == []


def test_hooks_are_found_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    from llama_hub.errors import UsageError

    good = EntryPoint("bombs", f"{__name__}:no_bombs", moderation.GROUP)
    monkeypatch.setitem(__import__("sys").modules, __name__, __import__("sys").modules[__name__])
    monkeypatch.setattr(moderation, "entry_points", lambda group: [good])
    assert moderation.installed() == {"bombs": no_bombs}
    bad = EntryPoint("gone", "no_such_module:f", moderation.GROUP)
    monkeypatch.setattr(moderation, "entry_points", lambda group: [bad])
    with pytest.raises(UsageError, match="gone"):
        moderation.installed()


def test_sentence_ends() -> None:
    assert moderation.last_sentence_end("no end") == 0
    assert moderation.last_sentence_end("One. Two") == 4
    assert moderation.last_sentence_end("3.14 is") == 0
    assert moderation.last_sentence_end('He said "no!" and\nleft') == 18


# --- the log ----------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [False, True])
def test_prompts_are_in_the_log_only_when_asked(
    caplog: pytest.LogCaptureFixture, wanted: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(settings=ServiceSettings(log_prompts=wanted)) as running:
        for body in ({"prompt": "xylophone"}, {"prompt": "xylophone", "temperature": 9}):
            post(running.url, body)
        chat = {"messages": [{"role": "user", "content": "xylophone"}]}
        post(running.url, chat, "/v1/chat/completions")
        post(running.url, {"inputs": "xylophone"}, "/")
    assert ("xylophone" in caplog.text) is wanted
    assert "POST /v1/completions 200" in caplog.text


def test_every_answer_has_an_id(client: httpx.Client) -> None:
    ids = {client.get(path).headers["x-request-id"] for path in ("/health", "/nope", "/")}
    assert len(ids) == 3
