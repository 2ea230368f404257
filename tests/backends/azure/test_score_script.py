"""``score.py`` under Microsoft's own inference server, which has an environment of its own.

The server pins old versions of what we need in new ones, so it is not installed beside us:
``AZMLINFSRV`` names its program, for instance after
``python -m venv /tmp/v && /tmp/v/bin/pip install azureml-inference-server-http``.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest

from llama_hub.deploy import reference_core
from llama_hub.deploy.client import text_of
from llama_hub.deploy.waiting import wait_for
from tests.support.demo_model import demo_folder

SERVER = os.environ.get("AZMLINFSRV") or shutil.which("azmlinfsrv")
pytestmark = pytest.mark.skipif(SERVER is None, reason="AZMLINFSRV names no inference server")

BODY = {
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
    "max_tokens": 16,
}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model, a level below the mount, as the platform has it."""
    folder = demo_folder(tmp_path_factory.mktemp("store")).path
    mount = tmp_path_factory.mktemp("mount")
    shutil.copytree(folder, mount / "llama-demo-chat")
    return mount


@pytest.fixture(scope="module")
def url(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server, with our script as its entry script."""
    folder = tmp_path_factory.mktemp("code")
    script = folder / "score.py"
    script.write_bytes(files("llama_hub.backends.azure").joinpath("score.py").read_bytes())
    port, health = free_port(), free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
        "LLAMA_HUB_PYTHON": sys.executable,
        "AZUREML_MODEL_DIR": str(model),
    }
    command = [str(SERVER), "--entry_script", str(script), "--model_dir", str(model)]
    command += ["--port", str(port), "--health_port", str(health), "--worker_count", "1"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    base = f"http://127.0.0.1:{port}"

    def is_up() -> bool | None:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            return httpx.get(f"{base}/").status_code == 200 or None
        except httpx.HTTPError:
            return None

    try:
        wait_for(is_up, "the inference server", timeout=90, every=0.2)
        yield base
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_answers_as_the_core_does(url: str, model: Path) -> None:
    answer = httpx.post(f"{url}/score", json=BODY, timeout=60)
    assert answer.status_code == 200, answer.text
    local = text_of(b"".join(reference_core.answer(model / "llama-demo-chat", BODY, False)))
    assert text_of(answer.content) == local


def test_a_wrong_body_is_the_callers_fault(url: str) -> None:
    answer = httpx.post(f"{url}/score", json={"nonsense": 1}, timeout=60)
    assert answer.status_code == 400
    document: Any = json.loads(answer.text)
    assert "messages" in document["error"]["message"]
