"""Shares of the engine: what one client asks for keeps no other client out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_hub.inference.shares import Shares
from tests.inference.test_scheduling import CONTEXT, Bench, expected
from tests.support.tiers import examples

LONG = [1, *[7] * 90]


def steps_until_first_token(bench: Bench, name: str) -> int:
    """How many steps ``name`` waits for its first token."""
    for number in range(1, 2000):
        bench.step()
        if bench.answer(name):
            return number
    raise AssertionError(f"{name} never had its turn")


@pytest.mark.parametrize("pages", [8, 16, 64])
@pytest.mark.parametrize("owner", ["another client", "another call of the same client"])
def test_a_newcomer_has_its_turn_at_once(owner: str, pages: int) -> None:
    """Places, pages and the step's tokens: all of them were one caller's."""
    bench = Bench(pages=pages, max_batch=4, budget=16)
    for number in range(60):
        bench.submit(f"{number}", [1, number % 30, *LONG], 20, client="many", call="greedy")
    for _ in range(40):
        bench.step()
    client = "many" if owner == "another call of the same client" else "few"
    bench.submit("newcomer", [1, 3], 3, client=client, call="small")
    assert steps_until_first_token(bench, "newcomer") <= 2
    while not bench.deltas("newcomer")[-1].finish_reason:
        bench.step()
    assert bench.answer("newcomer") == expected([1, 3], 3)


def test_an_answer_under_way_gives_way_and_is_whole_in_the_end() -> None:
    bench = Bench(pages=8, max_batch=2, budget=64)
    for name in ("first", "second"):
        bench.submit(name, [1, 5, len(name)], 40, client="many")
    for _ in range(5):
        bench.step()
    bench.submit("other", [1, 4], 40, client="few")
    bench.step()
    assert {each.request.id for each in bench.scheduler.running} == {"first", "other"}
    bench.finish()
    for name in ("first", "second"):
        assert bench.answer(name) == expected([1, 5, len(name)], 40)
    assert bench.scheduler.counters.preemptions == 1


def test_nobody_gives_way_where_it_would_not_be_enough() -> None:
    """Eight pages: the two small ones together do not make room for the newcomer's seven."""
    bench = Bench(pages=8, max_batch=4, budget=200)
    bench.submit("large", [6] * 40, 60, client="third")
    for name in ("a", "b"):
        bench.submit(name, [1, 5], 60, client="many")
    for _ in range(3):
        bench.step()
    bench.submit("newcomer", [1] * 100, 1, client="few")
    bench.step()
    assert bench.scheduler.counters.preemptions == 0
    bench.finish()
    assert bench.answer("newcomer") == expected([1] * 100, 1)


def test_equals_are_served_as_they_came() -> None:
    bench = Bench(pages=64, max_batch=1, budget=64)
    names = [f"{number}" for number in range(6)]
    for name in names:
        bench.submit(name, [1, 6, int(name)], 4, client=f"client {name}", call=name)
    bench.finish()
    assert list(dict.fromkeys(name for name, _ in bench.events)) == names
    assert bench.scheduler.counters.preemptions == 0


def test_a_long_prompt_of_each_client_comes_before_the_second_of_any() -> None:
    bench = Bench(pages=64, max_batch=8, budget=16)
    for number in range(4):
        bench.submit(f"many {number}", [number, *LONG], 2, client="many", call=f"{number}")
    bench.submit("few", [9, *LONG], 2, client="few")
    bench.finish()
    ended = list(dict.fromkeys(name for name, _ in bench.events))
    assert ended[:2] == ["many 0", "few"]


def test_a_prompt_that_is_read_again_is_scored_once() -> None:
    bench = Bench(pages=8, max_batch=2, budget=8)
    bench.submit("first", [1, 5], 60, client="many")
    bench.submit("scored", [1] * 50, 1, client="many", prompt_logprobs=0)
    for _ in range(3):
        bench.step()
    bench.submit("other", [1, 4], 2, client="few")
    bench.step()
    assert bench.scheduler.counters.preemptions == 1
    bench.finish()
    scores = bench.deltas("scored")[0].prompt_logprobs
    assert scores is not None
    assert [each and each.token for each in scores] == [None, *[1] * 49]


jobs = st.tuples(
    st.integers(1, CONTEXT - 1),  # of the prompt
    st.integers(0, 60),  # asked for
    st.sampled_from("abc"),
    st.sampled_from("xy"),
)


@settings(max_examples=examples(20, 300), deadline=None)
@given(
    st.lists(jobs, min_size=1, max_size=12),
    st.integers(8, 20),
    st.integers(1, 5),
    st.integers(1, 70),
    st.booleans(),
    st.data(),
)
def test_any_clients_get_their_own_answers_and_nobody_is_pushed_to_and_fro(
    work: list[tuple[int, int, str, str]],
    pages: int,
    max_batch: int,
    budget: int,
    prefix_caching: bool,
    data: st.DataObject,
) -> None:
    bench = Bench(pages=pages, max_batch=max_batch, budget=budget, prefix_caching=prefix_caching)
    prompts = []
    for number, (length, max_tokens, client, call) in enumerate(work):
        prompts.append(([number % 7] * 40 + [9] * CONTEXT)[:length])
        bench.submit(f"{number}", prompts[-1], max_tokens, client=client, call=call)
        for _ in range(data.draw(st.integers(0, 4))):
            bench.step()
    bench.finish()
    for number, (_, max_tokens, _, _) in enumerate(work):
        assert bench.answer(f"{number}") == expected(prompts[number], max_tokens)
    # Each arrival makes fewer than max_batch give way, and so does each page that an answer grows
    # by; what is pushed back and forth would exceed any such bound.
    grown = sum(max_tokens // 16 + 1 for _, max_tokens, _, _ in work)
    assert bench.scheduler.counters.preemptions <= max_batch * (len(work) + grown)
    assert bench.pool.free == pages


class Held:
    """A sequence with nothing but its owner."""

    def __init__(self, client: str, call: str = "", arrival: int = 0) -> None:
        self.client, self.call, self.arrival = client, call, arrival


@given(st.lists(st.builds(Held, st.sampled_from("abc"), st.sampled_from("xy")), min_size=1))
def test_who_gave_way_has_no_claim_to_push_back(running: list[Held]) -> None:
    """After any exchange that is allowed, the way back is not."""
    shares = Shares()
    for each in running:
        shares.arrive(each)
        shares.take(each)
    for rich in running:
        for poor in (Held(client, call) for client in "abcd" for call in "xyz"):
            if shares.yields(rich, poor):
                after = shares.copy()
                after.give_back(rich)
                after.take(poor)
                assert not after.yields(poor, rich)


def test_a_client_that_comes_back_has_neither_debt_nor_savings() -> None:
    shares = Shares()
    old, new = Held("old", arrival=1), Held("new", arrival=2)
    shares.arrive(old)
    shares.serve(old, 1000)
    shares.arrive(new)
    assert shares.turn(old) < shares.turn(new)  # both at 1000: who came first
    shares.serve(new, 5)
    shares.leave(new)
    shares.leave(old)
    shares.arrive(new)
    shares.arrive(old)
    assert shares.turn(old) < shares.turn(new)
