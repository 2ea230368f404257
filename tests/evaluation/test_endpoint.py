"""What an endpoint says of itself, and which tasks it can be asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from llama_hub.errors import LlamaHubError
from llama_hub.evaluation import endpoint
from llama_hub.inference.service.settings import ServiceSettings
from tests.support.serving import serving

MODELS = {"data": [{"id": "m", "max_model_len": 512}]}
SCORED = {"choices": [{"logprobs": {"token_logprobs": [None, -1.0, -2.0]}}]}


class Other(BaseHTTPRequestHandler):
    """An endpoint that is not ours: ``server.answers`` by path."""

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, body = self.server.answers.get(self.path, (404, {}))  # type: ignore[attr-defined]
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def other() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Other)
    server.answers = {"/v1/models": (200, MODELS), "/v1/completions": (200, SCORED)}
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_service_of_ours_states_what_it_is() -> None:
    with serving() as running:
        found = endpoint.probe(running.url + "/v1", {})
        assert (found.url, found.model, found.context) == (running.url, "echo-model", 256)
        assert found.no_logprobs == ""
        subject = found.subject("x", "endpoint")
        assert (subject.engine, subject.manifest) == ("echo", None)
    with serving(settings=ServiceSettings(api_key="k")) as running:
        with pytest.raises(LlamaHubError) as raised:
            endpoint.probe(running.url, {})
        assert raised.value.exit_code == 4
        good = endpoint.probe(running.url, {"Authorization": "Bearer k"})
        assert good.model == "echo-model"
        assert "Bearer" not in repr(good)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((200, SCORED), ""),
        ((404, {}), "only chat"),
        ((400, {"error": {}}), "answered 400"),
        ((200, {"choices": [{"text": "a", "logprobs": None}]}), "no log-probabilities"),
        ((200, {"choices": [{"logprobs": {"token_logprobs": [None]}}]}), "no log-probabilities"),
        ((200, b"nonsense"), "no log-probabilities"),
        ((200, []), "no log-probabilities"),
    ],
)
def test_an_endpoint_without_probabilities_says_why(other: Any, answer: Any, why: str) -> None:
    other.answers["/v1/completions"] = answer
    found = endpoint.probe(other.url, {})
    assert why in found.no_logprobs
    assert bool(found.no_logprobs) is bool(why)
    assert found.completions is (answer[0] != 404)


def test_several_models_need_a_name(other: Any) -> None:
    other.answers["/v1/models"] = (200, {"data": [{"id": "a"}, {"id": "b"}, {"id": 3}, 4]})
    with pytest.raises(LlamaHubError, match="lists 2 models") as raised:
        endpoint.probe(other.url, {})
    assert raised.value.exit_code == 2
    assert endpoint.probe(other.url, {}, "b").model == "b"


def test_a_statement_that_contradicts_itself_is_not_recorded(other: Any) -> None:
    from tests.support.records import MANIFEST

    stated: dict[str, Any] = {"manifest": MANIFEST, "version": "1", "engine": None, "document": {}}
    other.answers["/manifest"] = (200, stated)
    with pytest.raises(LlamaHubError) as raised:
        endpoint.probe(other.url, {}).subject("x", "endpoint")
    assert raised.value.exit_code == 5
    other.answers["/manifest"] = (200, stated | {"document": None})
    assert endpoint.probe(other.url, {}).subject("x", "endpoint").manifest is None


@pytest.mark.parametrize("url", ["ftp://x", "http://", "x", "http://u:p@x", "http://x:y"])
def test_what_is_no_address_is_exit_2(url: str) -> None:
    with pytest.raises(LlamaHubError) as raised:
        endpoint.probe(url, {})
    assert raised.value.exit_code == 2


def test_nobody_there_is_exit_10() -> None:
    with pytest.raises(LlamaHubError) as raised:
        endpoint.probe("http://127.0.0.1:9", {})
    assert raised.value.exit_code == 10
