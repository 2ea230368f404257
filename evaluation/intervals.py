"""Intervals of sampling error, for one score and for the difference of two.

All at 95 %. They say how much a score would move with other documents of the same kind, nothing
of prompts, templates and graders, which move it more.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

Z = 1.959963984540054
RESAMPLED = 2_000_000  # values drawn in one bootstrap, at most
RESAMPLES = 2000
FEWEST = 200  # resamples


@dataclass(frozen=True)
class Difference:
    """``b - a`` and how sure it is."""

    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None  # that it is chance
    method: str = ""
    pairs: int = 0  # documents that both answered

    @property
    def is_worse(self) -> bool:
        """Whether it lies below zero with its whole interval, or without one at all."""
        return self.value < 0 and (self.high is None or self.high < 0)


def wilson(share: float, n: int) -> tuple[float, float]:
    """The interval of a share of ``n`` samples (Wilson 1927); ``ValueError`` for no sample."""
    if n <= 0 or not 0 <= share <= 1:
        raise ValueError(f"{share} is no share of {n} samples")
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    spread = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(0.0, centre - spread), min(1.0, centre + spread)


def paired(a: Sequence[float], b: Sequence[float], *, seed: int = 0) -> Difference:
    """The difference of the means of paired values; exact McNemar where all are 0 or 1.

    ``ValueError`` for no pair or lists of different lengths.
    """
    if not a or len(a) != len(b):
        raise ValueError("there are no pairs")
    deltas = [y - x for x, y in zip(a, b, strict=True)]
    if set(a) | set(b) <= {0.0, 1.0}:
        return _of_shares(deltas)
    low, high, p = _bootstrap(deltas, seed)
    return Difference(_mean(deltas), low, high, p, "paired bootstrap", len(deltas))


def _of_shares(deltas: Sequence[float]) -> Difference:
    n = len(deltas)
    won, lost = deltas.count(1.0), deltas.count(-1.0)
    mean = (won - lost) / n
    # Agresti and Min (2005): half a pair more in each of the four cells.
    plus = n + 2
    about = (won - lost) / plus
    spread = Z * math.sqrt(max(0.0, (won + lost + 1) / plus - about * about) / plus)
    return Difference(
        mean, min(mean, about - spread), max(mean, about + spread),
        mcnemar(won, lost), "exact McNemar", n,
    )  # fmt: skip


def mcnemar(won: int, lost: int) -> float:
    """Probability of a split at least as uneven if both were equally good (two-sided, exact)."""
    n, least = won + lost, min(won, lost)
    if n == 0:
        return 1.0
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(least + 1)
    ]
    tail = sum(math.exp(each - n * math.log(2)) for each in logs)
    return min(1.0, 2 * tail)


def _bootstrap(deltas: Sequence[float], seed: int) -> tuple[float, float, float | None]:
    """Percentiles of the resampled mean; for many samples its normal form."""
    n = len(deltas)
    times = min(RESAMPLES, RESAMPLED // n)
    if times < FEWEST:
        mean = _mean(deltas)
        spread = Z * math.sqrt(sum((d - mean) ** 2 for d in deltas) / max(1, n - 1) / n)
        return mean - spread, mean + spread, None
    rng = random.Random(seed)
    means = sorted(_mean(rng.choices(deltas, k=n)) for _ in range(times))
    below = sum(mean <= 0 for mean in means) / times
    above = sum(mean >= 0 for mean in means) / times
    p = min(1.0, 2 * min(below, above))
    return means[int(0.025 * times)], means[min(times - 1, int(0.975 * times))], p


def unpaired(a: float, a_error: float | None, b: float, b_error: float | None) -> Difference:
    """The difference of two means whose samples are not known, from their standard errors."""
    if a_error is None or b_error is None:
        return Difference(b - a)
    spread = Z * math.hypot(a_error, b_error)
    return Difference(b - a, b - a - spread, b - a + spread, None, "two standard errors")


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
