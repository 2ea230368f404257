"""Packages that are imported when a test uses them: each worker imports every test module."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Lazy:
    """A module by its name; its attributes import it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self._name), name)


transformers = Lazy("transformers")
