"""Queue, pages, chunks and preemption, with a model that is a page table and a checksum.

The stand-in stores tokens where keys and values would go and answers with a
checksum of the context that it finds there: a page that is shared wrongly,
freed early or not computed changes an answer. It cannot show anything about
numbers; ``test_invariance`` does that on real models.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Sequence as Rows
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llama_hub.inference.batch import Piece
from llama_hub.inference.config import PAGE
from llama_hub.inference.engine import Delta, GenerationRequest, SamplingParams
from llama_hub.inference.kv_cache import PagePool, page_names
from llama_hub.inference.scheduler import Scheduler, Sequence
from llama_hub.inference.worker import Event, Worker, _stacked
from tests.support.tiers import examples

VOCABULARY = 40
CONTEXT = 128
EOS = 2


def next_token(context: Rows[int]) -> int:
    """What the stand-in says after ``context``; sometimes the end."""
    return zlib.crc32(array("i", context).tobytes()) % VOCABULARY


def expected(prompt: Rows[int], max_tokens: int) -> list[int]:
    """The answer without any machinery."""
    tokens = list(prompt)
    while len(tokens) - len(prompt) < max_tokens and len(tokens) < CONTEXT:
        token = next_token(tokens)
        if token == EOS:
            break
        tokens.append(token)
    return tokens[len(prompt) :]


class Checksums:
    """The stand-in; ``budget``: tokens that a step may have."""

    def __init__(self, pages: int, budget: int) -> None:
        self._slots = [-1] * (pages * PAGE)
        self._budget = budget
        self.computed = 0

    def run(self, pieces: Rows[Piece]) -> Tensor:
        count = sum(len(piece.tokens) for piece in pieces)
        assert 0 < count <= self._budget
        self.computed += count
        rows: list[int] = []
        for piece in pieces:
            for offset, token in enumerate(piece.tokens):
                self._slots[self._slot(piece, piece.start + offset)] = token
        for piece in pieces:
            end = piece.start + len(piece.tokens)
            context = [self._slots[self._slot(piece, position)] for position in range(end)]
            rows += [next_token(context[: end - back]) for back in reversed(range(piece.wanted))]
        logits = torch.zeros(len(rows), VOCABULARY)
        logits[range(len(rows)), rows] = 1.0
        return logits

    def device_scope(self) -> AbstractContextManager[object]:
        return nullcontext()

    def close(self) -> None:
        pass

    @staticmethod
    def _slot(piece: Piece, position: int) -> int:
        return piece.pages[position // PAGE] * PAGE + position % PAGE


class Bench:
    """A worker that is driven step by step, without its thread."""

    def __init__(
        self, *, pages: int = 8, max_batch: int = 4, budget: int = 20, prefix_caching: bool = True
    ) -> None:
        self.pool = PagePool(pages)
        self.scheduler = Scheduler(
            self.pool, max_batch=max_batch, step_tokens=budget, prefix_caching=prefix_caching
        )
        self.model = Checksums(pages, budget)
        self.events: list[Event] = []
        self.worker = Worker(
            self.model, self.scheduler, self.events.extend, ends=frozenset({EOS}), context=CONTEXT
        )

    def submit(
        self,
        name: str,
        prompt: Rows[int],
        max_tokens: int,
        *,
        client: str = "",
        call: str = "",
        **sampling: object,
    ) -> None:
        params = SamplingParams(max_tokens=max_tokens, temperature=0, **sampling)  # type: ignore[arg-type]
        request = GenerationRequest(name, tuple(prompt), params, client=client, call=call)
        self.worker.submit(Sequence(request))

    def step(self) -> None:
        self.worker.receive(wait=False)
        self.worker.step()

    def finish(self) -> None:
        for _ in range(10_000):
            self.step()
            if not self.scheduler.all():
                return
        raise AssertionError("the requests never finish")

    def deltas(self, name: str) -> list[Delta]:
        return [each for owner, each in self.events if owner == name and isinstance(each, Delta)]

    def answer(self, name: str) -> list[int]:
        return [token for delta in self.deltas(name) for token in delta.tokens]


# Few different tokens and lengths, so that beginnings are often equal.
beginnings = st.sampled_from([[1] * 16, [1] * 33, [3, 4] * 20, [5]])
prompts = st.builds(
    lambda head, tail: (head + tail)[: CONTEXT - 1],
    beginnings,
    st.lists(st.integers(3, 6), max_size=40),
)
jobs = st.tuples(prompts, st.integers(0, 60))


@settings(max_examples=examples(20, 300), deadline=None)
@given(
    st.lists(jobs, min_size=1, max_size=8),
    st.integers(8, 20),
    st.integers(1, 5),
    st.integers(1, 70),
    st.booleans(),
    st.data(),
)
def test_every_request_gets_its_own_answer(
    work: list[tuple[list[int], int]],
    pages: int,
    max_batch: int,
    budget: int,
    prefix_caching: bool,
    data: st.DataObject,
) -> None:
    """Any load, any cache that holds one context, any arrival times, some requests aborted."""
    bench = Bench(pages=pages, max_batch=max_batch, budget=budget, prefix_caching=prefix_caching)
    aborted = set()
    for number, (prompt, max_tokens) in enumerate(work):
        bench.submit(f"{number}", prompt, max_tokens)
        for _ in range(data.draw(st.integers(0, 4))):
            bench.step()
            assert len(bench.scheduler.running) <= max_batch
        if data.draw(st.booleans()) and data.draw(st.booleans()):
            bench.worker.abort(f"{number}")
            aborted.add(f"{number}")
    bench.finish()
    for number, (prompt, max_tokens) in enumerate(work):
        whole = expected(prompt, max_tokens)
        if f"{number}" in aborted:
            assert whole[: len(bench.answer(f"{number}"))] == bench.answer(f"{number}")
        else:
            assert bench.answer(f"{number}") == whole
            assert bench.deltas(f"{number}")[-1].finish_reason is not None
    assert bench.pool.free == pages
    assert bench.pool.usage == 0


def test_a_long_prompt_does_not_hold_up_an_answer() -> None:
    bench = Bench(pages=16, budget=8)
    bench.submit("short", [1, 3], 30)
    bench.step()
    bench.submit("long", [1, *[7] * 100], 1)
    before = len(bench.answer("short"))
    for _ in range(6):
        bench.step()
    assert len(bench.answer("short")) == before + 6
    assert bench.answer("long") == []


def test_equal_beginnings_are_computed_once() -> None:
    bench = Bench(pages=16, budget=200, max_batch=2)
    head = [1, *range(3, 39)]  # 37 tokens: two full pages
    bench.submit("first", head, 1)
    bench.finish()
    alone = bench.model.computed
    bench.submit("second", [*head[:32], 9, 9], 1)
    bench.finish()
    assert bench.model.computed - alone == 2
    assert bench.deltas("second")[0].cached_tokens == 32
    assert bench.scheduler.counters.prefix_hits == 32


def test_a_prompt_that_is_cached_whole_still_computes_its_last_token() -> None:
    bench = Bench(pages=16, budget=200)
    prompt = [1] * 32
    for name in ("first", "second"):
        bench.submit(name, prompt, 3)
        bench.finish()
    assert bench.deltas("second")[0].cached_tokens == 16
    assert bench.answer("second") == expected(prompt, 3)


def test_prompt_logprobs_read_the_whole_prompt_again() -> None:
    bench = Bench(pages=16, budget=10)
    prompt = [1] * 37
    bench.submit("first", prompt, 1)
    bench.finish()
    bench.submit("second", prompt, 1, prompt_logprobs=0)
    bench.finish()
    scores = bench.deltas("second")[0].prompt_logprobs
    assert scores is not None
    assert [each and each.token for each in scores] == [None, *prompt[1:]]


def test_the_oldest_unused_pages_make_room_first() -> None:
    bench = Bench(pages=8, budget=200)
    bench.submit("old", [3] * 40, 1)
    bench.finish()
    bench.submit("new", [4] * 40, 1)
    bench.finish()
    bench.submit("big", [5] * 90, 1)  # six pages: the four blank ones, then the old's
    bench.finish()
    assert len(bench.pool.find(page_names([4] * 32))) == 2
    assert len(bench.pool.find(page_names([3] * 32))) < 2


@given(st.lists(st.integers(0, 5), max_size=70), st.lists(st.integers(0, 5), max_size=70))
def test_page_names_are_equal_exactly_for_equal_beginnings(a: list[int], b: list[int]) -> None:
    first, second = page_names(a), page_names(b)
    for count in range(1, min(len(first), len(second)) + 1):
        same = a[: count * PAGE] == b[: count * PAGE]
        assert (first[count - 1] == second[count - 1]) == same


def test_a_failing_model_tells_every_reader() -> None:
    bench = Bench()

    def fail(pieces: Rows[Piece]) -> Tensor:
        raise ArithmeticError("a broken device")

    bench.model.run = fail  # type: ignore[method-assign]
    bench.submit("a", [1], 3)
    bench.submit("b", [1], 3)
    bench.worker.start()
    bench.worker.join()
    assert [(name, type(event)) for name, event in bench.events] == [
        ("a", ArithmeticError),
        ("b", ArithmeticError),
    ]
    assert isinstance(bench.worker.failure, ArithmeticError)


@pytest.mark.parametrize(
    ("picked", "copied"),
    [([0, 1, 2], False), ([1, 2, 3], False), ([2], False), ([0, 2], True), ([1, 0], True)],
)
def test_rows_that_lie_together_are_not_copied(picked: list[int], copied: bool) -> None:
    logits = torch.randn(4, 50)
    parts = torch.split(logits, [1, 1, 1, 1])
    found = _stacked([parts[index] for index in picked])
    assert torch.equal(found, logits[picked])
    assert (found.untyped_storage().data_ptr() != logits.untyped_storage().data_ptr()) == copied


def test_rows_of_two_computations_are_put_together() -> None:
    rows = [torch.randn(2, 50)[-1:], torch.randn(1, 50)]
    assert torch.equal(_stacked(rows), torch.cat(rows))
