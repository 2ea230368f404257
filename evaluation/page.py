"""The frame of every HTML report: one file, no script, nothing fetched; every text escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_STYLE = """
:root{color-scheme:light dark;--line:#ddd;--soft:#f4f5f7;--good:#1f7a4d;--bad:#b3261e}
@media (prefers-color-scheme:dark){:root{--line:#444;--soft:#23262b;--good:#6fcf97;--bad:#ff8a80}}
body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{border-bottom:1px solid var(--line);padding:.3rem .7rem;text-align:left;vertical-align:top}
th{background:var(--soft)}td.number{text-align:right}
td.differ{font-weight:600}.note{opacity:.75;font-size:.88em}
.good{color:var(--good)}.bad{color:var(--bad)}
code{word-break:break-all}svg{max-width:100%;height:auto}
pre{white-space:pre-wrap;background:var(--soft);padding:.6rem}
"""


class Raw(str):
    """Text that is HTML already."""


def cell(value: object) -> str:
    """A value as HTML."""
    return str(value) if isinstance(value, Raw) else escape(str(value))


def table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> Raw:
    """A table that scrolls by itself where it is wide."""
    top = "".join(f"<th scope='col'>{cell(each)}</th>" for each in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{cell(each)}</td>" for each in row) + "</tr>" for row in rows
    )
    return Raw(f"<div class='scroll'><table><tr>{top}</tr>{body}</table></div>")


def page(title: str, *parts: str) -> str:
    """A whole document."""
    body = "\n".join(parts)
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; "
        "style-src 'unsafe-inline'; img-src data:\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )
