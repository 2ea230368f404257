"""One echo server for the tests that do not change it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.support.serving import Running, serving


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving() as found:
        yield found


@pytest.fixture
def client(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=30, trust_env=False) as found:
        yield found
