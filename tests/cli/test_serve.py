"""``llama-hub serve`` as a process of its own: ready line, keys, ports, licences, ends in order."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from llama_hub.errors import ExitCode
from llama_hub.hub.manifest import Manifest, read
from tests.support.command import run, spawn
from tests.support.demo_model import CHAT, demo_folder


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the demo model in it, converted."""
    folder = tmp_path_factory.mktemp("filled")
    demo_folder(folder)
    return folder


@contextmanager
def served(home: Path, *arguments: str, **environment: str) -> Iterator[tuple[Any, Any]]:
    """A running server and what it said when it was ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "llama_hub", "serve", *arguments, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "LLAMA_HUB_HOME": str(home), "OMP_NUM_THREADS": "1", **environment},
    )
    errors: list[str] = []
    assert process.stderr is not None
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: errors.extend(process.stderr or ()))
    reader.start()
    try:
        line = process.stdout.readline()
        assert line, "".join(errors)
        yield process, json.loads(line)
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(60)
        finally:
            process.kill()
            process.wait()
            reader.join()
            process.stdout.close()
            process.stderr.close()


def get(url: str, **more: Any) -> httpx.Response:
    return httpx.get(url, trust_env=False, timeout=60, **more)


def post(url: str, body: Any, **more: Any) -> httpx.Response:
    return httpx.post(url, json=body, trust_env=False, timeout=60, **more)


def test_it_says_where_it_listens_and_answers(filled: Path) -> None:
    with served(filled, CHAT, "--port", "0", "--context", "128") as (process, ready):
        assert set(ready) == {"url", "model", "manifest", "engine", "device", "dtype"}
        assert ready["model"] == CHAT
        assert ready["engine"] == "torch"
        assert get(ready["url"] + "/health").status_code == 200
        assert get(ready["url"] + "/manifest").json()["manifest"] == ready["manifest"]
        models = get(ready["url"] + "/v1/models").json()
        assert models["data"][0]["max_model_len"] == 128
        body = {"messages": [{"role": "user", "content": "Who are you?"}], "temperature": 0}
        answer = post(ready["url"] + "/v1/chat/completions", body).json()
        assert answer["choices"][0]["message"]["content"].strip()
        environment = {"LLAMA_HUB_HOME": str(filled), "PYTHONPROFILEIMPORTTIME": "1"}
        port = ready["url"].rsplit(":", 1)[1]
        taken = spawn(["serve", CHAT, "--port", port, "--json"], environment=environment)
        assert taken.code == ExitCode.USAGE
        assert "in use" in taken.json["error"]["message"]
        assert "--port 0" in taken.json["error"]["hint"]
        assert " torch\n" not in taken.stderr  # whose import takes seconds
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_sigterm_under_load_loses_no_accepted_request(filled: Path) -> None:
    """Every request that was let in gets its whole answer; later ones are turned away."""
    with served(filled, CHAT, "--port", "0", "--max-batch", "4", "--context", "256") as (
        process,
        ready,
    ):
        url = ready["url"]
        begun = threading.Barrier(13, timeout=60)

        def ask(number: int) -> tuple[int, bool]:
            body = {
                "prompt": f"The number {number}",
                "max_tokens": 40,
                "ignore_eos": True,
                "stream": number % 2 == 0,
            }
            with (
                httpx.Client(trust_env=False, timeout=60) as client,
                client.stream("POST", f"{url}/v1/completions", json=body) as answer,
            ):
                if number % 2 == 0:
                    begun.wait()  # the first token is there
                return answer.status_code, whole(answer.read().decode(), number % 2 == 0)

        def whole(text: str, stream: bool) -> bool:
            if stream:
                return text.rstrip().endswith("[DONE]") and '"length"' in text
            return bool(json.loads(text)["choices"][0]["finish_reason"] == "length")

        with ThreadPoolExecutor(24) as pool:
            answers = [pool.submit(ask, number) for number in range(24)]
            begun.wait()
            while let_in(url) < 24:
                pass
            process.send_signal(signal.SIGTERM)
            found = [answer.result() for answer in answers]
        assert process.wait(60) == 0
    assert found == [(200, True)] * 24


def let_in(url: str) -> float:
    """Sequences that run, wait or have ended."""
    names = ("num_requests_running", "num_requests_waiting", "request_success_total")
    lines = get(f"{url}/metrics").text.splitlines()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith(tuple(f"vllm:{name}{{" for name in names))
    )


def test_what_is_late_is_cut_off_and_told(filled: Path) -> None:
    arguments = ("--port", "0", "--drain-timeout", "0.2", "--context", "512", "--max-batch", "1")
    with served(filled, CHAT, *arguments) as (process, ready):
        body = {"prompt": "on and on", "max_tokens": 480, "ignore_eos": True, "stream": True}
        with (
            httpx.Client(trust_env=False, timeout=60) as client,
            client.stream("POST", ready["url"] + "/v1/completions", json=body) as answer,
        ):
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            last = [line for line in lines if line][-1]
        assert "shutting down" in last
        assert process.wait(60) == 0


def test_an_open_port_gets_a_key_of_its_own(filled: Path) -> None:
    with served(filled, CHAT, "--host", "0.0.0.0", "--port", "0") as (_, ready):
        key = ready["api_key"]
        assert get(ready["url"] + "/v1/models").status_code == 401
        bearer = {"Authorization": f"Bearer {key}"}
        assert get(ready["url"] + "/v1/models", headers=bearer).status_code == 200


def test_a_container_serves_what_the_platform_mounted(filled: Path, tmp_path: Path) -> None:
    """As SageMaker starts it: the one argument ``serve``, no ledger, any interface, no key."""
    mount = tmp_path / "model" / "deeper"
    mount.parent.mkdir()
    mount.symlink_to(filled / "models" / CHAT / "hf")
    with served(
        tmp_path / "empty",
        LLAMA_HUB_MODEL_DIR=str(tmp_path / "model"),
        LLAMA_HUB_PLATFORM="sagemaker",
        LLAMA_HUB_PORT="0",
        LLAMA_HUB_CONTEXT="128",
    ) as (_, ready):
        assert "api_key" not in ready
        assert get(ready["url"] + "/ping").status_code == 200
        body = {"inputs": "The sea", "parameters": {"max_new_tokens": 4}}
        assert "generated_text" in post(ready["url"] + "/invocations", body).json()


def test_plan_prints_the_arithmetic_without_loading(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_HUB_HOME", str(filled))
    found = run("serve", CHAT, "--plan", "--json")
    assert found.code == 0, found.stderr
    plan = found.json
    assert plan["fits"]
    assert plan["total_bytes"] == (
        plan["weights_bytes"] + plan["kv_bytes"] + plan["workspace_bytes"]
    )


def test_the_gpu_image_without_a_gpu_exits_7(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image sets LLAMA_HUB_DEVICE=cuda; --device cpu is how to mean the CPU there."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("LLAMA_HUB_HOME", str(filled))
    monkeypatch.setenv("LLAMA_HUB_DEVICE", "cuda")
    found = run("serve", CHAT, "--plan")
    assert found.code == ExitCode.NOT_ENOUGH
    assert "driver" in found.stderr
    assert "--device cpu" in found.stderr
    assert run("serve", CHAT, "--plan", "--device", "cpu").code == 0


def test_a_model_that_does_not_fit_exits_7(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llama_hub.inference import memory

    monkeypatch.setenv("LLAMA_HUB_HOME", str(filled))
    monkeypatch.setattr(memory, "free_memory", lambda *_: 1_000_000)
    found = run("serve", CHAT, "--plan")
    assert found.code == ExitCode.NOT_ENOUGH
    assert "does not fit" in found.stderr
    found = run("serve", CHAT, "--port", "0", "--json")
    assert found.code == ExitCode.NOT_ENOUGH
    assert found.json["error"]["type"] == "NotEnoughError"


def test_wrong_calls_name_the_mend(home: Path) -> None:
    nothing = run("serve", "--json")
    assert nothing.code == ExitCode.USAGE
    assert "llama-hub serve" in nothing.json["error"]["hint"]
    absent = run("serve", CHAT)
    assert absent.code == ExitCode.NOT_FOUND
    assert "llama-hub download" in absent.stderr
    both = run("serve", CHAT, "--no-api-key", "--api-key", "x")
    assert both.code in (ExitCode.USAGE, ExitCode.NOT_FOUND)


def test_a_licence_that_is_not_accepted_exits_3(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "llama"
    folder.mkdir()
    Manifest("llama-2-7b", "hf", "llama-2-community", ()).write(folder)
    found = run("serve", str(folder))
    assert found.code == ExitCode.LICENSE
    assert "license accept" in found.stderr


def test_a_damaged_folder_exits_5(filled: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(filled / "models" / CHAT / "hf", folder)
    weights = next(folder.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    assert read(folder).model == CHAT
    found = run("serve", str(folder))
    assert found.code == ExitCode.INTEGRITY
    assert weights.name in found.stderr


def test_an_address_that_is_not_ours() -> None:
    from llama_hub.errors import UsageError
    from llama_hub.inference.service.server import bind, url_of

    with pytest.raises(UsageError):
        bind("192.0.2.1", 0)
    with pytest.raises(UsageError):
        bind("no such host", 0)
    bound = bind("0.0.0.0", 0)
    try:
        assert url_of(bound).startswith("http://127.0.0.1:")
    finally:
        bound.close()
    if socket.has_ipv6:
        six = bind("::1", 0)
        assert url_of(six).startswith("http://[::1]:")
        six.close()
