"""What is made once for a run of the tests, whichever of pytest-xdist's workers needs it first."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llama_hub.files import private_lock


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this run see."""
    base = factory.getbasetemp()
    return base.parent if base.name.startswith("popen-") else base


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Path]) -> Path:
    """The path that ``make`` returned for the empty folder ``name``; the others wait for it."""
    folder, made = shared_folder(factory) / name, shared_folder(factory) / f"{name}.path"
    with private_lock(folder.with_suffix(".lock")):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of another worker's failure
            folder.mkdir()
            made.write_text(str(make(folder)))
    return Path(made.read_text())
