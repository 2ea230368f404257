"""The view of an answer on a terminal: Markdown, drawn a block at a time as it comes.

A block ends at an empty line outside of a code fence. What is whole is printed and stays in the
scrollback; the block that is still being written is drawn again and again below it, its last lines
where it is taller than the window. Addresses in an answer are text: nothing makes them links.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

PERIOD = 1 / 15  # seconds between two drawings
MARGIN = 2  # lines of the window that an unfinished block leaves free
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


def split_blocks(text: str) -> tuple[list[str], str]:
    """The Markdown blocks of ``text`` that are whole, and what comes after them."""
    blocks: list[str] = []
    begin = at = 0
    fence = ""
    for line in text.splitlines(keepends=True):
        at += len(line)
        found = _FENCE.match(line)
        if found and (not fence or found[1].startswith(fence)):
            fence = "" if fence else found[1]
        elif not line.strip() and not fence and line.endswith("\n"):
            if text[begin:at].strip():
                blocks.append(text[begin:at])
            begin = at
    return blocks, text[begin:]


class AnswerView:
    """Draws one answer on ``console`` while the block runs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._rest = ""
        self._drawn = 0.0

    def __enter__(self) -> AnswerView:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """What is left is drawn too: also where the answer was stopped."""
        self._live.update("", refresh=True)
        self._live.stop()
        if self._rest.strip():
            self._console.print(_markdown(self._rest))

    def show(self, piece: str) -> None:
        """Add a piece of the answer."""
        whole, self._rest = split_blocks(self._rest + piece)
        for block in whole:
            self._live.update("")
            self._live.console.print(_markdown(block))
            self._live.console.print()
        now = time.monotonic()
        if whole or now - self._drawn >= PERIOD:
            self._drawn = now
            self._live.update(_Tail(_markdown(self._rest)), refresh=True)


class _Tail:
    """The last lines of a drawing, as many as fit the window."""

    def __init__(self, drawing: Any) -> None:
        self._drawing = drawing

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._drawing, options, pad=False)
        for line in lines[-max(1, console.height - MARGIN) :]:
            yield from line
            yield Segment.line()


def _markdown(text: str) -> Markdown:
    return Markdown(text, hyperlinks=False)
