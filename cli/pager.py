"""Show a long text to the person at the terminal, page by page.

The text comes from a stranger, so control characters, which could rewrite the
screen, are replaced. stdout stays free for the command's answer.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

DEFAULT = "less"


def page(text: str) -> None:
    """Show ``text`` on the terminal behind stderr, through ``PAGER`` where that can be run."""
    shown = printable(text)
    command = shlex.split(os.environ.get("PAGER") or DEFAULT)
    # F: do not stop for a text that fits on the screen; X: leave it there afterwards.
    environment = {"LESS": "FX", **os.environ}
    try:
        subprocess.run(command, input=shown.encode(), stdout=sys.stderr, env=environment)
    except (FileNotFoundError, PermissionError):
        sys.stderr.write(shown + "\n")
        sys.stderr.flush()


def printable(text: str) -> str:
    """``text`` with every character that is neither shown nor white space replaced."""
    lines = text.expandtabs().splitlines()
    return "\n".join(
        "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
        for line in lines
    )
