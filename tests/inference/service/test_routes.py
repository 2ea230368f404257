"""One table of routes: what is routed, guarded and described is the same."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from llama_hub.inference.service.route import Route
from llama_hub.inference.service.routes import ROUTES
from llama_hub.inference.service.settings import ServiceSettings
from tests.support.serving import Running, serving


@pytest.fixture(scope="module")
def guarded() -> Iterator[Running]:
    with serving(settings=ServiceSettings(api_key="k")) as running:
        yield running


def asked(running: Running, route: Route, **headers: str) -> httpx.Response:
    path = route.path.replace("{name:path}", "echo-model")
    url = running.url + path
    return httpx.request(route.method, url, headers=headers, trust_env=False, timeout=30)


def test_each_route_stands_once() -> None:
    keys = [(route.method, route.path) for route in ROUTES]
    assert len(keys) == len(set(keys))
    fields = [route.field for route in ROUTES if route.field]
    assert len(fields) == len(set(fields))


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_each_route_is_reached_and_guarded_as_the_table_says(
    guarded: Running, route: Route
) -> None:
    without = asked(guarded, route)
    assert (without.status_code == 401) is not route.open
    known = asked(guarded, route, Authorization="Bearer k")
    # An empty body is refused by the route itself, in its own shape.
    assert known.status_code == (
        200 if not route.bodies else 422 if route.shape == "huggingface" else 400
    )
    if route.summary and route.answers and not route.bodies:
        assert known.headers["content-type"].startswith(route.answers)


def test_the_description_is_of_the_table(guarded: Running) -> None:
    document = httpx.get(f"{guarded.url}/openapi.json", trust_env=False).json()
    described = {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    documented = {(route.method, route.path): route for route in ROUTES if route.summary}
    assert described.keys() == documented.keys()
    for key, operation in described.items():
        assert ("requestBody" in operation) is bool(documented[key].bodies)
        assert (operation.get("security") == []) is documented[key].open


def test_what_is_not_in_the_table_needs_the_key_too(guarded: Running) -> None:
    for path in ("/nowhere", "/v1/embeddings", "/health/", "//health", "/page/../manifest"):
        assert httpx.get(guarded.url + path, trust_env=False).status_code == 401, path
