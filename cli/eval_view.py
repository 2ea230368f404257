"""Views of evaluations: tables in the terminal, reports in files, verdicts of gates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from llama_hub.cli.output import Output
from llama_hub.errors import ExitCode, UsageError
from llama_hub.files import write_atomic

if TYPE_CHECKING:
    from rich.console import RenderableType

    from llama_hub.evaluation.compare import Comparison, Entry
    from llama_hub.evaluation.gates import Verdict
    from llama_hub.evaluation.published import Beside


class Files:
    """Where reports go."""

    def __init__(self, html: Path | None, markdown: Path | None, svg: Path | None) -> None:
        self.html = html
        self.markdown = markdown
        self.svg = svg

    def write(self, out: Output, comparison: Comparison, besides: Sequence[Beside]) -> None:
        """Write those that were asked for."""
        from llama_hub.evaluation import report

        for path, make in ((self.html, report.html), (self.markdown, report.markdown)):
            if path is not None:
                write_atomic(path, make(comparison, besides).encode())
                out.status(f"wrote {path}")
        if self.svg is not None:
            self.svg.mkdir(parents=True, exist_ok=True)
            for number, drawn in enumerate(report.drawings(comparison).values(), 1):
                write_atomic(self.svg / f"chart-{number}.svg", drawn.encode())
            out.status(f"wrote the charts into {self.svg}")


class Gates:
    """What the result must pass."""

    def __init__(self, floors: Sequence[str], baseline: Path | None) -> None:
        self._floors = floors
        self._baseline = baseline

    def judge(self, result: Entry) -> list[Verdict]:
        """A verdict of each gate."""
        from llama_hub.evaluation import gates

        verdicts = gates.floors(result.record, self._floors)
        if self._baseline is not None:
            (baseline,) = entries_of([self._baseline])
            verdicts += gates.not_worse(result, baseline)
        return verdicts


def is_published(against: str) -> bool:
    """Whether ``--against`` asks for published values."""
    return against.partition(":")[0] == "published"


def entries_of(paths: Sequence[Path]) -> list[Entry]:
    """The records at ``paths`` with their samples, each named; ``UsageError`` if too many."""
    from llama_hub.evaluation import record
    from llama_hub.evaluation.compare import MAX_RECORDS, Entry

    if len(paths) > MAX_RECORDS:
        raise UsageError(f"{len(paths)} records; at most {MAX_RECORDS} fit one comparison")
    entries = []
    for path in paths:
        read = record.read(path)
        entries.append(Entry(_label(read), read, record.read_samples(path, read)))
    return _told_apart(entries, paths)


def _label(read: Any) -> str:
    subject = read.subject
    kind = subject.quantization or subject.dtype
    name = subject.name.rstrip("/").rpartition("/")[2]
    if subject.kind == "endpoint":  # an address is called by what answers there
        name = subject.model or subject.name
    return " ".join(filter(None, (name, kind)))


def _told_apart(entries: list[Entry], paths: Sequence[Path]) -> list[Entry]:
    """Records of one name are called by their folders as well."""
    from dataclasses import replace

    labels = [entry.label for entry in entries]
    return [
        replace(entry, label=f"{entry.label} ({_place(path)})")
        if labels.count(entry.label) > 1
        else entry
        for entry, path in zip(entries, paths, strict=True)
    ]


def _place(path: Path) -> str:
    return path.parent.name if path.name == "record.json" and path.parent.name else path.name


def present(
    out: Output,
    entries: Sequence[Entry],
    published: str | None,
    files: Files,
    gates: Gates,
    results: Sequence[Entry],
    document: dict[str, Any],
) -> None:
    """The comparison, the reports and the gates; exit 9 if one of them fails."""
    from llama_hub.evaluation import published as scores
    from llama_hub.evaluation.compare import compare

    comparison = compare(entries)
    besides: list[Beside] = []
    if published is not None:
        for result in results:
            besides += scores.beside(result.record, scores.chosen(published, result.record))
    verdicts = [verdict for result in results for verdict in gates.judge(result)]
    files.write(out, comparison, besides)
    made = document | comparison.to_json()
    if published is not None:
        made["published"] = [_beside(each) for each in besides]
    if verdicts:
        made["gates"] = [{"what": v.what, "ok": v.ok, "evidence": v.evidence} for v in verdicts]
    out.result(made, lambda: _drawn(comparison, besides, verdicts))
    if any(not verdict.ok for verdict in verdicts):
        raise typer.Exit(int(ExitCode.CHANGES_PENDING))


def _beside(each: Beside) -> dict[str, Any]:
    score, other = each.score, each.published
    return {
        "task": score.task, "metric": score.metric, "value": score.value, "n": score.n,
        "setting": score.setting, "published": other.score, "model": other.model,
        "benchmark": other.benchmark, "published_setting": other.setting, "source": other.source,
        "flag": other.flag or None, "note": other.note or None, "comparable": each.comparable,
        "why": each.why or None, "difference": each.difference,
    }  # fmt: skip


def _drawn(
    comparison: Comparison, besides: Sequence[Beside], verdicts: Sequence[Verdict]
) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from llama_hub.evaluation import report

    labels = [entry.label for entry in comparison.entries]
    several = len(labels) > 1
    drawn: list[RenderableType] = [
        _table(
            ["task", "metric", *labels, *(["comparable"] if several else [])],
            [row if several else row[:-1] for row in report.rows(comparison)],
        )
    ]
    if several:
        differing = [(n, *map(_short, v)) for n, v in comparison.settings if len(set(v)) > 1]
        drawn += [Text("\nSettings that differ"), _table(["setting", *labels], differing)]
        drawn.append(Text(f"\n{report.NOTE}"))
    if besides:
        drawn.append(Text("\nBeside published values"))
        drawn.append(_table(report.BESIDE, [report.beside_row(each) for each in besides]))
        drawn.append(Text(f"\n{report.PUBLISHED_NOTE}"))
    for verdict in verdicts:
        word = "passed" if verdict.ok else "FAILED"
        drawn.append(Text(f"gate {verdict.what}: {word} ({verdict.evidence})"))
    return Group(*drawn)


def _short(value: str) -> str:
    """A digest by its first digits."""
    return f"{value[:19]}…" if value.startswith("sha256:") and len(value) > 30 else value


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for each in head:
        table.add_column(Text(each), overflow="fold")
    for row in rows:
        table.add_row(*(Text(each) for each in row))
    return table
