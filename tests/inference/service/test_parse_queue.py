"""Whose body is parsed next."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from llama_hub.inference.service import parse_queue
from llama_hub.inference.service.parse_queue import REST, SMALL, ParseQueue

LARGE = 6 << 20
Turn = Callable[[str, int], Awaitable[None]]


def run(check: Callable[[list[str], Turn], Awaitable[None]]) -> None:
    """``check`` gets the names whose turn it was so far, and what waits for one turn."""

    async def main() -> None:
        queue, order = ParseQueue(), list[str]()

        async def turn(client: str, size: int) -> None:
            async with queue.turn(client, size):
                order.append(client)
                await asyncio.sleep(0.001)

        async with asyncio.timeout(20):
            await check(order, turn)

    asyncio.run(main())


async def started(turns: list[Awaitable[None]]) -> list[asyncio.Future[None]]:
    tasks = [asyncio.ensure_future(turn) for turn in turns]
    await asyncio.sleep(0)
    return tasks


def test_a_small_body_passes_the_large_ones_that_wait() -> None:
    async def check(order: list[str], turn: Turn) -> None:
        large = await started([turn("large", LARGE) for _ in range(5)])
        await turn("small", 20_000)
        assert order == ["large", "small"]
        await asyncio.gather(*large)

    run(check)


def test_a_small_body_passes_the_large_ones_of_its_own_client() -> None:
    async def check(order: list[str], turn: Turn) -> None:
        large = await started([turn("me", LARGE) for _ in range(5)])
        await turn("me", 20_000)
        assert len(order) == 2
        await asyncio.gather(*large)

    run(check)


def test_no_large_body_waits_for_ever_behind_small_ones() -> None:
    async def check(order: list[str], turn: Turn) -> None:
        async def keep_asking() -> None:
            while "large" not in order:
                await turn("small", SMALL)

        crowd = await started([keep_asking() for _ in range(3)])
        await turn("large", LARGE)
        await asyncio.gather(*crowd)

    run(check)


@pytest.mark.parametrize("size", [20_000, LARGE])
def test_many_bodies_of_one_client_do_not_stand_before_anothers(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parse_queue, "EACH", 1.0)  # however slowly they come in

    async def check(order: list[str], turn: Turn) -> None:
        many = await started([turn("many", size) for _ in range(20)])
        await turn("few", size)
        assert order.index("few") <= 2
        await asyncio.gather(*many)

    run(check)


def test_large_bodies_are_parsed_with_rests_in_which_small_ones_are_not() -> None:
    async def check(order: list[str], turn: Turn) -> None:
        queue, loop, took = ParseQueue(), asyncio.get_running_loop(), REST / 2

        async def large() -> float:
            async with queue.turn("large", LARGE):
                begun = loop.time()
                await asyncio.sleep(took)
            return begun

        first, second = await started([large(), large()])
        ended = await first + took
        async with queue.turn("small", 10):
            assert not second.done()
        assert await second >= ended + took - 0.002

    run(check)


@pytest.mark.parametrize("seed", range(20))
def test_whoever_leaves_takes_nothing_along(seed: int) -> None:
    draw = random.Random(seed)

    async def check(order: list[str], turn: Turn) -> None:
        tasks = [
            asyncio.ensure_future(turn(draw.choice("ab"), draw.choice([10, SMALL + 1])))
            for _ in range(30)
        ]
        for task in draw.sample(tasks, 20):
            await asyncio.sleep(draw.choice([0, 0, 0.001]))
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await turn("last", LARGE)
        assert order[-1] == "last"
        assert all(task.cancelled() or task.exception() is None for task in tasks)

    run(check)
