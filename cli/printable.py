"""Text from outside on a terminal: the one place that decides what may reach it.

A server's error, a file's name, a licence, a log line or a model's answer may hold characters that
move the cursor, retitle the window, answer for the person or turn the reading direction. None of
them is ever shown; JSON keeps them, as escapes.
"""

from __future__ import annotations

import functools
import logging
import re
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

# C0 and C1 controls (but for tab and line feed), line and paragraph separators, bidirectional
# controls (Unicode TR 36), halves of surrogate pairs, interlinear annotations, and tags: text that
# cannot be seen. Joiners stay: words of many languages need them.
_INVISIBLE = (
    "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f"
)
_UNSAFE = re.compile(f"[\x00-\x08\x0b-\x1f{_INVISIBLE}]")
_UNSAFE_IN_JSON = re.compile(f"[{_INVISIBLE}]")  # json escapes C0 itself


def printable(text: str) -> str:
    """``text`` with every character that could act on a terminal replaced; line ends become \\n."""
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(REPLACEMENT, text.replace("\r\n", "\n").replace("\r", "\n"))


def printable_json(text: str) -> str:
    """The same JSON document with such characters as escapes, so that it is exact and harmless."""
    return text if text.isascii() and "\x7f" not in text else _UNSAFE_IN_JSON.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


class PrintableFormatter(logging.Formatter):
    """Log lines for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def console(stream: IO[str], width: int | None = None) -> Console:
    """A rich console that draws only harmless text and takes no text for markup or emoji."""
    return _console_class()(  # type: ignore[no-any-return]
        file=stream,
        width=width,
        soft_wrap=width is not None,
        highlight=False,
        markup=False,
        emoji=False,
    )


@functools.cache
def _console_class() -> Any:
    from rich.console import Console
    from rich.segment import Segment

    class PrintableConsole(Console):
        """What is laid out is made harmless segment by segment; rich's own controls pass."""

        def render(self, renderable: Any, options: Any = None) -> Any:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else printable(text), style, control)

    return PrintableConsole
