"""When to ask again, in every form in which servers say it."""

from __future__ import annotations

import pytest

from llama_hub.retry_after import seconds

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": " 0 "}, 0.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "Tue, 14 Nov 2023 22:14:20 GMT"}, 60.0),
        ({"Retry-After": "Tue, 14 Nov 2023 22:12:20 GMT"}, 0.0),
        ({"x-ms-retry-after-ms": "1500", "Retry-After": "2"}, 1.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"RateLimit": '"api";r=0;t=240'}, 240.0),
        ({"ratelimit": '"api";r=12;t=240'}, None),  # the window is not used up
        ({"RateLimit": "limit=500, remaining=0, reset=55"}, 55.0),
        ({"RateLimit": '"api";r=0;t=240', "Retry-After": "3"}, 3.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "9" * 400}, None),
        ({"Retry-After": "٣"}, None),
        ({"RateLimit": "r=0;t=" + "9" * 400}, None),
        ({"Retry-After": "Tue, 99 Nov 2023 99:99:99 GMT"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": ""}, None),
        ({}, None),
    ],
)
def test_every_form(headers: dict[str, str], found: float | None) -> None:
    assert seconds(headers, NOW) == found
