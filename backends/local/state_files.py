"""The state files as the supervisor keeps them: none of them can stop it."""

from __future__ import annotations

import logging
import stat
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from llama_hub.backends.local.documents import DesiredState, SupervisorState
from llama_hub.backends.local.state import Folder
from llama_hub.errors import LlamaHubError
from llama_hub.files import private_lock, set_aside
from llama_hub.inference.service.api_key import new_key

AFTER_ERROR = 1.0  # seconds before something that failed is tried again
REFUSALS = 10  # looks in a row at which another process holds the lock: it is another supervisor
OTHERS_LOOK = 1.0  # seconds in which somebody may only be looking whether the lock is free
POLL = 0.05  # seconds


class SupervisorLock:
    """The lock by which everybody knows that a supervisor lives."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held = ExitStack()
        self._file: tuple[int, int] | None = None
        self._refusals = 0

    def take(self) -> bool:
        """Whether it is ours now."""
        end = time.monotonic() + OTHERS_LOOK
        while not self._try():
            if time.monotonic() > end:
                return False
            time.sleep(POLL)
        return True

    def keep(self) -> bool:
        """Hold it still, also where somebody has removed the file; whether that is so."""
        if self._file == _file(self._path) or not self._path.parent.is_dir():
            return True
        try:
            self._refusals = 0 if self._try() else self._refusals + 1
        except (OSError, LlamaHubError) as error:  # a full disk, for one: nobody else has it
            logging.debug("the lock cannot be held again: %s", error)
        return self._refusals < REFUSALS

    def _try(self) -> bool:
        held = ExitStack()
        try:
            held.enter_context(private_lock(self._path, blocking=False))
        except BlockingIOError:
            return False
        self._held.close()
        self._held, self._file = held, _file(self._path)
        return True


def _file(path: Path) -> tuple[int, int] | None:
    try:
        there = path.lstat()
    except OSError:
        return None
    return there.st_dev, there.st_ino


class StateFiles:
    """The deployment's files as the supervisor keeps them; none of them can stop it."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._desired: DesiredState | None = None
        self._key: str | None = None
        self._state: SupervisorState | None = None
        self._seen: dict[str, object] = {}  # what a file looked like when it was right
        self._again: dict[str, float] = {}  # when to try again what failed
        self._said: dict[str, str] = {}  # errors that are logged already

    def desired(self) -> DesiredState | None:
        """What is wanted, the last that could be read; ``None`` when nothing is."""
        if self._is_gone():
            return None
        if self._has_changed("desired.json", "desired.backup.json"):
            if (desired := self._folder.read_desired()) is not None:
                self._desired = desired
            self._attempt("desired.json", self._restore_desired)
        return self._desired

    def _is_gone(self) -> bool:
        """Whether somebody removed the folder; an error of the disk does not say so."""
        try:
            return not stat.S_ISDIR(self._folder.path.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False

    def _restore_desired(self) -> None:
        """Have both files say what is wanted."""
        if self._desired is None:
            return
        with self._folder.changing(blocking=False):
            self._desired = self._folder.read_desired() or self._desired
            if not self._folder.is_whole(self._desired):
                logging.warning("what is wanted was damaged; it is written again")
                self._folder.write_desired(self._desired)
            self._note("desired.json", "desired.backup.json")

    def key(self, needed: bool) -> str | None:
        """The key that replicas and callers have, if one is needed."""
        if not needed:
            return None
        if self._has_changed("key") or self._key is None:
            self._key = self._key or self._folder.read_key() or new_key()
            self._attempt("key", self._restore_key)
        return self._key

    def _restore_key(self) -> None:
        if self._key and self._folder.read_key() != self._key:
            logging.warning("the API key was damaged; it is written again")
            set_aside(self._folder.path / "key")
            self._folder.write_key(self._key)
        self._note("key")

    def write_state(self, state: SupervisorState) -> None:
        """Say what runs, when it changed or when the file is no longer as it was written."""
        if state == self._state and not self._has_changed("state.json"):
            return

        def write() -> None:
            self._folder.write_state(state)
            self._state = state
            self._note("state.json")

        self._attempt("state.json", write)

    def _attempt(self, what: str, work: Callable[[], None]) -> None:
        """Do it, or say once why it cannot be done and try again later."""
        now = time.monotonic()
        if now < self._again.get(what, 0.0):
            return
        try:
            work()
        except BlockingIOError:
            return  # somebody is changing it: look again
        except Exception as error:
            self._again[what] = now + AFTER_ERROR
            if self._said.get(what) != str(error):
                logging.error("%s cannot be written: %s", what, error)
            self._said[what] = str(error)
            return
        self._said.pop(what, None)

    def _has_changed(self, *names: str) -> bool:
        return any(self._seen.get(name, 0) != self._looks(name) for name in names)

    def _note(self, *names: str) -> None:
        for name in names:
            self._seen[name] = self._looks(name)

    def _looks(self, name: str) -> object:
        try:
            there = (self._folder.path / name).lstat()
        except OSError:
            return None
        return there.st_ino, there.st_mtime_ns, there.st_size, there.st_mode
