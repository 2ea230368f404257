"""Bodies of today's clients, as they came over the wire: each is answered, none is refused.

``recorded_bodies.json``: with ``how`` "recorded" what the named version of a client sent to a
listener on loopback in its default settings; else written after the client's source.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llama_hub.inference.service.routes import ROUTES
from tests.support.serving import Running, echo_engine, serving

RECORDED: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("recorded_bodies.json").read_text()
)
SERVED = {route.path for route in ROUTES if route.method == "POST"}


@pytest.fixture(scope="module")
def roomy() -> Iterator[Running]:
    with serving(echo_engine(context=2048)) as found:
        yield found


def test_there_are_enough_clients() -> None:
    assert len({each["client"].split()[0] for each in RECORDED}) >= 15


@pytest.mark.parametrize(
    "recorded",
    [each for each in RECORDED if each["path"] in SERVED],
    ids=lambda each: f"{each['client']} {each['path']}",
)
def test_a_recorded_body_is_answered(roomy: Running, recorded: dict[str, Any]) -> None:
    body = {"max_tokens": 8} | recorded["body"]
    answer = httpx.post(roomy.url + recorded["path"], json=body, trust_env=False, timeout=60)
    assert answer.status_code == 200, answer.text
