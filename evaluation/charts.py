"""Charts as SVG: bars for each task, and quality against size or speed; no library, no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#3b6fd4", "#d9822b", "#2f9e6e", "#b04ac0", "#c0392b", "#5b6b7a", "#8a6d00", "#0f8b9d")
WIDTH, LEFT, RIGHT, BAR = 760, 230, 70, 13
FONT = "font-family='system-ui,sans-serif' font-size='12'"


@dataclass(frozen=True)
class Bar:
    """A value of one series, with its interval."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Point:
    """One record in a scatter."""

    label: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None


def bars(rows: Sequence[tuple[str, Sequence[Bar]]], series: Sequence[str], title: str) -> str:
    """Horizontal bars, a group for each row; values are shares, drawn from 0 to 100 %."""
    group = BAR * len(series) + 12
    top = 30 + 16 * len(series)
    height = top + group * len(rows) + 30
    parts = [_legend(series)]
    for tick in range(0, 101, 25):
        x = _x(tick / 100)
        parts.append(
            f"<line x1='{x:.1f}' y1='{top}' x2='{x:.1f}' y2='{height - 24}' class='grid'/>"
        )
        parts.append(_text(x, height - 8, f"{tick}", "middle"))
    for number, (name, group_bars) in enumerate(rows):
        y = top + group * number + 6
        parts.append(_text(LEFT - 8, y + group / 2 - 2, name[:36], "end"))
        parts += [_bar(bar, y + BAR * k, k) for k, bar in enumerate(group_bars)]
    return _svg(height, title, parts)


def _bar(bar: Bar, y: float, series: int) -> str:
    if bar.value is None:
        return _text(LEFT + 4, y + BAR - 3, "–", "start")
    end = _x(bar.value)
    colour = COLOURS[series % len(COLOURS)]
    drawn = (
        f"<rect x='{LEFT}' y='{y:.1f}' width='{max(0.0, end - LEFT):.1f}' height='{BAR - 3}' "
        f"fill='{colour}'/>"
    )
    right = end
    if bar.low is not None and bar.high is not None:
        a, b, middle = _x(bar.low), _x(bar.high), y + (BAR - 3) / 2
        right = max(end, b)
        drawn += f"<path d='M{a:.1f} {middle:.1f}H{b:.1f}' class='whisker'/>"
    return drawn + _text(right + 5, y + BAR - 4, f"{100 * bar.value:.1f}", "start")


def scatter(points: Sequence[Point], x_label: str, y_label: str, title: str) -> str:
    """Quality over something else, from nought; a colour and a legend's line for each point."""
    legend = 16 * len(points)
    height, top, bottom = 310 + legend, 36 + legend, 46
    most = max((point.x for point in points), default=1.0) * 1.15 or 1.0
    lowest = min((p.low if p.low is not None else p.y for p in points), default=0.0)
    highest = max((p.high if p.high is not None else p.y for p in points), default=1.0)
    pad = max(0.02, (highest - lowest) * 0.15)
    low, high = max(0.0, lowest - pad), min(1.0, highest + pad)

    def place(x: float, y: float) -> tuple[float, float]:
        across = 60 + (WIDTH - 200) * x / most
        return across, top + (height - top - bottom) * (1 - (y - low) / max(1e-9, high - low))

    parts = [_legend([point.label for point in points])]
    parts.append(_axes(height, top, bottom, low, high, most, x_label, y_label))
    for number, point in enumerate(points):
        x, y = place(point.x, point.y)
        colour = COLOURS[number % len(COLOURS)]
        if point.low is not None and point.high is not None:
            (_, a), (_, b) = place(point.x, point.low), place(point.x, point.high)
            parts.append(f"<path d='M{x:.1f} {a:.1f}V{b:.1f}' class='whisker'/>")
        parts.append(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='5' fill='{colour}'/>")
    return _svg(height, title, parts)


def _axes(
    height: int, top: int, bottom: int, low: float, high: float, most: float, x: str, y: str
) -> str:
    base = height - bottom
    parts = [f"<path d='M60 {top}V{base}H{WIDTH - 120}' class='axis'/>"]
    for step in range(5):
        share = low + (high - low) * step / 4
        at = base - (base - top) * step / 4
        parts.append(_text(54, at + 4, f"{100 * share:.1f}", "end"))
        across = 60 + (WIDTH - 200) * step / 4
        parts.append(_text(across, base + 16, f"{most * step / 4:.3g}", "middle"))
    parts.append(_text((WIDTH - 60) / 2, height - 8, x, "middle"))
    parts.append(_text(60, top - 6, y, "start"))
    return "".join(parts)


def _legend(series: Sequence[str]) -> str:
    return "".join(
        f"<rect x='{LEFT}' y='{10 + 16 * k}' width='10' height='10' "
        f"fill='{COLOURS[k % len(COLOURS)]}'/>" + _text(LEFT + 16, 19 + 16 * k, name[:60], "start")
        for k, name in enumerate(series)
    )


def _x(share: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * min(1.0, max(0.0, share))


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'>{escape(text)}</text>"


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height:.0f}' role='img' "
        f"{FONT}><title>{escape(title)}</title><style>text{{fill:#222}}.grid{{stroke:#ddd}}"
        ".axis{fill:none;stroke:#888}.whisker{fill:none;stroke:#222;stroke-width:1.5}"
        "@media (prefers-color-scheme:dark){text{fill:#ddd}.grid{stroke:#444}"
        ".whisker{stroke:#eee}}</style>" + "".join(parts) + "</svg>\n"
    )
