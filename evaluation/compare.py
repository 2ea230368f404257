"""Comparison of records: differences with intervals, settings beside settings.

Nothing here says that a score was reproduced: two numbers from two settings are two numbers. A pair
is of the ``same setting`` where task, documents, prompt, shots, limit, seed and harness are one;
of an ``other setting`` where one of those differs; ``not comparable`` where one has no such score,
or measures something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from llama_hub.evaluation import intervals
from llama_hub.evaluation.intervals import Difference
from llama_hub.evaluation.record import Record, Sample, Score

Class = Literal["same setting", "other setting", "not comparable"]
MAX_RECORDS = 20


@dataclass(frozen=True)
class Entry:
    """A record, its samples and what a table calls it."""

    label: str
    record: Record
    samples: Sequence[Sample] = ()

    def values(self, task: str, metric: str) -> dict[str, float]:
        """The metric of each document of the task."""
        return {
            each.document: each.metrics[metric]
            for each in self.samples
            if each.task == task and metric in each.metrics
        }

    def answers(self, task: str) -> dict[str, str]:
        """The digest of each answer of the task, where it is known."""
        return {s.document: s.answer for s in self.samples if s.task == task and s.answer}


@dataclass(frozen=True)
class Cell:
    """One record's score in a row, and its difference to the first's."""

    score: Score | None
    comparable: Class | None = None  # None: the first itself
    differs: tuple[str, ...] = ()  # names of the settings that do
    difference: Difference | None = None
    same_answers: tuple[int, int] | None = None  # equal, of

    def to_json(self) -> dict[str, Any]:
        """As a document."""
        return asdict(self)


@dataclass(frozen=True)
class Row:
    """A metric of a task, over all records."""

    task: str
    metric: str
    cells: tuple[Cell, ...]

    @property
    def score(self) -> Score:
        """The first score that there is."""
        return next(cell.score for cell in self.cells if cell.score is not None)


@dataclass(frozen=True)
class Comparison:
    """The table, and the settings that stand above it."""

    entries: tuple[Entry, ...]
    rows: tuple[Row, ...]
    settings: tuple[tuple[str, tuple[str, ...]], ...]  # name, value of each record

    def to_json(self) -> dict[str, Any]:
        """The document of ``eval compare``."""
        return {
            "records": [
                {"label": e.label, "digest": e.record.digest, "manifest": e.record.subject.manifest}
                for e in self.entries
            ],
            "settings": [
                {"name": name, "values": list(values), "differ": len(set(values)) > 1}
                for name, values in self.settings
            ],
            "rows": [
                {"task": r.task, "metric": r.metric, "cells": [cell.to_json() for cell in r.cells]}
                for r in self.rows
            ],
        }


def compare(entries: Sequence[Entry]) -> Comparison:
    """All records against the first; ``ValueError`` for none or more than ``MAX_RECORDS``."""
    if not 0 < len(entries) <= MAX_RECORDS:
        raise ValueError(f"{len(entries)} records; 1 to {MAX_RECORDS} can be compared")
    keys = dict.fromkeys(score.key for entry in entries for score in entry.record.scores)
    rows = tuple(_row(entries, *key) for key in keys)
    return Comparison(tuple(entries), rows, tuple(_settings(entries)))


def _row(entries: Sequence[Entry], task: str, metric: str) -> Row:
    first = entries[0]
    cells = [Cell(first.record.score(task, metric))]
    cells += [_cell(first, entry, task, metric) for entry in entries[1:]]
    return Row(task, metric, tuple(cells))


def _cell(first: Entry, entry: Entry, task: str, metric: str) -> Cell:
    a, b = first.record.score(task, metric), entry.record.score(task, metric)
    if a is None or b is None:
        return Cell(b, "not comparable", ("task",))
    differs = tuple(_differing(first.record, a, entry.record, b))
    if a.share != b.share or a.higher_is_better != b.higher_is_better:
        return Cell(b, "not comparable", differs or ("metric",))
    kind: Class = "other setting" if differs else "same setting"
    return Cell(b, kind, differs, _difference(first, a, entry, b), _same(first, entry, task))


def _difference(first: Entry, a: Score, entry: Entry, b: Score) -> Difference:
    """Better is above zero: a metric that should be low is turned round."""
    sign = 1.0 if a.higher_is_better else -1.0
    left, right = first.values(*a.key), entry.values(*b.key)
    both = sorted(left.keys() & right.keys())
    if both and len(both) == len(left) == len(right):
        x = [sign * left[each] for each in both]
        y = [sign * right[each] for each in both]
        if sign > 0 or not set(left.values()) | set(right.values()) <= {0.0, 1.0}:
            return intervals.paired(x, y)
        flipped = intervals.paired(list(right.values()), list(left.values()))
        return flipped
    return intervals.unpaired(sign * a.value, a.stderr, sign * b.value, b.stderr)


def _same(first: Entry, entry: Entry, task: str) -> tuple[int, int] | None:
    left, right = first.answers(task), entry.answers(task)
    both = left.keys() & right.keys()
    return (sum(left[each] == right[each] for each in both), len(both)) if both else None


def _differing(a: Record, first: Score, b: Record, second: Score) -> list[str]:
    """Names of settings of the measurement that differ; what is measured is no setting."""
    pairs: Mapping[str, tuple[Any, Any]] = {
        "version": (first.version, second.version),
        "task hash": (first.task_hash, second.task_hash),
        "shots": (first.fewshot, second.fewshot),
        "samples": (first.n, second.n),
        "data": (first.data_revision, second.data_revision),
        "limit": (a.limit, b.limit),
        "seed": (a.seed, b.seed),
        "chat template": (a.template, b.template),
        "harness": (a.harness, b.harness),
    }
    return [name for name, (x, y) in pairs.items() if x != y]


def _settings(entries: Sequence[Entry]) -> list[tuple[str, tuple[str, ...]]]:
    rows: list[tuple[str, tuple[str, ...]]] = []

    def add(name: str, values: list[Any]) -> None:
        if any(value is not None for value in values):
            rows.append((name, tuple("–" if value is None else str(value) for value in values)))

    records = [entry.record for entry in entries]
    for key in ("model", "manifest", "quantization", "dtype", "engine", "device", "backend"):
        add(key, [getattr(record.subject, key) for record in records])
    add("revision", [record.subject.revision for record in records])
    add("moderation policy", [record.subject.policy for record in records])
    add("bytes", [record.subject.bytes for record in records])
    add("suite", [record.suite for record in records])
    add("harness", [f"{r.harness.name} {r.harness.version}" for r in records])
    add("seed", [record.seed for record in records])
    add("limit", [record.limit for record in records])
    add("chat template", [record.template for record in records])
    add("record", [record.digest for record in records])
    return rows
