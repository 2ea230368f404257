"""What a deployment has cost so far, as ps says it for every cloud."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from llama_hub.cli.deploy import deployed_json
from llama_hub.deploy.backend import TAG_TTL, Deployed
from llama_hub.deploy.status import cost_so_far

MADE = Deployed("x", "memory", "ready", None, None, None, "2026-11-24T08:00:00.1234567Z", 0.5)
NOW = datetime(2026, 11, 25, 8, tzinfo=UTC)


@pytest.mark.parametrize(
    ("deployed", "expected"),
    [
        (MADE, 12.0),
        (replace(MADE, created="2026-11-24T20:00:00+02:00"), 7.0),
        (replace(MADE, created="2026-11-26T08:00:00Z"), 0.0),  # a clock that is ahead
        (replace(MADE, cost_so_far=3.25), 3.25),  # the backend knows it better
        (replace(MADE, created=None), None),
        (replace(MADE, created="yesterday"), None),
        (replace(MADE, cost_per_hour=None), None),
        (replace(MADE, cost_per_hour=0.0), None),  # it sleeps; what it cost before is not known
    ],
)
def test_what_it_has_cost(deployed: Deployed, expected: float | None) -> None:
    assert cost_so_far(deployed, NOW) == (None if expected is None else pytest.approx(expected))


def test_ps_says_what_it_has_cost_and_when_it_ends() -> None:
    shown = deployed_json(replace(MADE, tags={TAG_TTL: "3600"}))
    assert shown["expires"] == "2026-11-24T09:00:00Z"
    assert shown["cost_so_far"] > 0
    assert "expires" not in deployed_json(MADE)
