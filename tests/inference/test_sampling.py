"""Each sampling parameter by what it must and must not allow, and draws by their frequencies."""

from __future__ import annotations

import math
import random
import warnings
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llama_hub.errors import UsageError
from llama_hub.inference.engine import SamplingParams
from llama_hub.inference.sampling import SHORTLIST, Choice, Row, check, choose, logprobs, sample
from tests.support import reference_sampling
from tests.support.launches import Launches
from tests.support.tiers import examples

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])
SHARES = LOGITS.softmax(-1).tolist()


def choice(prompt: tuple[int, ...] = (), **params: Any) -> Choice:
    known = {"temperature": 1.0, "top_p": 1.0, **params}
    return Choice(SamplingParams(**known), Counter(prompt))


def draws(count: int, logits: Tensor = LOGITS, **params: Any) -> Counter[int]:
    row = Row(choice(seed=0, **params))
    return Counter(sample(logits.unsqueeze(0), [row])[0] for _ in range(count))


def test_draws_follow_the_probabilities() -> None:
    found = draws(4000)
    for token, share in enumerate(SHARES):
        assert found[token] / 4000 == pytest.approx(share, abs=4 * math.sqrt(share / 4000))


def test_temperature_sharpens() -> None:
    cold = (LOGITS / 0.5).softmax(-1)
    assert draws(3000, temperature=0.5)[0] / 3000 == pytest.approx(float(cold[0]), abs=0.03)


@pytest.mark.parametrize(
    ("params", "allowed"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_k": 1}, {0}),
        ({"top_p": 0.5}, {0}),  # the first alone has 0.54
        ({"top_p": 0.6}, {0, 1}),
        ({"min_p": 0.3}, {0, 1}),  # 1 has 0.37 of the best's probability, 2 has 0.22
        ({"top_k": 4, "top_p": 0.999}, {0, 1, 2, 3}),
        ({"logit_bias": {5: 100.0}}, {5}),
        ({"logit_bias": {0: -100.0, 1: -100.0}, "top_k": 1}, {2}),
    ],
)
def test_what_may_be_drawn(params: dict[str, Any], allowed: set[int]) -> None:
    assert set(draws(600, **params)) == allowed


@settings(deadline=None, max_examples=examples(20, 200))
@given(
    st.integers(0, 2**32),
    st.sampled_from([0.05, 0.3, 0.9, 0.999]),
    st.sampled_from([0, 1, 5, 600, 5000]),
    st.sampled_from([0.0, 0.01, 0.5]),
)
def test_the_shortlist_changes_nothing(seed: int, top_p: float, top_k: int, min_p: float) -> None:
    """Against sorting the whole vocabulary, on distributions flat and steep."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4 * SHORTLIST, generator=generator) * (seed % 5 + 0.2)
    probabilities, order = logits.softmax(-1).double().sort(descending=True)
    if top_k:
        probabilities[top_k:] = 0
        probabilities /= probabilities.sum()
    keep = probabilities >= min_p * probabilities[0] - 1e-9
    keep &= probabilities.cumsum(-1) - probabilities <= top_p + 1e-6
    keep[0] = True
    params = {"top_p": top_p, "top_k": top_k, "min_p": min_p, "seed": seed}
    allowed = set(order[keep & (probabilities > 0)].tolist())
    assert sample(logits.unsqueeze(0), [Row(choice(**params))])[0] in allowed


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    logits = torch.randn(5, 50, generator=torch.Generator().manual_seed(1))
    params = [{"seed": n, "top_p": 0.9, "temperature": n / 2} for n in range(5)]
    together = sample(logits, [Row(choice(**each)) for each in params])
    alone = [sample(logits[n : n + 1], [Row(choice(**each))])[0] for n, each in enumerate(params)]
    assert together == alone


def mixed_rows(seed: int, size: int, count: int, known: int) -> list[Row]:
    """Rows of every kind of request, the same for the same ``seed``."""
    chance = random.Random(seed)

    def some(*values: Any) -> Any:
        return chance.choice(values)

    rows = []
    for n in range(count):
        made = choice(
            prompt=tuple(chance.randrange(size) for _ in range(known)),
            seed=seed + n,
            temperature=some(0.0, 0.3, 1.0, 1.7),
            top_p=some(0.05, 0.5, 0.9, 0.999, 1.0),
            top_k=some(0, 0, 1, 7, 600, 5000),
            min_p=some(0.0, 0.0, 0.01, 0.5),
            repetition_penalty=some(1.0, 1.3, 0.8),
            presence_penalty=some(0.0, 0.7),
            frequency_penalty=some(0.0, -0.4, 0.9),
            logit_bias=some({}, {3: 5.0, size - 1: -2.5}),
            logprobs=some(None, 0, 3),
        )
        for _ in range(known):
            made.accept(chance.randrange(size))
        mask = torch.rand(size, generator=torch.Generator().manual_seed(seed + n)) < 0.5
        held = some(frozenset(), frozenset({n, 5}))
        rows.append(Row(made, held, some(None, None, mask)))
    return rows


@pytest.mark.parametrize("size", [40, 3 * SHORTLIST])
@settings(deadline=None, max_examples=examples(15, 200))
@given(st.integers(0, 2**32), st.integers(1, 9), st.sampled_from([0.3, 1.0, 4.0]))
def test_rows_together_are_as_one_by_one(size: int, seed: int, count: int, spread: float) -> None:
    """Same seeds, same tokens as the plain sampler, three steps long."""
    ours, theirs = (mixed_rows(seed, size, count, 4) for _ in range(2))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        logits = torch.randn(count, size, generator=generator) * spread
        kept = logits.clone()
        chosen = choose(logits, ours)
        assert torch.equal(logits, kept)
        expected = reference_sampling.sample(logits, theirs)
        assert [each.token for each in chosen] == expected
        for row, other, each in zip(ours, theirs, chosen, strict=True):
            wanted = row.choice.params.logprobs
            assert (each.logprob is None) == (wanted is None)
            if each.logprob is not None and wanted is not None:
                index = ours.index(row)
                (alone,) = logprobs(logits[index : index + 1], [each.token], wanted)
                assert each.logprob == alone
            row.choice.accept(each.token)
            other.choice.accept(each.token)


def test_launches_do_not_grow_with_rows_and_one_answer_is_waited_for() -> None:
    """Counted in torch's operations, which on a GPU are launches and synchronisations."""
    logits = torch.randn(16, 3 * SHORTLIST, generator=torch.Generator().manual_seed(5)) * 3

    def counted(rows: list[Row]) -> Launches:
        with Launches() as launches:
            choose(logits[: len(rows)], rows)
        return launches

    plain = [Row(choice(seed=n)) for n in range(16)]
    assert counted([Row(choice(temperature=0.0))] * 16).total == 1
    assert counted(plain).total == counted(plain[:1]).total <= 40
    every = [
        Row(
            choice(
                (1, 2, 3), seed=n, top_p=0.9, repetition_penalty=1.2, presence_penalty=0.5,
                logit_bias={4: 1.0}, logprobs=2, temperature=0.7,
            ),
            frozenset({2}),
            torch.ones(3 * SHORTLIST, dtype=torch.bool),
        )
        for n in range(16)
    ]  # fmt: skip
    for row in every:
        row.choice.accept(9)
    together, alone = counted(every), counted(every[:1])
    assert together.total == alone.total <= 65
    assert together.waits == alone.waits == 0  # what is waited for is the one ``tolist``


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_same_tokens_with_one_synchronisation() -> None:
    device = torch.device("cuda:0")
    rows, others = (mixed_rows(3, 32000, 16, 40) for _ in range(2))
    logits = torch.randn(16, 32000, generator=torch.Generator().manual_seed(1)) * 3
    choose(logits.to(device), mixed_rows(3, 32000, 16, 40))
    on_device = logits.to(device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            chosen = choose(on_device, rows)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [each for each in caught if "called a synchronizing" in str(each.message)]
    assert len(waits) <= 2  # the second only if a draw was not on the shortlist
    assert [each.token for each in chosen] == [each.token for each in choose(logits, others)]


def test_a_choice_among_equal_logits_does_not_depend_on_the_batch() -> None:
    alike = (torch.rand(7, 4 * SHORTLIST, generator=torch.Generator().manual_seed(2)) * 8).round()
    rows = [Row(choice(seed=n, top_p=0.5 + n / 20)) for n in range(7)]
    alone = [sample(alike[n : n + 1], [Row(choice(seed=n, top_p=0.5 + n / 20))]) for n in range(7)]
    assert sample(alike, rows) == [token for (token,) in alone]


def greedy(row_choice: Choice, **row: Any) -> int:
    return sample(LOGITS.unsqueeze(0), [Row(row_choice, **row)])[0]


def test_penalties() -> None:
    repeated = choice(prompt=(0,), temperature=0, repetition_penalty=4.0)
    assert greedy(repeated) == 1  # 2 / 4 is below 1
    presence = choice(prompt=(0,), temperature=0, presence_penalty=1.5)
    assert greedy(presence) == 0  # the prompt does not count
    presence.accept(0)
    assert greedy(presence) == 1
    frequency = choice(temperature=0, frequency_penalty=0.4)
    frequency.accept(0)
    frequency.accept(0)
    assert greedy(frequency) == 0  # 2 - 0.8 is above 1
    frequency.accept(0)
    assert greedy(frequency) == 1


def test_a_negative_logit_is_made_more_negative_by_repetition() -> None:
    logits = torch.tensor([[-1.0, -1.5]])
    row = Row(choice(prompt=(0,), temperature=0, repetition_penalty=2.0))
    assert sample(logits, [row]) == [1]


def test_stop_tokens_are_held_back_and_grammars_obeyed() -> None:
    assert greedy(choice(temperature=0), held_back=frozenset({0})) == 1
    mask = torch.tensor([False, False, True, False, False, True])
    assert greedy(choice(temperature=0), mask=mask) == 2
    only = torch.tensor([True, False, False, False, False, False])
    assert greedy(choice(temperature=0), mask=only, held_back=frozenset({0})) == 0


def test_logprobs_are_the_models_own() -> None:
    (found,) = logprobs(LOGITS.unsqueeze(0), [3], 2)
    assert found.logprob == pytest.approx(math.log(SHARES[3]), abs=1e-6)
    assert [token for token, _ in found.top] == [0, 1]


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"min_p": 2.0},
        {"repetition_penalty": 0.0},
        {"presence_penalty": 3.0},
        {"frequency_penalty": -3.0},
        {"max_tokens": -1},
        {"min_tokens": -1},
        {"logprobs": 7},
        {"prompt_logprobs": -1},
        {"logit_bias": {6: 1.0}},
        {"logit_bias": {0: math.inf}},
    ],
)
def test_senseless_parameters_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(params))):
        check(SamplingParams(**params), vocab_size=6)
