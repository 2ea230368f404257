"""What SageMaker does around a container: weights to a read-only folder, start, ping, invoke.

``process`` starts the real ``llama-hub serve`` as ``docker run IMAGE serve`` would, told by
``LLAMA_HUB_MODEL_DIR`` where ``/opt/ml/model`` is. ``stub`` answers from a thread, for tests that
are about the control plane. What neither proves: the image itself, CUDA, drivers, networks.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

PING_TIMEOUT = 2.0  # seconds, as SageMaker has it
INVOKE_TIMEOUT = 60.0
START = 120.0  # real seconds that this host gives a container, whatever was asked for


class Container(Protocol):
    """A running container."""

    url: str

    def alive(self) -> bool:
        """Whether its process runs."""
        ...

    def log(self) -> list[str]:
        """What it has written so far."""
        ...

    def close(self) -> None:
        """SIGTERM, then SIGKILL."""
        ...


Launch = Callable[[Path, Mapping[str, str]], Container]


class Stub:
    """Answers as the service does, without computing anything."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.folder, self.variables = folder, dict(variables)
        self.ping, self.status = 200, 200
        self.asked: list[tuple[Mapping[str, str], Any]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.daemon = True
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def alive(self) -> bool:
        """Until it is closed."""
        return self._thread.is_alive()

    def log(self) -> list[str]:
        """Two lines."""
        return ["loading the weights", f"ready, {len(self.asked)} answers so far"]

    def answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """One document."""
        if body.get("manifest") is True:
            return {"manifest": json.loads((self.folder / "llama-hub.json").read_text())["digest"]}
        said = body["messages"][-1]["content"] if "messages" in body else body.get("prompt", "")
        message = {"role": "assistant", "content": said}
        return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}

    def close(self) -> None:
        """Stop it."""
        self._server.shutdown()
        self._server.server_close()


def stub(folder: Path, variables: Mapping[str, str]) -> Container:
    """A container without a model."""
    return Stub(folder, variables)


def _handler(service: Stub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(b"", service.ping)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            service.asked.append((dict(self.headers), body))
            if service.status != 200:
                self._send(b'{"error": {"message": "it broke"}}', service.status)
            elif body.get("stream"):
                self._stream(service.answer(body)["choices"][0]["message"]["content"])
            else:
                self._send(json.dumps(service.answer(body)).encode(), 200)

        def _stream(self, text: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            deltas = [
                {"choices": [{"index": 0, "delta": {"content": w + " "}}]} for w in text.split()
            ]
            deltas.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            lines = [f"data: {json.dumps(delta)}\n\n".encode() for delta in deltas]
            for data in [*lines, b"data: [DONE]\n\n"]:
                self.wfile.write(b"%x\r\n" % len(data) + data + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")

        def _send(self, content: bytes, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler


class Process:
    """``llama-hub serve`` in a process of its own, with nothing but the container's variables."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self._log = folder.with_suffix(".log")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": "/root",
            "OMP_NUM_THREADS": "1",
            "LLAMA_HUB_MODEL_DIR": str(folder),
            "LLAMA_HUB_HOST": "127.0.0.1",
            "SAGEMAKER_BIND_TO_PORT": str(port),
            "LLAMA_HUB_HOME": "/nonexistent",
        } | dict(variables)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "llama_hub", "serve"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.url = f"http://127.0.0.1:{port}"

    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def log(self) -> list[str]:
        """stdout and stderr."""
        return self._log.read_text(errors="replace").splitlines()

    def close(self) -> None:
        """SIGTERM, SIGKILL after 30 seconds."""
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def process(folder: Path, variables: Mapping[str, str]) -> Container:
    """A container with the real service."""
    return Process(folder, variables)


@dataclass
class Answer:
    """What a container said."""

    status: int
    content_type: str
    body: Any  # a file to read from


def place_weights(objects: Mapping[str, Path], folder: Path) -> None:
    """Copy objects (path below the prefix → file) to a folder that nobody may write to."""
    for path, source in objects.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o444)
    for inner in [folder, *folder.rglob("*")]:
        if inner.is_dir():
            inner.chmod(0o555)


def remove_weights(folder: Path) -> None:
    """Make it writable, and remove it."""
    for inner in [folder, *folder.rglob("*")]:
        if inner.is_dir():
            inner.chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)


def wait_for_ping(container: Container) -> str:
    """Poll ``/ping`` as SageMaker does; the reason if it never says 200, else nothing."""
    end = time.monotonic() + START
    while time.monotonic() < end:
        if not container.alive():
            return "the container ended"
        if ping(container) == 200:
            return ""
        if getattr(container, "ping", 200) != 200:
            return "ping says no"  # a stub that never will
        time.sleep(0.05)
    return "ping came too late"


def ping(container: Container) -> int:
    """Status of ``GET /ping``; 0 if nobody answers within two seconds."""
    try:
        with urllib.request.urlopen(f"{container.url}/ping", timeout=PING_TIMEOUT) as answer:
            content = answer.read()
            assert content == b"", "/ping must have an empty body"
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return int(error.code)
    except OSError:
        return 0


def invoke(container: Container, body: bytes, headers: Mapping[str, str]) -> Answer:
    """``POST /invocations`` with the headers that SageMaker lets through."""
    request = urllib.request.Request(
        f"{container.url}/invocations", data=body, headers=dict(headers), method="POST"
    )
    try:
        answer = urllib.request.urlopen(request, timeout=INVOKE_TIMEOUT)
    except urllib.error.HTTPError as error:
        return Answer(error.code, "", error)
    return Answer(200, answer.headers.get("Content-Type", ""), answer)
