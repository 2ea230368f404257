"""Progress of long work, told without knowing who listens.

The library calls a ``Progress``; the command line draws it, a script may pass
its own, and ``NO_PROGRESS`` ignores everything. Amounts are bytes unless the
task was started with another unit.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A listener; every method may be called from any thread."""

    def start(self, task: str, total: int | None = None, *, unit: str = "B", done: int = 0) -> None:
        """Begin ``task`` (or give it a new total); ``done`` is what is there already."""

    def advance(self, task: str, amount: int) -> None:
        """``amount`` more of ``task`` is done."""

    def finish(self, task: str, note: str = "") -> None:
        """``task`` is over; ``note`` is a short outcome such as ``verified``."""

    def say(self, message: str) -> None:
        """One line that a person should see, outside any task."""


class _NoProgress:
    def start(self, task: str, total: int | None = None, *, unit: str = "B", done: int = 0) -> None:
        pass

    def advance(self, task: str, amount: int) -> None:
        pass

    def finish(self, task: str, note: str = "") -> None:
        pass

    def say(self, message: str) -> None:
        pass


NO_PROGRESS: Progress = _NoProgress()
