"""Run something in a forked process that is killed (SIGKILL) at a chosen moment."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any


def killed_at(moment: int, work: Callable[[], object]) -> bool:
    """Fork, run ``work``, die at its ``moment``-th function call; whether it died by that.

    Every call counts, of Python and of C functions, so the moments cover everything that has an
    effect outside the process.
    """
    pid = os.fork()
    if pid == 0:
        _child(moment, work)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, "the forked work failed; its traceback is on stderr"
    return False


def calls_of(work: Callable[[], object]) -> int:
    """How many function calls ``work`` takes, counted in this process."""
    count = 0

    def tick(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(tick)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def _child(moment: int, work: Callable[[], object]) -> None:
    left = moment

    def tick(frame: Any, event: str, argument: Any) -> None:
        nonlocal left
        left -= event in ("call", "c_call")
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    code = 1
    try:
        sys.setprofile(tick)
        work()
        sys.setprofile(None)
        code = 0
    except BaseException:
        sys.setprofile(None)
        traceback.print_exc()
    finally:
        os._exit(code)
