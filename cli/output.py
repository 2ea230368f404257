"""The one output sink: data on stdout, everything else on stderr.

With ``--json`` stdout carries exactly one JSON document; with ``--quiet``
stderr carries only warnings and errors. Whatever is shown passes ``printable``,
which lets no control character through. Rich is imported when something rich
is drawn, so that short commands start fast.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from llama_hub.cli.printable import console, printable, printable_json
from llama_hub.errors import LlamaHubError, UsageError
from llama_hub.progress import NO_PROGRESS, Progress

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import TaskID

PLAIN_INTERVAL = 5.0  # seconds between two plain progress lines of one task
PLAIN_SHORTEST = 1.0  # seconds; what ends sooner needs no line of its own

TRIES = 3  # answers to one question
_ANSWERS = {"y": True, "yes": True, "n": False, "no": False, "": False}


class Output:
    """Where a command writes; one for the process, made by ``output``."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self._answered = False
        self._display: Progress | None = None  # bars that are on the terminal now

    def result(
        self,
        document: Mapping[str, Any],
        text: str | Callable[[], RenderableType],
        *,
        compact: bool = False,
    ) -> None:
        """The command's answer: ``document`` under ``--json``, else ``text`` (or what it draws)."""
        self._answered = True
        if self.as_json:
            print(_dump(document, compact=compact), flush=True)
        elif isinstance(text, str):
            print(printable(text), flush=True)
        else:
            _draw(text(), sys.stdout)

    def stream(self, piece: str) -> None:
        """A piece of text that arrives in time, such as a chat reply; never under ``--json``."""
        if not self.as_json:
            sys.stdout.write(printable(piece))
            sys.stdout.flush()

    @contextmanager
    def answer(self) -> Iterator[Callable[[str], None]]:
        """Takes the pieces of a chat's answer: as Markdown at a terminal, else as they are."""
        if sys.stdout.isatty() and self.interactive:
            terminal = console(sys.stdout)
            if terminal.is_terminal and not terminal.is_dumb_terminal:
                from llama_hub.cli.answer_view import AnswerView

                with AnswerView(terminal) as view:
                    yield view.show
                return
        try:
            yield self.stream
        finally:
            self.stream("\n")

    def status(self, message: str) -> None:
        """What is going on, for a person."""
        if self._display is not None:
            self._display.say(message)
        elif not self.quiet:
            print(printable(message), file=sys.stderr, flush=True)

    def warn(self, message: str) -> None:
        """Something the person should know although the command goes on."""
        print(f"warning: {printable(message)}", file=sys.stderr, flush=True)

    def show(self, drawing: RenderableType) -> None:
        """Draw something rich for a person, on stderr."""
        if not self.quiet:
            _draw(drawing, sys.stderr)

    def error(self, error: LlamaHubError) -> None:
        """Print ``error`` in the form that the flags ask for."""
        if self.as_json and not self._answered:
            print(_dump({"error": describe(error)}))
        print(f"error: {printable(error.message)}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {printable(error.hint)}", file=sys.stderr, flush=True)

    @property
    def interactive(self) -> bool:
        """Whether a question may be asked: a person on both ends, no script flags."""
        return not self.as_json and sys.stdin.isatty() and sys.stderr.isatty()

    def ask(self, question: str, *, flag: str, secret: bool = False) -> str:
        """A person's answer; without a terminal a ``UsageError`` that names ``flag``."""
        if not self.interactive:
            raise UsageError(f"an answer is needed: {question}", hint=f"give {flag}")
        if secret:
            import getpass

            return getpass.getpass(f"{printable(question)}: ", stream=sys.stderr).strip()
        print(f"{printable(question)}: ", end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip()

    def confirm(self, question: str, *, flag: str) -> bool:
        """A person's yes or no, asked ``TRIES`` times until it is one of them; else it is a no.

        Without a terminal a ``UsageError`` that names ``flag``.
        """
        for _ in range(TRIES):
            answer = self.ask(f"{question} [y/N]", flag=flag).lower()
            if answer in _ANSWERS:
                return _ANSWERS[answer]
            question = "please answer y or n"
        return False

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A progress display: bars on a terminal, plain lines elsewhere, nothing if quiet."""
        if self.quiet:
            yield NO_PROGRESS
        elif sys.stderr.isatty():
            with _bars() as bars:
                self._display = bars
                try:
                    yield bars
                finally:
                    self._display = None
        else:
            yield PlainProgress(sys.stderr)


def describe(error: LlamaHubError) -> dict[str, Any]:
    """The ``error`` object of DESIGN: code, type, message, hint."""
    return {
        "code": int(error.exit_code),
        "type": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
    }


def _dump(document: Mapping[str, Any], *, compact: bool = False) -> str:
    indent = None if compact else 2
    return printable_json(json.dumps(document, indent=indent, ensure_ascii=False, default=str))


def _draw(drawing: RenderableType, stream: IO[str]) -> None:
    console(stream, None if stream.isatty() else 120).print(drawing)


class PlainProgress:
    """Progress as plain lines: for what takes long, at most one per task and interval."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._tasks: dict[str, _PlainTask] = {}

    def start(self, task: str, total: int | None = None, *, unit: str = "B", done: int = 0) -> None:
        with self._lock:
            self._tasks[task] = _PlainTask(total, unit, done)

    def advance(self, task: str, amount: int) -> None:
        with self._lock:
            state = self._tasks.setdefault(task, _PlainTask(None, "B", 0))
            state.done += amount
            if time.monotonic() - state.told >= PLAIN_INTERVAL:
                state.told = time.monotonic()
                self._print(f"{task}: {state.text()}")

    def finish(self, task: str, note: str = "") -> None:
        with self._lock:
            state = self._tasks.pop(task, None)
            if state is not None and time.monotonic() - state.begun >= PLAIN_SHORTEST:
                self._print(f"{task}: {note or 'done'}")

    def say(self, message: str) -> None:
        with self._lock:
            self._print(message)

    def _print(self, line: str) -> None:
        print(printable(line), file=self._stream, flush=True)


class _PlainTask:
    def __init__(self, total: int | None, unit: str, done: int) -> None:
        self.total = total
        self.unit = unit
        self.done = done
        self._begun_with = done
        self.begun = self.told = time.monotonic()

    def text(self) -> str:
        rate = (self.done - self._begun_with) / max(1e-9, time.monotonic() - self.begun)
        done = size_text(self.done, self.unit)
        if not self.total:
            return f"{done}, {size_text(int(rate), self.unit)}/s"
        left = (self.total - self.done) / rate if rate > 0 else float("inf")
        return (
            f"{done} of {size_text(self.total, self.unit)} ({self.done / self.total:.0%}), "
            f"{size_text(int(rate), self.unit)}/s, {duration_text(left)} left"
        )


def size_text(amount: int | None, unit: str = "B") -> str:
    """An amount for a person: ``12.5 GiB`` for bytes, ``40 tensors`` otherwise."""
    if amount is None:
        return "?"
    if unit != "B":
        return f"{amount} {unit}"
    value = float(amount)
    for name in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {name}" if name == "B" else f"{value:.1f} {name}"
        value /= 1024
    return f"{value:.2f} TiB"


def duration_text(seconds: float) -> str:
    """A duration for a person: ``45 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds == float("inf"):
        return "unknown time"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@contextmanager
def _bars() -> Iterator[Progress]:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as RichBars

    bars = RichBars(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=console(sys.stderr),
    )
    with bars:
        yield _RichProgress(bars)


class _RichProgress:
    """Progress as bars on a terminal."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def start(self, task: str, total: int | None = None, *, unit: str = "B", done: int = 0) -> None:
        if task in self._tasks:
            self._bars.update(self._tasks[task], total=total, completed=done)
        else:
            self._tasks[task] = self._bars.add_task(task, total=total, completed=done, note="")

    def advance(self, task: str, amount: int) -> None:
        if task not in self._tasks:
            self.start(task)
        self._bars.advance(self._tasks[task], amount)

    def finish(self, task: str, note: str = "") -> None:
        if task in self._tasks:
            bar = self._bars.tasks[self._tasks[task]]
            self._bars.update(self._tasks[task], total=bar.total or bar.completed, note=note)

    def say(self, message: str) -> None:
        self._bars.console.print(message)


_current = Output()


def output(as_json: bool = False, quiet: bool = False) -> Output:
    """Make the process's output sink; each command calls this first."""
    global _current
    _current = Output(as_json=as_json, quiet=quiet)
    return _current


def current() -> Output:
    """The sink that the running command made."""
    return _current
