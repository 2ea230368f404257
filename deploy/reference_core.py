"""The inference core in this process, behind its own service: what every backend must equal."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_hub.deploy.backend import Endpoint
from llama_hub.deploy.client import CHAT, get, post
from llama_hub.deploy.waiting import wait_for
from llama_hub.errors import LlamaHubError, TransientError

if TYPE_CHECKING:
    from llama_hub.inference.config import EngineOptions

START = 600.0  # seconds
_cores: dict[Path, Endpoint] = {}  # by folder
_starting = threading.Lock()


def answer(
    folder: Path, body: Mapping[str, Any], stream: bool, options: EngineOptions | None = None
) -> Iterator[bytes]:
    """The answer of the core that serves ``folder``; it is loaded once per process.

    ``options``: of the engine, at the first call; none: a CPU and a small batch.
    """
    with _starting:
        core = _cores.get(folder) or _cores.setdefault(folder, _core(folder, options))
    return post(core, CHAT, {**body, "stream": stream})


def _core(folder: Path, options: EngineOptions | None) -> Endpoint:
    """Start the service on a loopback port, in a thread that ends with the process."""
    import uvicorn

    from llama_hub.hub.catalog import load
    from llama_hub.inference.config import EngineOptions
    from llama_hub.inference.service.app import create_app
    from llama_hub.inference.service.served_model import mounted
    from llama_hub.inference.service.server import bind, url_of
    from llama_hub.inference.service.settings import ServiceSettings
    from llama_hub.inference.tokenizer import tokenizer_of
    from llama_hub.inference.torch_engine import TorchEngine

    what = mounted(folder, load())
    app = create_app(
        TorchEngine(folder, options or EngineOptions(device="cpu", max_batch=4)),
        tokenizer_of(folder),
        what.served,
        ServiceSettings(),
    )
    bound = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, ws="none"))
    threading.Thread(target=server.run, args=([bound],), daemon=True).start()
    endpoint = Endpoint(url_of(bound))
    wait_for(lambda: _ready(endpoint), "the inference core", timeout=START, every=0.1)
    return endpoint


def _ready(endpoint: Endpoint) -> bool | None:
    try:
        get(endpoint, "/health")
        return True
    except LlamaHubError as error:
        raise TransientError(error.message) from error
