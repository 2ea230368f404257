"""The pool of models behind one address: a process for each, loaded and unloaded as needed.

Without an idle time every model is loaded and stays. With one, a model is loaded when a request
asks for it and unloaded when nobody has for so long; where the memory is short, the one that was
used least lately makes room, once its requests are answered. Who has waited longest is loaded
first, so that no model keeps another out. A request in flight is never cut by an unload.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from llama_hub.backends.local.quarantine import Quarantine
from llama_hub.backends.local.replica import Replica, ReplicaBody
from llama_hub.backends.local.upstream import Upstream
from llama_hub.errors import LlamaHubError, ProvisioningError
from llama_hub.inference.service.launch import its_own
from llama_hub.inference.service.problems import unavailable

PERIOD = 0.05  # seconds between two looks
WAITING = 64  # requests that may wait for a model that is being loaded
RETRY = 10.0  # seconds after a failed load in which nobody waits for another
_logger = logging.getLogger("llama_hub.models")
REMEMBERED = 200  # lines that a model's process has said


@dataclass(frozen=True)
class PooledModel:
    """A model that can be loaded."""

    name: str  # as clients call it
    argv: tuple[str, ...]  # what serves it, and says in JSON where
    need: int  # bytes of memory while it is loaded
    environment: Mapping[str, str] = field(default_factory=dict)


class Slot:
    """One model of the pool as it is."""

    def __init__(self, model: PooledModel, log: Callable[[str, str], None]) -> None:
        self.model = model
        self.replica: Replica | None = None  # also while it is being stopped
        self.leaving = False  # takes no more requests
        self.ending = False  # its process is being stopped
        self.waiting = 0  # requests
        self.since = 0.0  # when the first of them came
        self.used = 0.0  # when the last request ended
        self.failure: LlamaHubError | None = None  # of the last load
        self.failed = 0.0  # when
        self.loads = self.unloads = 0
        self.began = 0.0  # when the load began that is under way, or the last
        self.seconds: float | None = None  # that the last load took
        self.output = _Output(model.name, log)

    @property
    def upstream(self) -> Upstream | None:
        """Where requests go now."""
        replica = self.replica
        return replica.upstream if replica and replica.ready and not self.leaving else None

    @property
    def in_flight(self) -> int:
        """Requests that its process works on."""
        upstream = self.replica.upstream if self.replica else None
        return upstream.in_flight if upstream else 0

    @property
    def word(self) -> str:
        """Its state in one word."""
        if self.replica is None and self.waiting:
            return "loading"  # soon, or when there is room
        if self.replica is None:
            return "failed" if self.failure is not None else "unloaded"
        if self.leaving:
            return "unloading"
        word = str(self.replica.state()["state"])
        return {"starting": "loading", "waiting": "restarting"}.get(word, word)


class ModelPool:
    """Keeps loaded what is asked for, within ``memory`` bytes (``None``: nobody can tell)."""

    def __init__(
        self,
        models: Sequence[PooledModel],
        *,
        memory: int | None,
        idle: float | None,
        patience: float,
        secret: str,
        log: Callable[[str, str], None] = lambda name, line: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``idle``: seconds after which a model is unloaded; ``None``: all stay loaded.
        ``patience``: seconds that a request waits for a load. ``secret``: the key of the processes.
        ``log``: is told what they say, line by line."""
        self.slots = {model.name: Slot(model, log) for model in models}
        self.quarantine = Quarantine()
        self.secret = secret
        self.idle = idle
        self._memory = memory
        self._patience = patience
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._stopping: set[asyncio.Task[None]] = set()
        self._closed = False

    async def start(self) -> None:
        """Load all models, or the first one where others may be unloaded.

        Raises the error of a model that cannot be loaded.
        """
        self._task = asyncio.create_task(self._work())
        slots = list(self.slots.values())
        wanted = slots if self.idle is None else slots[:1]
        for slot in wanted:
            slot.waiting += 1
        try:
            while any(slot.upstream is None for slot in wanted):
                for slot in wanted:
                    if slot.failure is not None:
                        raise slot.failure
                await asyncio.sleep(PERIOD)
        finally:
            for slot in wanted:
                slot.waiting -= 1
                slot.used = self._clock()

    async def close(self) -> None:
        """End all processes; what is in flight is cut."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for slot in self.slots.values():
            self._stop(slot)
        await asyncio.gather(*self._stopping, return_exceptions=True)

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[Upstream]:
        """The process of the model ``name``, which stays until the block ends.

        ``Problem`` 503 if it is not loaded in time, or cannot be.
        """
        slot = self.slots[name]
        upstream = slot.upstream or await self._loaded(slot)
        upstream.in_flight += 1
        upstream.taken += 1
        try:
            yield upstream
        finally:
            upstream.in_flight -= 1
            slot.used = self._clock()

    async def _loaded(self, slot: Slot) -> Upstream:
        """Wait until the model can be asked."""
        name, began = slot.model.name, self._clock()
        if slot.waiting >= WAITING:
            raise unavailable(
                f"{name} is being loaded, and {slot.waiting} requests wait for it already",
                self._seconds_left(slot),
            )
        slot.waiting += 1
        slot.since = slot.since if slot.waiting > 1 else began
        try:
            while self._clock() - began < self._patience and not self._closed:
                if (upstream := slot.upstream) is not None:
                    return upstream
                if slot.failure is not None and self._clock() - slot.failed < RETRY:
                    raise unavailable(f"{name} could not be loaded: {slot.failure.message}", 30)
                await asyncio.sleep(PERIOD)
        finally:
            slot.waiting -= 1
        raise unavailable(f"{name} is still being loaded", self._seconds_left(slot))

    def _seconds_left(self, slot: Slot) -> int:
        """When another try is worth it, as far as the last load tells."""
        left = (slot.seconds or 0.0) - (self._clock() - slot.began)
        return max(5, min(60, round(left)))

    async def _work(self) -> None:
        while True:
            try:
                self.turn()
            except Exception:
                _logger.exception("a look at the models failed; the next comes soon")
            await asyncio.sleep(PERIOD)

    def turn(self) -> None:
        """One look: take note, unload what is idle, load what is wanted."""
        now = self._clock()
        for slot in self.slots.values():
            self._note(slot, now)
        if self.idle is not None:
            for slot in self._spare():
                slot.leaving = not slot.in_flight and now - slot.used >= self.idle
        for slot in self.slots.values():
            if slot.leaving and not slot.in_flight:
                self._stop(slot)
        self._load_wanted(now)

    def _note(self, slot: Slot, now: float) -> None:
        """What became of a load."""
        if slot.replica is None or slot.leaving:
            return
        if slot.upstream is not None and slot.seconds is None:
            slot.seconds = now - slot.began
            slot.used = now
            slot.failure = None
        if slot.replica.state()["state"] == "failed":
            slot.failure = slot.output.error(slot.replica.state()["error"])
            slot.failed = now
            slot.replica = None

    def _load_wanted(self, now: float) -> None:
        """Who has waited longest first; nobody passes it while room is made."""
        wanted = [
            slot
            for slot in self.slots.values()
            if slot.replica is None
            and (slot.waiting or self.idle is None)
            and (slot.failure is None or now - slot.failed >= RETRY)
        ]
        if not wanted:  # who was to make room for somebody that has gone stays
            for slot in self.slots.values():
                slot.leaving = slot.ending
        for slot in sorted(wanted, key=lambda each: each.since):
            if not self._has_room(slot):
                self._make_room(slot)
                return
            self._load(slot, now)

    def _has_room(self, slot: Slot) -> bool:
        return self._memory is None or self._taken() + slot.model.need <= self._memory

    def _taken(self) -> int:
        return sum(each.model.need for each in self.slots.values() if each.replica is not None)

    def _make_room(self, slot: Slot) -> None:
        """Have those leave that were used least lately, as far as it helps."""
        others = [each for each in self.slots.values() if each.leaving]
        taken = self._taken() - sum(each.model.need for each in others)
        for each in sorted(self._spare(), key=lambda other: (bool(other.in_flight), other.used)):
            if self._memory is None or taken + slot.model.need <= self._memory:
                return
            each.leaving = True
            taken -= each.model.need

    def _spare(self) -> list[Slot]:
        """Those whose process may be stopped: nobody waits for it."""
        if self.idle is None:
            return []
        return [
            slot
            for slot in self.slots.values()
            if slot.replica is not None and not (slot.leaving or slot.waiting)
        ]

    def _load(self, slot: Slot, now: float) -> None:
        slot.began, slot.seconds, slot.used = now, None, now
        slot.failure = None
        slot.loads += 1
        slot.replica = Replica(
            slot.model.name,
            ReplicaBody(slot.model.argv, slot.model.environment, attempt=0, drain=0.0),
            secret=self.secret,
            proved=False,
            output=slot.output,
            on_accident=lambda upstream: self.quarantine.record_crash(upstream.workload.suspects()),
        )
        slot.replica.start()

    def _stop(self, slot: Slot) -> None:
        """End the process; its memory counts as taken until it has ended."""
        if slot.replica is None or slot.ending:
            return
        slot.leaving = slot.ending = True
        task = asyncio.create_task(self._ended(slot, slot.replica))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def _ended(self, slot: Slot, replica: Replica) -> None:
        await replica.stop()
        slot.replica, slot.leaving, slot.ending = None, False, False
        slot.unloads += 1


class _Output(logging.Handler):
    """What a model's process says: passed on, and the last of it remembered."""

    def __init__(self, name: str, log: Callable[[str, str], None]) -> None:
        super().__init__()
        self._prefix = f"[{name}] "
        self._name = name
        self._log = log
        self._lines: deque[str] = deque(maxlen=REMEMBERED)

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line."""
        line = record.getMessage().removeprefix(self._prefix)
        self._lines.append(line)
        self._log(self._name, line)

    def error(self, ended: str) -> LlamaHubError:
        """Why the process ended, in its own words where it said some; ``ended``: how."""
        lines = list(self._lines)
        self._lines.clear()
        for start in reversed([index for index, line in enumerate(lines) if line == "{"]):
            try:
                document: dict[str, Any] = json.loads("\n".join(lines[start:]))
                return its_own(document["error"])
            except (ValueError, KeyError, TypeError):
                continue
        return ProvisioningError(
            f"{self._name} {ended}: {'; '.join(lines[-3:])}",
            hint=f"llama-hub serve {self._name}   shows why",
        )
