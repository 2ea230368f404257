"""Two sizes of every family of cases: a representative in each run, all of it before a release.

``pytest -m exhaustive`` runs the families whole: every seed, every example that a property test
asks for. The README's command runs the first of each.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

FLAG = "LLAMA_HUB_TESTS_EXHAUSTIVE"  # set by conftest.py before any test module is imported


def exhaustive() -> bool:
    """Whether this run is the one with every case."""
    return os.environ.get(FLAG) == "1"


def examples(everyday: int, all: int) -> int:
    """How many examples a property test draws: ``@settings(max_examples=examples(5, 100))``."""
    return all if exhaustive() else everyday


def family(cases: Any, everyday: int) -> list[Any]:
    """Parameters of which the first ``everyday`` run each time, the rest with ``-m exhaustive``."""
    marked: list[Any] = []
    for number, case in enumerate(cases):
        values = case if isinstance(case, tuple) else (case,)
        rest = () if number < everyday else (pytest.mark.exhaustive,)
        marked.append(pytest.param(*values, marks=rest))
    return marked
