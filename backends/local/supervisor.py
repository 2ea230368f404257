"""The process that keeps a local deployment running (``-m llama_hub.backends.local.supervisor``).

It belongs to no terminal and survives the command that started it. It reads what
is wanted (``desired.json``), starts and stops replicas until that is so, leads the
reverse proxy to those that serve, restarts with growing pauses what ends or does not
answer, and writes down what runs (``state.json``). It knows no plan and no model.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from llama_hub.backends.local.replica import Replica
from llama_hub.backends.local.reverse_proxy import ReverseProxy
from llama_hub.backends.local.state import (
    LOG_BYTES,
    LOG_FILES,
    Folder,
    identity,
    kill_group,
)
from llama_hub.backends.local.upstream import Upstream
from llama_hub.files import PRIVATE, locked

PERIOD = 0.1  # seconds between two looks at what is wanted


class Supervisor:
    """One deployment's replicas and its address."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._desired: dict[str, Any] = {}
        self._seen = 0  # modification time of what was read, nanoseconds
        self._replicas: dict[tuple[str, int], Replica] = {}
        self._stopping: set[asyncio.Task[None]] = set()
        self._proved: set[str] = set()
        self._serving = ""
        self._proxy = ReverseProxy(self._takers)
        self._server: asyncio.Server | None = None
        self._address: tuple[str, int] | None = None
        self._trouble = ""
        self._written: dict[str, Any] = {}
        self._told_to_stop = asyncio.Event()
        self._output = _rotating(folder.service_log)

    async def run(self) -> None:
        """Until what is wanted is nothing, or a signal says stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop.set)
        self._take_over()
        while not self._told_to_stop.is_set() and self._read():
            await self._listen()
            self._converge()
            self._write()
            with suppress(TimeoutError):
                async with asyncio.timeout(PERIOD):
                    await self._told_to_stop.wait()
        await self._end()

    def _take_over(self) -> None:
        """Remember what an earlier supervisor proved and where it listened; end what it left."""
        state = self._folder.state()
        self._proved = set(state.get("proved", ()))
        self._address = tuple(state["address"]) if state.get("address") else None
        for child in state.get("children", ()):
            if kill_group(child["pid"], child["identity"], signal.SIGKILL):
                logging.warning("ended replica %s of an earlier supervisor", child["pid"])

    def _read(self) -> bool:
        """Read what is wanted, if it changed; whether anything is."""
        path = self._folder.path / "desired.json"
        try:
            changed = path.stat().st_mtime_ns
        except FileNotFoundError:
            return False
        if changed != self._seen:
            self._desired, self._seen = self._folder.desired(), changed
        return not self._desired.get("deleted")

    async def _listen(self) -> None:
        """Have the address that is wanted; the port of an earlier run is taken again."""
        host, port = self._desired["host"], self._desired["port"]
        before = self._address if self._address and self._address[0] == host else None
        if self._server is not None and before and port in (0, before[1]):
            return
        wanted = port or (before[1] if before else 0)
        try:
            server = await self._proxy.listen(host, wanted)
        except OSError as error:
            self._trouble = f"cannot listen on {host}:{wanted}: {error.strerror}"
            return
        if self._server is not None:
            self._server.close()
        self._server, self._trouble = server, ""
        self._address = (host, int(server.sockets[0].getsockname()[1]))

    def _converge(self) -> None:
        """Start what is missing, stop what is not wanted, lead the proxy to what serves."""
        wanted = self._wanted()
        for place in [place for place in self._replicas if place not in wanted]:
            self._retire(self._replicas.pop(place))
        for place, revision in wanted.items():
            there = self._replicas.get(place)
            if there is not None and there.body != revision:
                self._retire(self._replicas.pop(place))
                there = None
            if there is None:
                self._replicas[place] = self._start(place, revision)
        for (generation, _), replica in self._replicas.items():
            if replica.ready:
                self._proved.add(generation)
        active = self._desired.get("active", "")
        if active != self._serving and (self._ready(active) or not self._ready(self._serving)):
            self._serving = active

    def _wanted(self) -> dict[tuple[str, int], Mapping[str, Any]]:
        """What is to run, by generation and number, as far as a replica depends on it."""
        found: dict[tuple[str, int], Mapping[str, Any]] = {}
        for generation, revision in self._desired["revisions"].items():
            for number in range(revision["replicas"] if revision["run"] else 0):
                found[generation, number] = {
                    "argv": revision["argv"],
                    "environment": dict(revision["environment"])
                    | revision["devices"].get(str(number), {}),
                    "attempt": revision.get("attempt", 0),
                    "drain": revision["drain"],
                }
        return found

    def _start(self, place: tuple[str, int], body: Mapping[str, Any]) -> Replica:
        generation, number = place
        replica = Replica(
            f"{generation}.{number}",
            body,
            secret=self._folder.key(),
            proved=generation in self._proved,
            output=self._output,
            on_accident=self._suspect,
        )
        replica.start()
        return replica

    def _suspect(self, upstream: Upstream) -> None:
        """A replica ended by an accident: what it worked on may have been the cause."""
        self._proxy.quarantine.suspect(upstream.workload.suspects())

    def _retire(self, replica: Replica) -> None:
        task = asyncio.create_task(replica.stop())
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    def _takers(self) -> list[Upstream]:
        """The replicas that take requests now."""
        return [
            replica.upstream
            for (generation, _), replica in self._replicas.items()
            if generation == self._serving and replica.upstream is not None and replica.ready
        ]

    def _ready(self, generation: str) -> bool:
        return any(one.ready for (known, _), one in self._replicas.items() if known == generation)

    def _write(self) -> None:
        """Say what runs, when it changed."""
        state = {
            "pid": os.getpid(),
            "identity": identity(os.getpid()),
            "address": list(self._address) if self._address and self._server else None,
            "trouble": self._trouble,
            "serving": self._serving if self._ready(self._serving) else "",
            "proved": sorted(self._proved),
            "seen": self._seen,
            "stopping": len(self._stopping),
            "children": [
                {"generation": generation, "number": number} | replica.state()
                for (generation, number), replica in self._replicas.items()
            ],
        }
        if state != self._written:
            self._folder.write_state(state)
            self._written = state

    async def _end(self) -> None:
        """Stop everything, in good order."""
        if self._server is not None:
            self._server.close()
        for replica in self._replicas.values():
            self._retire(replica)
        await asyncio.gather(*self._stopping, return_exceptions=True)
        await self._proxy.close()


def _rotating(path: Path) -> RotatingFileHandler:
    handler = RotatingFileHandler(
        path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8", delay=True
    )
    handler.setFormatter(logging.Formatter("%(message)s"))
    return handler


def _to_background() -> None:
    """Become a process of its own: no terminal, no parent that waits."""
    if os.fork():
        os._exit(0)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.chdir("/")


def main(path: str) -> None:
    """Supervise the deployment in folder ``path`` until it is no longer wanted."""
    folder = Folder(Path(path))
    _to_background()
    os.umask(0o077)  # also for what the replicas write: logs and states are the owner's
    handler = _rotating(folder.supervisor_log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.Formatter.converter = time.gmtime
    try:
        with locked(folder.lock, blocking=False, mode=PRIVATE):
            asyncio.run(Supervisor(folder).run())
    except BlockingIOError:
        return  # another one is at work
    except Exception:
        logging.exception("the supervisor ended by an error of its own")
        raise


if __name__ == "__main__":
    main(sys.argv[1])
