"""Child processes of the engine that answer over their pipes: how they end."""

from __future__ import annotations

import subprocess
from contextlib import suppress


def kill(process: subprocess.Popen[bytes]) -> None:
    """End the process at once and take back what it held."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):  # what was not written is of no interest any more
            if pipe is not None:
                pipe.close()
