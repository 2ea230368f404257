"""The process that keeps a local deployment running (``-m llama_hub.backends.local.supervisor``).

It belongs to no terminal and survives the command that started it. It reads what
is wanted (``desired.json``), starts and stops replicas until that is so, leads the
reverse proxy to those that serve, restarts with growing pauses what ends or does not
answer, and writes down what runs (``state.json``). It knows no plan and no model.

No file is needed to go on: what is wanted, the key and the state are in its
memory, and it writes them again where they are gone or damaged. It ends when it
is told to, or when its folder is gone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from llama_hub.backends.local.documents import DesiredState, ReplicaState, SupervisorState
from llama_hub.backends.local.logs import rotating
from llama_hub.backends.local.processes import MARK, identity, kill_replica
from llama_hub.backends.local.replica import Replica, ReplicaBody
from llama_hub.backends.local.reverse_proxy import ReverseProxy
from llama_hub.backends.local.state import Folder
from llama_hub.backends.local.state_files import AFTER_ERROR, StateFiles, SupervisorLock
from llama_hub.backends.local.upstream import Upstream

PERIOD = 0.1  # seconds between two looks at what is wanted
FILES = 8192  # that the process may have open, where the system allows it

ReplicaId = tuple[str, int]  # generation and number of a replica


class Supervisor:
    """One deployment's replicas and its address."""

    def __init__(self, folder: Folder, lock: SupervisorLock) -> None:
        self._folder = folder
        self._lock = lock
        self._desired = DesiredState("127.0.0.1", 0, api_key=False)
        self._key: str | None = None
        self._replicas: dict[ReplicaId, Replica] = {}
        self._stopping: set[asyncio.Task[None]] = set()
        self._proved: set[str] = set()
        self._serving = ""
        self._proxy = ReverseProxy(self._upstreams)
        self._server: asyncio.Server | None = None
        self._address: tuple[str, int] | None = None
        self._trouble = ""
        self._told_to_stop = asyncio.Event()
        self._output = rotating(folder.service_log)
        self._files = StateFiles(folder)

    async def run(self) -> None:
        """Until what is wanted is nothing, or a signal says stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop.set)
        self._take_over()
        while not self._told_to_stop.is_set() and self._read():
            await self._turn()
            with suppress(TimeoutError):
                async with asyncio.timeout(PERIOD):
                    await self._told_to_stop.wait()
        await self._end()

    async def _turn(self) -> None:
        """One look; an error in it ends nothing."""
        try:
            if not self._lock.keep():
                logging.error("another supervisor has taken this deployment")
                self._told_to_stop.set()
                return
            self._key = self._files.key(self._desired.api_key)
            self._proxy.require(self._key)
            await self._listen()
            self._converge()
            self._files.write_state(self._state())
        except Exception:
            logging.exception("a look at what is wanted failed; the next comes soon")
            await asyncio.sleep(AFTER_ERROR)

    def _take_over(self) -> None:
        """Remember what an earlier supervisor proved and where it listened; end what it left."""
        state = self._folder.last_state()
        if state is None:
            return
        self._proved = set(state.proved)
        self._address = state.address
        for child in state.children:
            if kill_replica(child.pid, child.identity, self._folder.path):
                logging.warning("ended replica %s of an earlier supervisor", child.pid)

    def _read(self) -> bool:
        """Read what is wanted, if it changed; whether anything is."""
        desired = self._files.desired()
        if desired is not None:
            self._desired = desired
        return desired is not None and not desired.deleted

    async def _listen(self) -> None:
        """Have the address that is wanted; the port of an earlier run is taken again."""
        host, port = self._desired.host, self._desired.port
        before = self._address if self._address and self._address[0] == host else None
        if self._server is not None and before and port in (0, before[1]):
            return
        wanted = port or (before[1] if before else self._desired.taken_port)
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
        for key in [key for key in self._replicas if key not in wanted]:
            self._retire(self._replicas.pop(key))
        for key, body in wanted.items():
            there = self._replicas.get(key)
            if there is not None and there.body != body:
                self._retire(self._replicas.pop(key))
                there = None
            if there is None:
                self._replicas[key] = self._start(key, body)
        for (generation, _), replica in self._replicas.items():
            if replica.ready:
                self._proved.add(generation)
        active = self._desired.active
        if active != self._serving and (self._ready(active) or not self._ready(self._serving)):
            self._serving = active

    def _wanted(self) -> dict[ReplicaId, ReplicaBody]:
        """What is to run, by generation and number, as far as a replica depends on it."""
        return {
            (generation, number): ReplicaBody(
                argv=tuple(revision.argv),
                environment=revision.environment
                | revision.devices.get(str(number), {})
                | {MARK: str(self._folder.path)},
                attempt=revision.attempt,
                drain=revision.drain,
            )
            for generation, revision in self._desired.revisions.items()
            for number in range(revision.replicas if revision.run else 0)
        }

    def _start(self, key: ReplicaId, body: ReplicaBody) -> Replica:
        generation, number = key
        replica = Replica(
            f"{generation}.{number}",
            body,
            secret=self._key,
            proved=generation in self._proved,
            output=self._output,
            on_accident=self._record_crash,
        )
        replica.start()
        return replica

    def _record_crash(self, upstream: Upstream) -> None:
        """A replica ended by an accident: what it worked on may have been the cause."""
        self._proxy.quarantine.record_crash(upstream.workload.suspects())

    def _retire(self, replica: Replica) -> None:
        task = asyncio.create_task(replica.stop())
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    def _upstreams(self) -> list[Upstream]:
        """The replicas that take requests now."""
        return [
            replica.upstream
            for (generation, _), replica in self._replicas.items()
            if generation == self._serving and replica.upstream is not None and replica.ready
        ]

    def _ready(self, generation: str) -> bool:
        return any(one.ready for (known, _), one in self._replicas.items() if known == generation)

    def _state(self) -> SupervisorState:
        return SupervisorState(
            pid=os.getpid(),
            identity=identity(os.getpid()),
            address=self._address if self._server else None,
            trouble=self._trouble,
            serving=self._serving if self._ready(self._serving) else "",
            proved=sorted(self._proved),
            seen=self._desired.digest,
            stopping=len(self._stopping),
            children=[
                ReplicaState(generation=generation, number=number, **replica.state())
                for (generation, number), replica in self._replicas.items()
            ],
        )

    async def _end(self) -> None:
        """Stop everything, in good order."""
        if self._server is not None:
            self._server.close()
        for replica in self._replicas.values():
            self._retire(replica)
        await asyncio.gather(*self._stopping, return_exceptions=True)
        await self._proxy.close()
        self._output.close()


def _to_background() -> None:
    """Become a process of its own: no terminal, no parent that waits."""
    if os.fork():
        os._exit(0)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.chdir("/")


def _allow_files() -> None:
    """Have room for many connections, each of which is an open file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def main(path: str) -> None:
    """Supervise the deployment in folder ``path`` until it is no longer wanted."""
    folder = Folder(Path(path))
    os.umask(0o077)  # also for what the replicas write: logs and states are the owner's
    lock = SupervisorLock(folder.lock)
    if not lock.take():
        return  # another one is at work
    _to_background()  # with the lock: whoever waits for this to return finds it held
    logging.basicConfig(
        level=logging.INFO, handlers=[rotating(folder.supervisor_log, "%(asctime)s %(message)s")]
    )
    logging.Formatter.converter = time.gmtime
    _allow_files()
    try:
        asyncio.run(Supervisor(folder, lock).run())
    except Exception:
        logging.exception("the supervisor ended by an error of its own")
        raise


if __name__ == "__main__":
    main(sys.argv[1])
