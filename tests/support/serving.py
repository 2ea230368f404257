"""A served application on a loopback port, in a thread of this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import uvicorn

from llama_hub.inference.engine import Engine
from llama_hub.inference.service.app import create_app
from llama_hub.inference.service.server import bind, make_server, url_of
from llama_hub.inference.service.settings import ServedModel, ServiceSettings
from llama_hub.inference.service.state import Service
from llama_hub.inference.tokenizer import Tokenizer
from tests.support.echo_engine import EchoEngine

DEMO = Path(str(files("llama_hub.hub.sources.demo")))
SERVED = ServedModel("echo-model", "llama-hub-demo", "Demo licence", "Shown to all.", chat=True)


def demo_tokenizer() -> Tokenizer:
    """The built-in demo model's tokenizer."""
    return Tokenizer(DEMO / "tokenizer.model")


def echo_engine(**options: Any) -> EchoEngine:
    """An echo engine over the demo's vocabulary."""
    return EchoEngine(vocab_size=demo_tokenizer().vocab_size, **options)


@dataclass(frozen=True)
class Running:
    """A server that listens."""

    url: str
    service: Service
    loop: asyncio.AbstractEventLoop
    engine: Any
    connections: Any  # those of the server


@contextmanager
def serving(
    engine: Engine | None = None,
    settings: ServiceSettings | None = None,
    *,
    served: ServedModel = SERVED,
    tokenizer: Tokenizer | None = None,
    wait: bool = True,
) -> Iterator[Running]:
    """Serve ``engine`` (default: an echo engine) until the block ends; ``wait`` for it to load."""
    engine = engine or echo_engine()
    bound = bind("127.0.0.1", 0)
    ready = threading.Event()
    running: list[Running] = []
    servers: list[uvicorn.Server] = []
    failures: list[BaseException] = []

    async def main() -> None:
        app = create_app(
            engine, tokenizer or demo_tokenizer(), served, settings or ServiceSettings()
        )
        server = make_server(app)
        servers.append(server)
        running.append(
            Running(
                url_of(bound),
                app.state.service,
                asyncio.get_running_loop(),
                engine,
                server.config.http,
            )
        )
        serve = asyncio.create_task(server.serve(sockets=[bound]))
        if wait:
            await asyncio.wait(
                {serve, asyncio.create_task(app.state.service.started.wait())},
                return_when=asyncio.FIRST_COMPLETED,
            )
        ready.set()
        await serve

    def body() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failures.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        if failures:
            raise failures[0]
        yield running[0]
    finally:
        for server in servers:
            server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server did not stop"
    if failures:
        raise failures[0]
