"""A pager: a long text for the person at the terminal, page by page.

The text comes from a stranger, so control characters, which could rewrite the
screen, are replaced. stdout stays free for the command's answer.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

from llama_hub.cli.printable import printable

DEFAULT = "less"


def page(text: str) -> None:
    """Show ``text`` on the terminal behind stderr, through ``PAGER`` where that can be run."""
    shown = printable(text.expandtabs())
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
