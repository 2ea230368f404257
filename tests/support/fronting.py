"""The front of several models on a loopback port: stand-in processes, a clock that a test turns."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from llama_hub.backends.local.model_front import ModelFacts, ModelFront, create_front
from llama_hub.backends.local.model_pool import ModelPool, PooledModel, Slot
from llama_hub.inference.engine import EngineInfo
from llama_hub.inference.service.server import bind, make_server, url_of
from llama_hub.inference.service.settings import ServedModel, ServiceSettings
from tests.support.deployments import make_folder
from tests.support.local import STANDIN

SECRET = "the-key-of-the-processes"


@dataclass
class Clock:
    """Seconds that go by when a test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Fronted:
    """A front that listens."""

    url: str
    front: ModelFront
    clock: Clock
    client: httpx.Client
    lines: list[str] = field(default_factory=list)  # that the processes said, but of health

    def slot(self, name: str) -> Slot:
        return self.front.pool.slots[name]

    def pid(self, name: str) -> int:
        replica = self.slot(name).replica
        assert replica is not None
        return int(replica.state()["pid"])

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.client.get(self.url + path, **more)

    def ask(self, model: str | None, path: str = "/v1/chat/completions", **body: Any) -> Any:
        document = body if model is None else {"model": model, **body}
        return self.client.post(self.url + path, json=document)


def said(answer: httpx.Response) -> str:
    """What the stand-in said, which is the content of its folder."""
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


@contextmanager
def fronting(
    root: Path,
    models: Mapping[str, Mapping[str, str]],
    *,
    memory: int | None = None,
    idle: float | None = None,
    patience: float = 60.0,
    settings: ServiceSettings | None = None,
    wait: bool = True,
) -> Iterator[Fronted]:
    """Serve ``models`` (name: variables of the stand-in), each of which needs one byte."""
    clock, lines = Clock(), list[str]()
    pooled = [
        PooledModel(
            name,
            (sys.executable, str(STANDIN), str(make_folder(root / name, f"I am {name}."))),
            1,
            {"LLAMA_HUB_DEPLOYMENT": str(root), **environment},
        )
        for name, environment in models.items()
    ]
    pool = ModelPool(
        pooled,
        memory=memory,
        idle=idle,
        patience=patience,
        secret=SECRET,
        log=lambda name, line: lines.append(f"{name}: {line}") if "/health" not in line else None,
        clock=clock,
    )
    facts = [
        ModelFacts(
            ServedModel(name, "llama-hub-demo", "Demo licence", "Shown to all.", chat=True),
            EngineInfo("torch", "cpu", "float32", None, 128, 300, 4),
        )
        for name in models
    ]
    front = ModelFront(pool, facts, settings or ServiceSettings())
    bound = bind("127.0.0.1", 0)
    ready, server = threading.Event(), make_server(create_front(front))

    async def main() -> None:
        serve = asyncio.create_task(server.serve(sockets=[bound]))
        if wait:
            await front.started.wait()
        ready.set()
        await serve

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        with httpx.Client(trust_env=False, timeout=30) as client:
            yield Fronted(url_of(bound), front, clock, client, lines)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the front did not stop"
