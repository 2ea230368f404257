"""A package that is called as a function: ``llama_hub.deploy`` is both, and keeps both names."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any


class CallablePackage(ModuleType):
    """The class of a package whose namesake stands in ``llama_hub.api``."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function of the public API that has the package's name."""
        name = self.__name__.rpartition(".")[2]
        return getattr(import_module("llama_hub.api"), name)(*args, **kwargs)
