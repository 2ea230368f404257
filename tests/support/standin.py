"""Stands in for ``llama-hub serve``: the same options and routes, no model.

Its answers name the content of the folder that it serves, so that a test sees which revision
answered. What it cannot prove: anything about inference. Told by variables of its environment:
``STANDIN_FAIL`` ends before it is ready, ``STANDIN_DELAY`` seconds go by before an answer,
``STANDIN_LOAD`` and ``STANDIN_GATE`` name files that it waits for before it is ready and before it
answers (in a stream: after the first letter).
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FOLDER = Path(sys.argv[1])
FOLDERS = [Path(each) for each in itertools.takewhile(lambda a: a[:2] != "--", sys.argv[1:])]
CONTENT = (FOLDER / "model.safetensors").read_text()
DELAY = float(os.environ.get("STANDIN_DELAY", "0"))
GATE = os.environ.get("STANDIN_GATE")
KEY = os.environ.get("LLAMA_HUB_API_KEY")


class Handler(BaseHTTPRequestHandler):
    """The routes that a deployment is asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/health":
            names = [json.loads((each / "llama-hub.json").read_text())["model"] for each in FOLDERS]
            models = {name: {"state": "ready"} for name in names} if self._may() else {}
            self._send({"status": "ok", "models": models}, 200 if server.healthy else 503)
        elif not self._may():
            self._send({"error": "key"}, 401)
        elif self.path == "/manifest":
            known = [json.loads((each / "llama-hub.json").read_text()) for each in FOLDERS]
            models = [{"model": each["model"], "manifest": each["digest"]} for each in known]
            stated = {"manifest": known[0]["digest"], "environment": dict(os.environ)}
            self._send(stated | {"models": models, "argv": sys.argv[1:]})
        elif self.path == "/crash":
            os._exit(7)
        elif self.path == "/sick":
            server.healthy = False
            self._send({})
        else:
            self._send({"content": CONTENT, "pid": os.getpid()})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._may():
            self._send({"error": "key"}, 401)
            return
        if body.get("kill"):
            os._exit(9)
        if body.get("stream"):
            self._stream()
            return
        time.sleep(DELAY)
        pass_gate()
        answer = {"role": "assistant", "content": CONTENT}
        self._send({"choices": [{"index": 0, "message": answer, "finish_reason": "stop"}]})

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for letter in CONTENT:
            time.sleep(DELAY)
            delta = {"choices": [{"index": 0, "delta": {"content": letter}}]}
            self._chunk(f"data: {json.dumps(delta)}\n\n".encode())
            pass_gate()
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _may(self) -> bool:
        return KEY is None or self.headers.get("Authorization") == f"Bearer {KEY}"

    def _send(self, document: Any, status: int = 200) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        print(self.requestline, file=sys.stderr)


def pass_gate(gate: str | None = GATE) -> None:
    while gate and not Path(gate).exists():
        time.sleep(0.01)


class Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True  # answers under way are finished before the end
    request_queue_size = 128
    healthy = True


if __name__ == "__main__":
    if os.environ.get("STANDIN_FAIL"):
        print("cannot load: out of memory, as the test wants", file=sys.stderr)
        sys.exit(3)
    pass_gate(os.environ.get("STANDIN_LOAD"))
    server = Server(("127.0.0.1", 0), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(json.dumps({"url": f"http://127.0.0.1:{server.server_port}"}), flush=True)
    server.serve_forever(poll_interval=0.05)
    server.server_close()
