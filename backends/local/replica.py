"""One service process: started, watched, restarted, stopped in good order.

The process says on its standard output, in one line of JSON, at which ``url`` it
answers; from then on ``/health`` is asked. What else it prints goes to the log.
"""

from __future__ import annotations

import asyncio
import ctypes
import ctypes.util
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from llama_hub.backends.local.processes import identity
from llama_hub.backends.local.upstream import Upstream
from llama_hub.child_environment import child_environment

HEALTH_PERIOD = 1.0  # seconds
HEALTH_TIMEOUT = 10.0  # seconds for one answer
HEALTH_FAILURES = 3  # in a row, then it is restarted
FIRST_PAUSE = 0.5  # seconds before a restart; doubles
LONGEST_PAUSE = 60.0  # seconds
LONG_ENOUGH = 60.0  # seconds of health after which a restart counts as the first again
AFTER_TERM = 40.0  # seconds between SIGTERM and SIGKILL; the service itself drains for 25
OWN_QUESTION = "GET /health 200"  # lines about our own questions would fill the log
PR_SET_PDEATHSIG = 1
_logger = logging.getLogger()  # the supervisor's; logging.info would make a handler where none is
LINE_LIMIT = 1 << 20  # bytes


@dataclass(frozen=True)
class ReplicaBody:
    """All on which a replica depends: another body needs another process."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]  # beyond what every child inherits
    attempt: int
    drain: float  # seconds that requests under way get


class Replica:
    """A child process and the watch over it.

    ``proved``: the revision has been ready once, so that an exit is an accident and worth a
    restart; a revision that ends before it was ever ready has failed. ``on_accident`` is told
    when the process ended, or has to be ended, without anybody wanting it.
    """

    def __init__(
        self,
        name: str,
        body: ReplicaBody,
        *,
        secret: str | None,
        proved: bool,
        output: logging.Handler,
        on_accident: Callable[[Upstream], None],
    ) -> None:
        self.name = name
        self.body = body
        self.ready = False
        self.upstream: Upstream | None = None
        self._secret = secret
        self._proved = proved
        self._output = output
        self._on_accident = on_accident
        self._process: asyncio.subprocess.Process | None = None
        self._identity: str | None = None
        self._word = "starting"
        self._restarts = 0
        self._error = ""
        self._since = _now()
        self._watch: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to run and to watch."""
        self._watch = asyncio.create_task(self._live())

    def state(self) -> dict[str, Any]:
        """What ``ReplicaState`` tells of it."""
        running = self._process is not None and self._process.returncode is None
        return {
            "pid": self._process.pid if self._process and running else None,
            "identity": self._identity if running else None,
            "port": self.upstream.port if self.upstream else None,
            "state": self._word,
            "restarts": self._restarts,
            "error": self._error,
            "since": self._since,
        }

    async def stop(self) -> None:
        """Take no more requests, let those under way finish, then end the process."""
        self.ready = False
        end = time.monotonic() + self.body.drain
        while self.upstream and self.upstream.in_flight and time.monotonic() < end:
            await asyncio.sleep(0.05)
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
        await self._terminate(AFTER_TERM)

    async def _live(self) -> None:
        """Run, and run again after an accident."""
        pause = FIRST_PAUSE
        while True:
            begun = time.monotonic()
            await self._once()
            if not self._proved:
                self._become("failed")
                return
            if time.monotonic() - begun > LONG_ENOUGH:
                pause = FIRST_PAUSE
            self._become("waiting")
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 2)
            self._restarts += 1

    async def _once(self) -> None:
        """From start to end of one process."""
        self._become("starting")
        try:
            process = await self._spawn()
        except OSError as error:
            self._error = f"cannot start {self.body.argv[0]}: {error}"
            return
        reading = [
            asyncio.create_task(self._read(process.stdout, self._announced)),
            asyncio.create_task(self._read(process.stderr, lambda line: False)),
        ]
        ended = asyncio.create_task(process.wait())
        health = asyncio.create_task(self._watch_health())
        try:
            await asyncio.wait({ended, health}, return_when=asyncio.FIRST_COMPLETED)
            self.ready = False
            if self.upstream is not None:
                self._on_accident(self.upstream)
            if not ended.done():
                await self._terminate(AFTER_TERM)
            self._error = self._error or f"ended with {_exit_text(process.returncode)}"
            await asyncio.wait(reading, timeout=5)
        finally:
            for task in (*reading, ended, health):
                task.cancel()
            self.ready, self.upstream = False, None
        self._log(f"[{self.name}] {self._error}")

    async def _spawn(self) -> asyncio.subprocess.Process:
        environment = child_environment(PYTHONUNBUFFERED="1") | dict(self.body.environment)
        if self._secret:
            environment["LLAMA_HUB_API_KEY"] = self._secret
        self._error = ""
        self._process = await asyncio.create_subprocess_exec(
            *self.body.argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=True,
            preexec_fn=_die_with_parent(),
            limit=LINE_LIMIT,
        )
        self._identity = identity(self._process.pid)
        return self._process

    async def _read(
        self, stream: asyncio.StreamReader | None, is_mine: Callable[[str], bool]
    ) -> None:
        """Lines to the log, except those that are for us."""
        while stream is not None:
            try:
                line = await stream.readline()
            except ValueError:  # longer than the limit: dropped by the reader
                continue
            if not line:
                return
            text = line.decode("utf-8", "replace").rstrip()
            if text and not is_mine(text) and OWN_QUESTION not in text:
                self._log(f"[{self.name}] {text}")

    def _announced(self, line: str) -> bool:
        """Take the address from the line of JSON that says where the service answers."""
        with suppress(ValueError, TypeError, KeyError):
            self.upstream = Upstream(int(urlsplit(json.loads(line)["url"]).port or 0))
            return True
        return False

    async def _watch_health(self) -> None:
        """Ask again and again; returns when the process has to be restarted."""
        failures = 0
        while failures < HEALTH_FAILURES:
            if self.upstream is None:
                await asyncio.sleep(0.05)
                continue
            if await _is_healthy(self.upstream.port):
                failures = 0
                self._proved = self.ready = True
                self._become("ready")
            elif self._word == "ready":
                failures += 1
            await asyncio.sleep(HEALTH_PERIOD if self.ready else 0.1)
        self._error = f"/health failed {HEALTH_FAILURES} times in a row"

    async def _terminate(self, patience: float) -> None:
        """SIGTERM, and SIGKILL to the whole group when that is not enough."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(patience):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    def _become(self, word: str) -> None:
        if word != self._word:
            self._word, self._since = word, _now()
            _logger.info("replica %s is %s %s", self.name, word, self._error)

    def _log(self, line: str) -> None:
        record = logging.LogRecord("service", logging.INFO, "", 0, line, None, None)
        self._output.handle(record)


async def _is_healthy(port: int) -> bool:
    """Whether ``GET /health`` is answered with 200."""
    try:
        async with asyncio.timeout(HEALTH_TIMEOUT):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(
                    b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                )
                line = await reader.readline()
                return line.startswith(b"HTTP/1.1 200")
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):  # ValueError: a line without end
        return False


def _die_with_parent() -> Callable[[], None] | None:
    """On Linux: have the kernel end the child when the supervisor is killed."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
    return lambda: library.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _exit_text(code: int | None) -> str:
    if code is not None and code < 0:
        with suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
