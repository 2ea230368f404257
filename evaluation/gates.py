"""Gates for CI: what a result must reach, and what it must not be worse than."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llama_hub.errors import UsageError
from llama_hub.evaluation.compare import Entry, compare
from llama_hub.evaluation.record import Record, Score


@dataclass(frozen=True)
class Verdict:
    """One gate and whether the result passes."""

    what: str
    ok: bool
    evidence: str


def floors(record: Record, words: Iterable[str]) -> list[Verdict]:
    """``TASK[/METRIC]=VALUE``: the score must be at least that, shares in per cent.

    ``UsageError`` for a word of another form, or a score that is not in the record.
    """
    return [_floor(record, word) for word in words]


def _floor(record: Record, word: str) -> Verdict:
    name, equals, text = word.partition("=")
    task, _, metric = name.partition("/")
    try:
        least = float(text)
    except ValueError:
        equals = ""
    if not equals or not task or not -1e12 < least < 1e12:
        raise UsageError(
            f"--fail-under {word[:100]!r} is not TASK[/METRIC]=VALUE", hint="--fail-under mmlu=44"
        )
    score = _score(record, task, metric)
    value = 100 * score.value if score.share else score.value
    ok = value >= least if score.higher_is_better else value <= least
    return Verdict(f"{score.task}/{score.metric}", ok, f"{value:.4g}, wanted {least:g}")


def _score(record: Record, task: str, metric: str) -> Score:
    found = [s for s in record.scores if s.task == task and metric in ("", s.metric)]
    if not found:
        names = ", ".join(sorted({f"{s.task}/{s.metric}" for s in record.scores}))
        raise UsageError(f"the result has no score {task}/{metric or '…'}", hint=names[:500])
    return found[0]


def not_worse(result: Entry, baseline: Entry) -> list[Verdict]:
    """Each score that both have: the interval of the difference must reach zero.

    ``UsageError`` where they share none, or where a shared one is of another setting: such a
    difference is no news of the model.
    """
    verdicts = []
    for row in compare([baseline, result]).rows:
        cell = row.cells[1]
        if cell.difference is None:
            continue
        if cell.comparable != "same setting":
            raise UsageError(
                f"{row.task}/{row.metric} was measured in another setting: "
                f"{', '.join(cell.differs)} differ",
                hint="run both with the same suite, --limit, --seed and harness",
            )
        d = cell.difference
        about = f"{100 * d.value:+.2f}" if row.score.share else f"{d.value:+.4g}"
        verdicts.append(Verdict(f"{row.task}/{row.metric}", not d.is_worse, about))
    if not verdicts:
        raise UsageError("the two records share no score", hint="llama-hub eval compare A B")
    return verdicts


def failed(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Those that do not pass."""
    return [each for each in verdicts if not each.ok]
