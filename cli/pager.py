"""A pager: a long text for the person at the terminal, page by page.

The text comes from a stranger, so control characters, which could rewrite the
screen, are replaced. stdout stays free for the command's answer.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import textwrap

from llama_hub.cli.printable import printable

DEFAULT = "less"


def page(text: str) -> None:
    """Show ``text`` on the terminal behind stderr, through ``PAGER`` where that can be run."""
    shown = _wrapped(printable(text.expandtabs()), shutil.get_terminal_size().columns)
    command = shlex.split(os.environ.get("PAGER") or DEFAULT)
    # F: do not stop for a text that fits on the screen; X: leave it there afterwards.
    environment = {"LESS": "FX", **os.environ}
    try:
        subprocess.run(
            command, input=shown.encode(errors="replace"), stdout=sys.stderr, env=environment
        )
    except (FileNotFoundError, PermissionError):
        sys.stderr.write(shown + "\n")
        sys.stderr.flush()


def _wrapped(text: str, width: int) -> str:
    """``text`` with its longer lines broken between words, each part as far in as its line."""
    lines = []
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip())][: width // 2]
        lines += textwrap.wrap(
            line, max(width, 20), subsequent_indent=indent, break_on_hyphens=False
        ) or [""]
    return "\n".join(lines)
