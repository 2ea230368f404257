"""Clients of one service, told apart by their addresses: none keeps the others out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from llama_hub.inference.service import body, parse_queue
from llama_hub.inference.service.client import CLIENT, client_of
from llama_hub.inference.service.limits import SPARE, Admission, Pacer
from llama_hub.inference.service.problems import Problem
from tests.support.serving import echo_engine, serving


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("testclient", ""),
        ("203.0.113.7\n", ""),
        ("", ""),
    ],
)
def test_a_client_is_an_address_or_a_subscribers_network(address: str, client: str) -> None:
    assert client_of({"client": (address, 1)}) == client


@pytest.mark.parametrize("scope", [{}, {"client": None}])
def test_a_connection_without_an_address_is_nobodys(scope: dict[str, None]) -> None:
    assert client_of(scope) == ""


@contextmanager
def asked_by(client: str) -> Iterator[None]:
    token = CLIENT.set(client)
    try:
        yield
    finally:
        CLIENT.reset(token)


def fill(admission: Admission, held: ExitStack, client: str) -> int:
    """How many sequences ``client`` gets in, one by one, until it is told to come again."""
    before = admission.sequences

    def more() -> None:
        for _ in range(10_000):
            held.enter_context(admission.admit(1))

    with asked_by(client), pytest.raises(Problem) as refused:
        more()
    assert refused.value.status == 429
    assert int(refused.value.headers["Retry-After"]) > 0
    return admission.sequences - before


def test_the_last_places_are_for_others() -> None:
    async def check() -> None:
        admission = Admission(lambda: 16, 256, lambda: 1.0)
        with ExitStack() as held:
            assert fill(admission, held, "many") == 272 - 272 // SPARE
            with asked_by("few"):
                held.enter_context(admission.admit(4))
            assert fill(admission, held, "others") == 272 // SPARE - 4
        with ExitStack() as held:  # all are free again, and nothing of anybody is remembered
            assert fill(admission, held, "few") == 272 - 272 // SPARE

    asyncio.run(check())


def test_half_of_the_places_is_nobodys_excess() -> None:
    async def check() -> None:
        admission = Admission(lambda: 4, 12, lambda: 1.0)
        with ExitStack() as held, asked_by("half"):
            held.enter_context(admission.admit(8))
            with asked_by("other half"):
                held.enter_context(admission.admit(8))

    asyncio.run(check())


def test_the_engine_learns_who_asks_and_in_which_call() -> None:
    engine = echo_engine()
    with serving(engine) as running:
        for address in ("203.0.113.7", "198.51.100.1"):
            answer = httpx.post(
                f"{running.url}/v1/completions",
                json={"prompt": "one", "max_tokens": 1, "n": 2},
                headers={"X-Forwarded-For": address},
            )
            assert answer.status_code == 200
    assert [each.client for each in engine.seen] == ["203.0.113.7"] * 2 + ["198.51.100.1"] * 2
    calls = [each.call for each in engine.seen]
    assert (calls[0], calls[2]) == (calls[1], calls[3])
    assert calls[0] != calls[2]


def test_a_crowd_of_one_client_does_not_stand_before_another_client() -> None:
    async def check() -> None:
        pacer, passed = Pacer(), []

        async def ask(client: str) -> None:
            CLIENT.set(client)
            await pacer.next_round()
            passed.append(client)

        crowd = [asyncio.create_task(ask("many")) for _ in range(40)]
        await asyncio.sleep(0)
        await asyncio.gather(*crowd, asyncio.create_task(ask("few")))
        assert passed.index("few") <= 2
        assert len(passed) == 41

    asyncio.run(check())


def fill_bodies(bodies: body.Bodies, held: ExitStack, client: str) -> int:
    """How many bytes ``client`` may send before it is told to come again."""
    before = bodies.held

    def more() -> None:
        for _ in range(2 * body.AT_ONCE):
            one = held.enter_context(bodies.room())
            for _ in range(bodies.max_bytes):
                one.add(b" ")

    with asked_by(client), pytest.raises(Problem) as refused:
        more()
    assert refused.value.status == 429
    return bodies.held - before


def test_bodies_that_never_end_leave_room_for_another_clients() -> None:
    bodies = body.Bodies(100)
    limit = body.AT_ONCE * 100
    with ExitStack() as held:
        assert fill_bodies(bodies, held, "many") == limit - limit // body.SPARE
        assert fill_bodies(bodies, held, "few") == limit // body.SPARE
    with ExitStack() as held:  # all is free again, and nothing of anybody is remembered
        assert fill_bodies(bodies, held, "few") == limit - limit // body.SPARE
    assert bodies.held == 0
    bodies.close()


def test_large_bodies_of_one_client_do_not_stand_before_another_clients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parse_queue, "EACH", 1.0)  # however slowly they come in

    async def check() -> None:
        bodies, parsed = body.Bodies(1000), []

        async def parse(client: str) -> None:
            CLIENT.set(client)
            await bodies.parse(b"{}")
            parsed.append(client)

        tasks = [asyncio.create_task(parse("many")) for _ in range(20)]
        await asyncio.sleep(0)  # all of them stand there before the other comes
        await asyncio.gather(*tasks, asyncio.create_task(parse("few")))
        bodies.close()
        assert parsed.index("few") <= 2
        assert len(parsed) == 21

    asyncio.run(check())
