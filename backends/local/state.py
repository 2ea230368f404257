"""The state of a local deployment on the disk: what is wanted, what runs, and what was said.

=======================  ======================================================
``desired.json``         written by the backend: address, revisions, which one serves
``desired.backup.json``  the same once more, read where the first cannot be
``state.json``           written by the supervisor: its process, its children, its port
``key``                  the API key, where there is one
``service.log``          what the replicas print, rotated; ``supervisor.log`` likewise
``lock``                 held by the supervisor for as long as it lives
=======================  ======================================================

Nothing here is fatal. The state is a cache that the supervisor writes again when
it is not as it wrote it; what is wanted and the key it restores from what it
knows; whether it lives is told by the lock, which no file's content can fake.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from llama_hub.backends.local.documents import (
    DESIRED,
    STATE,
    DesiredState,
    SupervisorState,
    seal,
    unseal,
)
from llama_hub.backends.local.processes import is_supervisor
from llama_hub.errors import FileFormatError, NotFoundError
from llama_hub.files import is_locked, private_lock, write_state
from llama_hub.strict import FileKind, read_text

HEALING = 2.0  # seconds in which a living supervisor restores what was damaged
RELOCKING = 0.3  # seconds in which it locks again what was taken from it
POLL = 0.05  # seconds

T = TypeVar("T")

# Of a supervisor that lives, but could not write for longer than ``HEALING``.
NO_STATE = SupervisorState(
    pid=0,
    identity=None,
    address=None,
    trouble="its supervisor runs, but cannot write down what it does: see supervisor.log",
    serving="",
    proved=[],
    seen="",
    stopping=0,
    children=[],
)

_KEY = FileKind("the API key", max_bytes=4096)
_KEY_TEXT = re.compile(r"llh-[\w-]{43}", re.ASCII)


@dataclass(frozen=True)
class Folder:
    """The files of one deployment."""

    path: Path

    @property
    def service_log(self) -> Path:
        """What the replicas print."""
        return self.path / "service.log"

    @property
    def supervisor_log(self) -> Path:
        """What the supervisor did."""
        return self.path / "supervisor.log"

    @property
    def lock(self) -> Path:
        """Held by the supervisor."""
        return self.path / "lock"

    @property
    def is_there(self) -> bool:
        """Whether anything is left of the deployment, whole or not."""
        return self.path.exists() or self.path.is_symlink()

    @property
    def is_supervised(self) -> bool:
        """Whether a supervisor lives."""
        end = time.monotonic() + RELOCKING
        while not (held := is_locked(self.lock)) and self._lost_its_lock():
            if time.monotonic() > end:
                break
            time.sleep(POLL)
        return held

    def _lost_its_lock(self) -> bool:
        """Whether one may live whose lock file is gone; it will make another at its next look."""
        if self.lock.is_file() and not self.lock.is_symlink():
            return self.living_state() is not None
        if self.path.is_dir() and not self.has_desired:
            return True  # nothing is left: it will make all of it again
        return (self.path / "state.json").exists() or self.lock.is_symlink() or self.lock.exists()

    def desired(self) -> DesiredState | None:
        """What is wanted; ``None`` if nothing is, or if nobody can tell any more."""
        return self._healed(self.read_desired)

    def read_desired(self) -> DesiredState | None:
        """What is wanted as far as the files tell it now."""
        for path in self._desired_files:
            if desired := unseal(path, DesiredState, DESIRED):
                return desired
        return None

    @property
    def has_desired(self) -> bool:
        """Whether something stands where the desired state should, readable or not."""
        return any(path.exists() or path.is_symlink() for path in self._desired_files)

    def is_whole(self, desired: DesiredState) -> bool:
        """Whether each of the files says that ``desired`` is wanted."""
        return all(unseal(path, DesiredState, DESIRED) == desired for path in self._desired_files)

    def write_desired(self, desired: DesiredState) -> None:
        """Say what is wanted."""
        data = seal(desired)
        for path in self._desired_files:
            write_state(path, data)

    @contextmanager
    def change(self, fresh: DesiredState | None = None) -> Iterator[DesiredState]:
        """Edit what is wanted, or ``fresh`` where nothing is; other processes wait.

        ``NotFoundError`` where neither can be read.
        """
        self.desired()  # a supervisor that lives restores it, for which it needs the lock
        with self.changing():
            desired = self.read_desired() or fresh
            if desired is None:
                raise NotFoundError(
                    f"what was wanted in {self.path} cannot be read", hint=DESIRED.hint
                )
            yield desired
            self.write_desired(desired)

    @contextmanager
    def changing(self, *, blocking: bool = True) -> Iterator[None]:
        """Exclude others from changing what is wanted."""
        with private_lock(self.path / "desired.lock", blocking=blocking):
            yield

    @property
    def _desired_files(self) -> tuple[Path, Path]:
        return self.path / "desired.json", self.path / "desired.backup.json"

    def state(self) -> SupervisorState | None:
        """What the living supervisor says; ``None`` if there is none."""
        if not self.is_supervised:
            return None
        return self._healed(self.living_state) or NO_STATE

    def last_state(self) -> SupervisorState | None:
        """What the last supervisor said, living or not."""
        return unseal(self.path / "state.json", SupervisorState, STATE)

    def living_state(self) -> SupervisorState | None:
        """What the living supervisor said, as far as the file tells it now."""
        state = self.last_state()
        return state if state and is_supervisor(state.pid, state.identity, self.path) else None

    def write_state(self, state: SupervisorState) -> None:
        """Say what runs."""
        write_state(self.path / "state.json", seal(state))

    def key(self) -> str | None:
        """The API key, if the deployment has one."""
        return self._healed(self.read_key)

    def read_key(self) -> str | None:
        """The API key as the file tells it now."""
        try:
            text = read_text(self.path / "key", _KEY).strip()
        except (FileFormatError, NotFoundError):
            return None
        return text if _KEY_TEXT.fullmatch(text) else None

    def write_key(self, key: str) -> None:
        """Keep the API key."""
        write_state(self.path / "key", key.encode() + b"\n")

    def _healed(self, read: Callable[[], T | None]) -> T | None:
        """What ``read`` finds, after a moment if a supervisor lives to restore it."""
        end = time.monotonic() + HEALING
        while (document := read()) is None and self.is_supervised and time.monotonic() < end:
            time.sleep(POLL)
        return document
