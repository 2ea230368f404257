"""What an Inference Endpoint does when it starts: mount the repository, run what it was told to.

A custom container is the real service, as a process. The stock image is its toolkit's contract:
``handler.py`` of the repository in a process of its own, bodies with ``inputs``, one at a time,
every exception a 400. Containers of one manifest share a process, since each start loads the
framework.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from tests.support.endpoints_plane import Running
from tests.support.hub_writes import WritableHub, send


class Launcher:
    """``EndpointsPlane`` calls it with an endpoint's state."""

    def __init__(self, hub: WritableHub, mounts: Path) -> None:
        self._hub = hub
        self._mounts = mounts
        self._services: dict[str, subprocess.Popen[str]] = {}
        self._urls: dict[str, str] = {}
        self.stub = ""  # an URL to answer with, where the service itself does not matter

    def __call__(self, state: dict[str, Any]) -> Running:
        if self.stub:
            return Running(self.stub, lambda: None)
        repository = state["model"]["repository"]
        folder = self._mount(repository, state["model"]["revision"])
        if "huggingface" in state["model"]["image"]:
            return serve_handler(folder)
        if repository not in self._urls:
            self._urls[repository] = self._start(repository, folder, state["model"]["env"])
        return Running(self._urls[repository], lambda: None)

    def _mount(self, repository: str, revision: str) -> Path:
        """The files of that commit, and no others."""
        folder = self._mounts / repository
        files = self._hub.files_at(repository, revision)
        assert files is not None, f"{repository} has no {revision}"
        for path, data in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        return folder

    def _start(self, key: str, folder: Path, variables: dict[str, str]) -> str:
        environment = os.environ | variables
        environment |= {"LLAMA_HUB_MODEL_DIR": str(folder), "LLAMA_HUB_PORT": "0"}
        environment |= {"LLAMA_HUB_HOST": "127.0.0.1", "OMP_NUM_THREADS": "1"}
        child = subprocess.Popen(
            [sys.executable, "-m", "llama_hub", "serve", "--json"],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert child.stdout is not None
        line = child.stdout.readline()
        assert line, "the service did not start"
        self._services[key] = child
        return str(json.loads(line)["url"])

    def close(self) -> None:
        """End every process."""
        self.stub = ""
        self._urls.clear()
        for child in self._services.values():
            child.terminate()
            child.communicate()
        self._services.clear()


def serve_handler(folder: Path) -> Running:
    """The toolkit's contract around the ``handler.py`` in ``folder``."""
    child = subprocess.Popen(
        [sys.executable, "-c", _TOOLKIT, str(folder)],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
    )
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            send(self, 200, b"Ok")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert child.stdin is not None
            assert child.stdout is not None
            with lock:
                child.stdin.write(json.dumps(json.loads(body)) + "\n")
                child.stdin.flush()
                status, answer = json.loads(child.stdout.readline())
            send(self, status, answer)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        child.terminate()
        child.communicate()

    return Running(f"http://127.0.0.1:{server.server_port}", stop)


_TOOLKIT = """
import importlib.util, json, sys
answers = sys.stdout
sys.stdout = sys.stderr  # what the handler prints is no answer
given = importlib.util.spec_from_file_location("handler", sys.argv[1] + "/handler.py")
module = importlib.util.module_from_spec(given)
given.loader.exec_module(module)
handler = module.EndpointHandler(sys.argv[1])
for line in sys.stdin:
    data = json.loads(line)
    try:
        if "inputs" not in data:
            raise ValueError("Body needs to provide a inputs key")
        answer = [200, handler(data)]
    except Exception as error:
        answer = [400, {"error": str(error)}]
    answers.write(json.dumps(answer) + "\\n")
    answers.flush()
"""
