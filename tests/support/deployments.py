"""A model folder small enough to deploy a thousand times, and a deployer that uses it.

The folder has a real manifest and a real ``config.json``; its weights are a few bytes, so
nothing here proves that a deployment answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llama_hub.backends.memory.backend import MemoryBackend
from llama_hub.backends.memory.platform import Platform
from llama_hub.deploy.apply import ApplyOptions
from llama_hub.deploy.backend import Artifact
from llama_hub.deploy.deployer import Deployer
from llama_hub.deploy.spec import DeploymentSpec
from llama_hub.files import sha256_file
from llama_hub.hub.architecture import Architecture, to_config
from llama_hub.hub.manifest import FileEntry, Manifest

TINY = Architecture(
    dim=64, n_layers=2, n_heads=4, n_kv_heads=2, ffn_dim=128, vocab_size=512, context=256
)


def no_sleep(seconds: float) -> None:
    """Instead of ``time.sleep``."""


PROMPT = ApplyOptions(sleep=no_sleep)  # waits as the code asks, in no time


def make_folder(folder: Path, content: str = "one", model: str = "llama-demo") -> Path:
    """A served folder whose manifest depends on ``content``; its files are new ones."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink(missing_ok=True)
    (folder / "config.json").write_text(json.dumps(to_config(TINY, "float32")))
    (folder / "model.safetensors").write_text(content)
    files = [
        FileEntry(path.name, path.stat().st_size, sha256_file(path))
        for path in (folder / "config.json", folder / "model.safetensors")
    ]
    Manifest(model, "hf", "llama-hub-demo", tuple(files)).write(folder)
    return folder


def artifact(folder: Path) -> Artifact:
    """The folder as the deployer gets it."""
    from llama_hub.hub.manifest import read

    return Artifact(folder, read(folder), "r-0000000000000000")


class Bench:
    """A memory platform, a model folder and a deployer on them."""

    def __init__(self, root: Path, platform: Platform | None = None) -> None:
        self.root = root
        self.platform = platform or Platform()
        self.backend = MemoryBackend(self.platform, answer=echo)
        self.folder = make_folder(root / "model")
        self.deployer = self.new_deployer()

    def new_deployer(self) -> Deployer:
        """As a new process would make one."""
        return Deployer(
            self.backend, artifacts=lambda spec: artifact(self.folder), root=self.root / "journals"
        )

    def new_model(self, content: str) -> None:
        """Other weights in the same folder."""
        make_folder(self.folder, content)

    def deploy(self, name: str = "x", options: ApplyOptions = PROMPT, **changes: Any) -> Any:
        """Plan and apply in one go."""
        return self.deployer.apply(self.deployer.plan(spec(name, **changes)), options)

    def ids(self) -> set[str]:
        """Everything that the simulated backend has."""
        return set(self.platform.records)


def spec(name: str = "x", **changes: Any) -> DeploymentSpec:
    """A spec that the tiny model fits, with ``changes``."""
    known = {"name": name, "backend": "memory", "model": "llama-demo", "context": 256}
    return DeploymentSpec(**{**known, **changes})


def echo(folder: Path, body: Mapping[str, Any], stream: bool) -> Iterator[bytes]:
    """An answer without a model: the last message, as OpenAI's document or as its events."""
    said = body["messages"][-1]["content"]
    if not stream:
        choice = {"index": 0, "message": {"role": "assistant", "content": said}}
        yield json.dumps({"choices": [choice | {"finish_reason": "stop"}]}).encode()
        return
    for word in said.split():
        delta = {"choices": [{"index": 0, "delta": {"content": f"{word} "}}]}
        yield f"data: {json.dumps(delta)}\n\n".encode()
    yield b"data: [DONE]\n\n"
