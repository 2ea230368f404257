"""A small model, targets for it, and a service that answers without computing anything."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from llama_hub.backends.azure.backend import AzureBackend
from llama_hub.deploy import sizing
from llama_hub.deploy.backend import Artifact, Target
from llama_hub.deploy.options import check_options
from llama_hub.deploy.spec import DeploymentSpec
from llama_hub.hub.architecture import Architecture, to_config
from llama_hub.hub.manifest import FileEntry, Manifest, read

ARCHITECTURE = Architecture(64, 2, 4, 4, 172, 512, context=256)


def make_artifact(folder: Path, *, seed: int = 0, weights: int = 150_000) -> Artifact:
    """A folder with a config, ``weights`` bytes that only look like weights, and a manifest."""
    folder.mkdir(parents=True)
    noise = random.Random(seed)
    contents = {
        "config.json": json.dumps(to_config(ARCHITECTURE, "float32")).encode(),
        "model-00001-of-00001.safetensors": noise.randbytes(weights),
        "tokenizer.model": noise.randbytes(2000),
        "LICENSE": b"a licence\n",
        "USE_POLICY.md": b"a policy\n",
        "NOTICE": b"a notice\n",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    entries = tuple(
        FileEntry(name, len(content), hashlib.sha256(content).hexdigest())
        for name, content in contents.items()
    )
    manifest = Manifest(
        model="tiny-chat", format="hf", license="llama-hub-demo", files=entries, receipt="r-1"
    )
    manifest.write(folder)
    return Artifact(folder, read(folder), "r-1")


def make_target(backend: AzureBackend, artifact: Artifact, **keys: Any) -> Target:
    """A target as the deployer makes one; ``keys`` are those of the spec."""
    spec = DeploymentSpec(
        **({"name": "support", "backend": "azure", "model": "tiny-chat", "context": 256} | keys)
    )
    check_options(spec, backend)
    need = sizing.need(ARCHITECTURE, spec, "float32")
    observed = backend.observe(spec.name)
    current = backend.status(spec.name).instance if observed.find("endpoint") else None
    offer = sizing.choose(backend.offers(spec, need), spec, need, current)
    return Target(spec, artifact, need, offer, spec.revision(artifact.manifest.digest))


class StubService:
    """Answers ``/score`` with what it was asked and which manifest lies in its folder."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder, self.variables = folder, variables
        self.status = 200
        self.between = threading.Event()  # a stream waits for it after its first piece
        self.between.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """The document of one request."""
        if body.get("manifest") is True:
            return {"manifest": read(self.folder).digest}
        return {"choices": [{"text": "hi"}], "asked": body, "context": self.variables}

    def close(self) -> None:
        """Stop it."""
        self._server.shutdown()
        self._server.server_close()


def stub_service(folder: Path, variables: dict[str, str]) -> StubService:
    """A service for a mounted model."""
    return StubService(folder, variables)


def _handler(service: StubService) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if service.status != 200:
                self._send(json.dumps({"error": {"message": "it broke"}}).encode())
            elif body.get("stream"):
                self._stream()
            else:
                self._send(json.dumps(service.answer(body)).encode())

        def _send(self, content: bytes) -> None:
            self.send_response(service.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _stream(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for word in ("one", "two"):
                self.wfile.write(f"data: {word}\n\n".encode())
                self.wfile.flush()
                service.between.wait(timeout=30)

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler
