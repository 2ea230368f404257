"""What a local deployment is on the disk: what is wanted, what runs, and who is who.

=================  ============================================================
``desired.json``   written by the backend: address, revisions, which one serves
``state.json``     written by the supervisor: its process, its children, its port
``key``            the API key, where there is one; readable by its owner only
``service.log``    what the replicas print, rotated; ``supervisor.log`` likewise
``lock``           held by the supervisor for as long as it lives
=================  ============================================================

A process is named by its id *and* the moment it started (and the boot it
started in), so that a number that was given out again is never mistaken for it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_hub.files import PRIVATE, locked, write_atomic

LOG_BYTES = 10 << 20  # of one log file
LOG_FILES = 4  # older ones that are kept


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

    def desired(self) -> dict[str, Any]:
        """What is wanted; empty if nothing is."""
        return _read(self.path / "desired.json")

    def state(self) -> dict[str, Any]:
        """What the supervisor last said; it may be dead."""
        return _read(self.path / "state.json")

    def write_desired(self, document: Mapping[str, Any]) -> None:
        """Say what is wanted."""
        write_atomic(self.path / "desired.json", _dump(document), mode=PRIVATE)

    def write_state(self, document: Mapping[str, Any]) -> None:
        """Say what runs."""
        write_atomic(self.path / "state.json", _dump(document), mode=PRIVATE)

    @contextmanager
    def change(self) -> Iterator[dict[str, Any]]:
        """Edit what is wanted; other processes wait."""
        with locked(self.path / "desired.lock", mode=PRIVATE):
            document = self.desired()
            yield document
            self.write_desired(document)

    def key(self) -> str | None:
        """The API key, if the deployment has one."""
        try:
            return (self.path / "key").read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return None

    def write_key(self, key: str) -> None:
        """Keep the API key."""
        write_atomic(self.path / "key", key.encode() + b"\n", mode=PRIVATE)

    def supervisor(self) -> int | None:
        """The supervisor's process id while it lives."""
        state = self.state()
        return alive(state.get("pid"), state.get("identity"))


def identity(pid: int) -> str | None:
    """What tells this process from any other that had or will have its number; ``None`` if dead."""
    stat = Path(f"/proc/{pid}/stat")
    if not Path("/proc/self/stat").exists():
        return _identity_by_ps(pid)
    try:
        fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] in "ZX":
        return None
    return f"{boot()}:{fields[19]}"


def boot() -> str:
    """What tells this boot of the machine from the others; empty where processes tell it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""


def _identity_by_ps(pid: int) -> str | None:
    """Start time to the second, as ``ps`` knows it, where there is no ``/proc``."""
    done = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None


def alive(pid: int | None, known: str | None) -> int | None:
    """``pid`` if it is still the process that ``known`` names."""
    return pid if pid and known and identity(pid) == known else None


def kill_group(pid: int | None, known: str | None, number: signal.Signals) -> bool:
    """Send a signal to the process and all it started; whether it was still there."""
    if not alive(pid, known):
        return False
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid or 0, number)
    return True


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log and of the older files behind it."""
    lines: list[str] = []
    for number in range(LOG_FILES + 1):
        part = path if number == 0 else path.with_name(f"{path.name}.{number}")
        if len(lines) >= count or not part.exists():
            break
        lines = part.read_text(encoding="utf-8", errors="replace").splitlines() + lines
    return lines[-count:] if count else []


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found


def _dump(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"
