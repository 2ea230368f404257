"""Intervals against values of the literature, and how often they hold the truth."""

from __future__ import annotations

import random

import pytest

from llama_hub.evaluation import intervals


def test_wilson_is_the_textbook_s() -> None:
    # Newcombe (1998), Statistics in Medicine 17, table I, method 3: 81/263, 15/148, 0/20, 1/29.
    for hits, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert intervals.wilson(hits / n, n) == pytest.approx((low, high), abs=6e-5)
    for bad in ((0.5, 0), (1.5, 3)):
        with pytest.raises(ValueError, match="no share"):
            intervals.wilson(*bad)


def test_mcnemar_is_the_binomial_tail() -> None:
    assert intervals.mcnemar(0, 0) == 1.0
    assert intervals.mcnemar(5, 0) == pytest.approx(2 / 32)
    assert intervals.mcnemar(0, 5) == pytest.approx(2 / 32)
    assert intervals.mcnemar(10, 2) == pytest.approx(2 * (1 + 12 + 66) / 4096)
    assert intervals.mcnemar(7, 7) == 1.0
    assert intervals.mcnemar(4000, 4000) == 1.0
    assert intervals.mcnemar(4000, 100) < 1e-300


def test_paired_differences_hold_the_truth_nineteen_times_of_twenty() -> None:
    rng = random.Random(7)
    held = 0
    for _ in range(400):
        a = [float(rng.random() < 0.6) for _ in range(150)]
        b = [x if rng.random() < 0.9 else float(rng.random() < 0.5) for x in a]
        truth = 0.1 * (0.5 - 0.6)
        d = intervals.paired(a, b)
        assert d.low is not None
        assert d.high is not None
        held += d.low <= truth <= d.high
    assert 0.92 <= held / 400 <= 0.985


def test_pairs_see_what_two_errors_do_not() -> None:
    a = [1.0] * 50 + [0.0] * 50
    b = [1.0] * 42 + [0.0] * 58
    assert intervals.paired(a, b).is_worse
    alone = intervals.unpaired(0.5, 0.05, 0.42, 0.0494)
    assert not alone.is_worse
    assert intervals.paired(a, a).value == 0
    assert not intervals.paired(a, a).is_worse


def test_values_that_are_no_shares_are_resampled() -> None:
    rng = random.Random(3)
    a = [rng.gauss(5, 1) for _ in range(80)]
    d = intervals.paired(a, [x + 0.5 + rng.gauss(0, 0.2) for x in a], seed=4)
    assert d.low is not None
    assert d.high is not None
    assert 0.4 < d.low < d.value < d.high < 0.6
    assert d.p == 0
    many = intervals.paired([0.5] * 20_000, [0.25, 0.75] * 10_000)
    assert many.low is not None
    assert many.low < 0 < (many.high or 0)
    with pytest.raises(ValueError, match="no pairs"):
        intervals.paired([], [])
