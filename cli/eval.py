"""``llama-hub eval``: score a target, compare results, set gates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from llama_hub.cli.options import Json, Quiet
from llama_hub.cli.output import Output, output
from llama_hub.errors import ExitCode, UsageError
from llama_hub.files import write_atomic

if TYPE_CHECKING:
    from rich.console import RenderableType

    from llama_hub.evaluation.compare import Comparison, Entry
    from llama_hub.evaluation.gates import Verdict
    from llama_hub.evaluation.published import Beside

RUN = "run"


class EvalGroup(typer.core.TyperGroup):
    """A group in which what names no command of it is the target of ``run``."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """``eval TARGET …`` is ``eval run TARGET …``."""
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = [RUN, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=EvalGroup,
    help="Compare results of evaluations; gates for CI (exit 9).",
    no_args_is_help=True,
    add_completion=False,
)

Against = Annotated[
    str | None,
    typer.Option(
        metavar="published[:MODEL,…]|RECORD",
        help="Show published values, or another record, beside the result.",
    ),
]
FailUnder = Annotated[
    list[str] | None,
    typer.Option(metavar="TASK=VALUE", help="Exit 9 if the score is below; repeat it."),
]
FailIfWorse = Annotated[
    Path | None,
    typer.Option(
        "--fail-if-worse-than",
        metavar="RECORD",
        help="Exit 9 if a score is worse than that record's, beyond the interval.",
    ),
]
Html = Annotated[Path | None, typer.Option("--html", help="Write the report as one HTML file.")]
Markdown = Annotated[Path | None, typer.Option("--markdown", help="Write the report as Markdown.")]
Svg = Annotated[Path | None, typer.Option("--svg", help="Write the charts into this folder.")]


@app.callback()
def root() -> None:
    """Compare results of evaluations; gates for CI (exit 9)."""


@app.command("compare")
def compare_(
    records: Annotated[
        list[Path], typer.Argument(metavar="RECORD…", help="record.json or its folder.")
    ],
    against: Against = None,
    html: Html = None,
    markdown: Markdown = None,
    svg: Svg = None,
    fail_under: FailUnder = None,
    fail_if_worse_than: FailIfWorse = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare records with the first: differences, intervals, settings beside settings."""
    out = output(json, quiet)
    paths = [*records, *([Path(against)] if against and not _published(against) else [])]
    entries = entries_of(paths)
    shown = against if against and _published(against) else None
    gates = Gates(fail_under or [], fail_if_worse_than)
    present(out, entries, shown, Files(html, markdown, svg), gates, entries[-1], {})


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


def _published(against: str) -> bool:
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
    return " ".join(filter(None, (subject.name.rpartition("/")[2] or subject.name, kind)))


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
    result: Entry,
    document: dict[str, Any],
) -> None:
    """The comparison, the reports and the gates; exit 9 if one of them fails."""
    from llama_hub.evaluation import published as scores
    from llama_hub.evaluation.compare import compare

    comparison = compare(entries)
    besides: list[Beside] = []
    if published is not None:
        besides = scores.beside(result.record, scores.chosen(published, result.record))
    verdicts = gates.judge(result)
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
        differing = [(n, *v) for n, v in comparison.settings if len(set(v)) > 1]
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
