"""Folders with small models, and engines that are started and shut down."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from llama_hub.inference.config import EngineOptions
from llama_hub.inference.native.library import library
from llama_hub.inference.torch_engine import TorchEngine
from tests.support.hf_models import CALM, GROUPED, ODD, PLAIN, Shape, save

Serving = Callable[..., AbstractAsyncContextManager[TorchEngine]]

SHAPES = {"plain": PLAIN, "grouped": GROUPED, "odd": ODD, "calm": CALM}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``model(shape, dtype)``: the folder of a small model, written once."""
    made: dict[tuple[Shape, torch.dtype], Path] = {}

    def get(shape: str = "plain", dtype: torch.dtype = torch.float32) -> Path:
        key = (SHAPES[shape], dtype)
        if key not in made:
            made[key] = save(tmp_path_factory.mktemp(shape), *key)
        return made[key]

    return get


@pytest.fixture
def kernels(kernels_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our kernels, or a skipped test where there is no C compiler."""
    monkeypatch.setenv("LLAMA_HUB_HOME", str(kernels_home))  # for the processes that it starts
    library.cache_clear()
    if library() is None:
        pytest.skip("no C compiler")


@pytest.fixture(params=["kernels", "torch"])
def path(request: pytest.FixtureRequest) -> str:
    """Both ways to compute on a CPU, as ``EngineOptions.kernels``."""
    if request.param == "torch":
        return "off"
    request.getfixturevalue("kernels")
    return "on"


@pytest.fixture
def serving() -> Serving:
    """``async with serving(folder, **options) as engine``: started, and shut down in the end."""

    @asynccontextmanager
    async def serve(folder: Path, **options: Any) -> AsyncIterator[TorchEngine]:
        engine = TorchEngine(folder, EngineOptions(**{"threads": 1, **options}))
        await engine.start()
        try:
            yield engine
        finally:
            await engine.shutdown()

    return serve
