"""Whether an optional package is installed, without the seconds that importing it takes.

Every worker imports every test module; only those that run the tests pay for the package.
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest


def needs(name: str, extra: str) -> None:
    """Skip the whole module (or folder, in a conftest) where ``name`` is not installed."""
    try:
        found = find_spec(name)
    except ModuleNotFoundError:  # not even the package around it
        found = None
    if found is None:
        pytest.skip(f"{name} is not installed (the extra {extra})", allow_module_level=True)
