"""Run the ``llama-hub`` command on a pseudo-terminal and talk to it as a person does."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence

PATIENCE = 60.0  # seconds to wait for an expected text


class Terminal:
    """A command whose stdin and stderr are a terminal; stdout is a pipe, or the terminal too."""

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], *, pipe_stdout: bool
    ) -> None:
        self.shown = ""  # everything that the terminal showed
        self._seen = 0  # how much of it was expected already
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llama_hub", *arguments],
            stdin=slave,
            stdout=subprocess.PIPE if pipe_stdout else slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm", **environment},
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(slave)

    def expect(self, text: str) -> None:
        """Wait until ``text`` is shown, after whatever was expected before."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.shown[self._seen :]:
            if time.monotonic() > deadline or not self._read(deadline):
                raise AssertionError(f"{text!r} never came; the terminal shows:\n{self.shown}")
        self._seen = self.shown.index(text, self._seen) + len(text)

    def type(self, line: str) -> None:
        """Type ``line`` and Enter."""
        os.write(self._master, line.encode() + b"\n")

    def press(self, keys: str) -> None:
        """Type ``keys`` without Enter."""
        os.write(self._master, keys.encode())

    def finish(self) -> tuple[int, str]:
        """Exit code and stdout (if it is a pipe) once the command has ended."""
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline):
            pass
        out = self.process.stdout.read().decode() if self.process.stdout else ""
        return self.process.wait(PATIENCE), out

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        os.close(self._master)

    def _read(self, deadline: float) -> bool:
        """Read what has come; false at the end of the output."""
        ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: the command has ended and closed the terminal
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)


def _take_terminal() -> None:
    """Make stdin the controlling terminal, so that ``/dev/tty`` and Ctrl-C work."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@contextlib.contextmanager
def terminal(
    *arguments: str, environment: Mapping[str, str] | None = None, pipe_stdout: bool = True
) -> Iterator[Terminal]:
    """A running ``llama-hub`` command on a terminal."""
    running = Terminal(arguments, environment or {}, pipe_stdout=pipe_stdout)
    try:
        yield running
    finally:
        running.close()
