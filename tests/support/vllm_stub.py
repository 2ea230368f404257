"""In place of vLLM in its official image: its command line and its routes, without a model.

The container is started as Docker would start it, from the ``Dockerfile`` that was sent: its
entry point with its command, ``vllm`` being this file. Arguments are those of ``vllm serve`` that
we use, parsed strictly; what vLLM does with them is not shown here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

ROUTES = ("/v1/completions", "/v1/chat/completions", "/invocations")


def parse(words: list[str]) -> argparse.Namespace:
    """``vllm serve MODEL …``; ends the process on what it does not know."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model", type=Path)
    parser.add_argument("--host")
    for name in ("port", "max-model-len", "max-num-seqs", "tensor-parallel-size"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--served-model-name")
    parser.add_argument("--gpu-memory-utilization", type=float)
    parser.add_argument("--dtype", choices=["auto", "float16", "bfloat16", "float32"])
    parser.add_argument("--seed", type=int)
    found = parser.parse_args(words)
    if not (found.model / "config.json").is_file():
        parser.error(f"{found.model} holds no model")
    return found


class Container:
    """One running container of an image that was built from ``dockerfile``."""

    def __init__(self, dockerfile: str, folder: Path, variables: dict[str, str]) -> None:
        lines = dict(line.split(" ", 1) for line in dockerfile.splitlines())
        assert list(lines) == ["FROM", "ENTRYPOINT", "CMD"], dockerfile
        tools = folder.parent / "bin"
        tools.mkdir(exist_ok=True)
        (tools / "vllm").write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} "$@"\n')
        (tools / "vllm").chmod(0o755)
        self._process = subprocess.Popen(
            [*json.loads(lines["ENTRYPOINT"]), *json.loads(lines["CMD"])],
            env={"PATH": f"{tools}:{os.environ['PATH']}"} | variables,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.told = json.loads(self._process.stdout.readline() or "{}")
        self.url = f"http://127.0.0.1:{self.told['bound']}"

    def close(self) -> None:
        """Stop it."""
        self._process.terminate()
        self._process.communicate(timeout=30)


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = self.path in ROUTES
        kind = "message" if "messages" in body else "text"
        answer = {"choices": [{kind: "hi"}]} if known else {"error": {"message": "no route"}}
        data = json.dumps(answer).encode()
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        pass


def main() -> None:
    """Say what was asked for and where it answers, then serve."""
    found = parse(sys.argv[1:])
    server = HTTPServer(("127.0.0.1", 0), _Handler)
    told = {key: str(value) for key, value in vars(found).items() if value is not None}
    print(json.dumps(told | {"bound": server.server_port}), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
