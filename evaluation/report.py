"""Reports of comparisons: Markdown and HTML, with charts; the same words in both."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from llama_hub.evaluation import charts, page
from llama_hub.evaluation.charts import Bar, Point
from llama_hub.evaluation.compare import Cell, Comparison, Row
from llama_hub.evaluation.page import Raw
from llama_hub.evaluation.published import Beside
from llama_hub.evaluation.record import Score

NOTE = (
    "Intervals are 95 % and of sampling only. Differences are to the first record; above zero is "
    "better. Scores of another setting are shown side by side and prove nothing about each other."
)
PUBLISHED_NOTE = (
    "Published values were measured with prompts and ratings that were not published with them. "
    "Nothing here confirms or refutes one."
)


def value_text(score: Score | None) -> str:
    """``45.3 [44.1, 46.5]``: shares in per cent."""
    if score is None:
        return "–"
    unit = 100 if score.share else 1
    text = f"{unit * score.value:.1f}" if score.share else f"{score.value:.4g}"
    if score.low is None or score.high is None:
        return text
    if score.share:
        return f"{text} [{unit * score.low:.1f}, {unit * score.high:.1f}]"
    return f"{text} [{score.low:.4g}, {score.high:.4g}]"


def cell_text(cell: Cell) -> str:
    """What stands in a row for a record after the first."""
    if cell.score is None or cell.difference is None:
        return f"{value_text(cell.score)} · not comparable"
    d, unit = cell.difference, 100 if cell.score.share else 1
    text = f"{value_text(cell.score)} · {unit * d.value:+.2f}"
    if d.low is not None and d.high is not None:
        text += f" [{unit * d.low:+.2f}, {unit * d.high:+.2f}]"
    if d.p is not None:
        text += f", p={d.p:.2g}" if d.p >= 0.001 else ", p<0.001"
    if cell.same_answers is not None:
        text += f", {cell.same_answers[0]} of {cell.same_answers[1]} answers the same"
    return text


def why(cell: Cell) -> str:
    """The class of a cell and, of another setting, what differs."""
    if cell.comparable is None:
        return ""
    return f"{cell.comparable} ({', '.join(cell.differs)})" if cell.differs else cell.comparable


def markdown(comparison: Comparison, besides: Sequence[Beside] = ()) -> str:
    """The whole report."""
    labels = [entry.label for entry in comparison.entries]
    lines = ["# Comparison of evaluations", "", NOTE, "", "## Scores", ""]
    lines += table(["task", "metric", *labels, "comparable"], rows(comparison))
    lines += ["", "## Settings", ""]
    lines += table(["setting", *labels], [(name, *values) for name, values in comparison.settings])
    if besides:
        lines += ["", "## Beside published values", "", PUBLISHED_NOTE, ""]
        lines += table(BESIDE, [beside_row(each) for each in besides])
    return "\n".join(lines) + "\n"


BESIDE = ("task", "here", "setting here", "published", "of", "setting there", "class", "source")


def beside_row(each: Beside) -> tuple[str, ...]:
    """Setting beside setting."""
    score, other = each.score, each.published
    theirs = f"{other.score:g}" + (f" ({other.flag})" if other.flag else "")
    kind = each.comparable + (f": {each.why}" if each.why else "")
    if each.difference is not None:
        kind = f"{each.difference:+.1f} · {kind}"
    setting = ", ".join(filter(None, (score.setting, f"{score.metric}, n={score.n}")))
    source = other.source + (f"; {other.note}" if other.note and not other.flag else "")
    return (
        f"{score.task} / {other.benchmark}", value_text(score), setting, theirs, other.model,
        other.setting, kind, source,
    )  # fmt: skip


def rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Task, metric, a text for each record, and how far they are comparable."""
    made = []
    for row in comparison.rows:
        texts = [value_text(row.cells[0].score), *(cell_text(cell) for cell in row.cells[1:])]
        kinds = "; ".join(dict.fromkeys(why(cell) for cell in row.cells[1:]))
        made.append((_task(row), row.metric, *texts, kinds))
    return made


def _task(row: Row) -> str:
    return ", ".join(filter(None, (row.task, row.score.setting)))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(plain(each) for each in cells) + " |"

    return [line(head), "|" + " --- |" * len(head), *(line(row) for row in rows)]


def plain(text: str) -> str:
    """For a cell of Markdown: one line, nothing that is markup or HTML there."""
    single = " ".join(text.split())
    single = single.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark in "\\|[]`*_":
        single = single.replace(mark, "\\" + mark)
    return single


def html(comparison: Comparison, besides: Sequence[Beside] = ()) -> str:
    """The whole report as one file."""
    labels = [entry.label for entry in comparison.entries]
    parts = [f"<p class='note'>{escape(NOTE)}</p>", "<h2>Scores</h2>"]
    parts.append(page.table(["task", "metric", *labels, "comparable"], _html_rows(comparison)))
    for title, drawn in drawings(comparison).items():
        parts.append(f"<h2>{escape(title)}</h2>{drawn}")
    settings = [(name, *map(_setting(values), values)) for name, values in comparison.settings]
    parts += ["<h2>Settings</h2>", page.table(["setting", *labels], settings)]
    if besides:
        listed = [beside_row(each) for each in besides]
        parts += ["<h2>Beside published values</h2>", f"<p class='note'>{PUBLISHED_NOTE}</p>"]
        parts.append(page.table(BESIDE, listed))
    return page.page("Comparison of evaluations", *parts)


def _setting(values: Sequence[str]):  # type: ignore[no-untyped-def]
    differ = len(set(values)) > 1

    def shown(value: str) -> Raw:
        return Raw(f"<strong>{escape(value)}</strong>" if differ else escape(value))

    return shown


def _html_rows(comparison: Comparison) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for row in comparison.rows:
        cells = [
            Raw(f"<span class='{_mood(c)}'>{escape(cell_text(c))}</span>") for c in row.cells[1:]
        ]
        kinds = "; ".join(dict.fromkeys(why(cell) for cell in row.cells[1:]))
        rows.append((_task(row), row.metric, value_text(row.cells[0].score), *cells, kinds))
    return rows


def _mood(cell: Cell) -> str:
    """A colour only where the interval says so."""
    if cell.difference is None or cell.difference.low is None or cell.difference.high is None:
        return ""
    if cell.difference.low > 0:
        return "good"
    return "bad" if cell.difference.high < 0 else ""


def drawings(comparison: Comparison) -> dict[str, str]:
    """Title → SVG: bars for each score, and quality against bytes and speed where known."""
    shares = [row for row in comparison.rows if row.score.share]
    drawn: dict[str, str] = {}
    labels = [entry.label for entry in comparison.entries]
    if shares:
        groups = [
            (f"{row.task} {row.metric}", [_bar(cell.score) for cell in row.cells]) for row in shares
        ]
        drawn["Scores, per cent"] = charts.bars(groups, labels, "Scores, per cent")
    unit, sizes = _sizes(comparison)
    for what, values in ((unit, sizes), ("requests per second", _speeds(comparison))):
        points = _points(comparison, shares, values)
        if len(points) > 1:
            title = f"Mean score against {what}"
            drawn[title] = charts.scatter(points, what, "mean score, per cent", title)
    return drawn


def _bar(score: Score | None) -> Bar:
    return Bar(None) if score is None else Bar(score.value, score.low, score.high)


def _sizes(comparison: Comparison) -> tuple[str, list[float | None]]:
    """The unit, and how much of it the weights of each record are."""
    sizes = [entry.record.subject.bytes for entry in comparison.entries]
    small = max((size or 0 for size in sizes), default=0) < 2**28
    name, unit = ("MiB", 2**20) if small else ("GiB", 2**30)
    return f"{name} of weights", [None if size is None else size / unit for size in sizes]


def _speeds(comparison: Comparison) -> list[float | None]:
    speeds: list[float | None] = []
    for entry in comparison.entries:
        count, taken = entry.record.asked, entry.record.asking_seconds
        speeds.append(count / taken if count and taken else None)
    return speeds


def _points(
    comparison: Comparison, rows: Sequence[Row], values: Sequence[float | None]
) -> list[Point]:
    """A point for each record that has every score that the first has."""
    points = []
    for number, (entry, x) in enumerate(zip(comparison.entries, values, strict=True)):
        scored = [row.cells[number].score for row in rows]
        good = [each.value if each.higher_is_better else 1 - each.value for each in scored if each]
        if x is not None and good and len(good) == len(rows):
            points.append(Point(entry.label, x, sum(good) / len(good)))
    return points
