"""The identity of a process: its number *and* the moment it started, in the boot it started in.

A number that was given out again is so never mistaken for the process it once named.
"""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

MARK = "LLAMA_HUB_DEPLOYMENT"  # variable of every replica: the folder of its deployment


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


def alive(pid: int | None, expected: str | None) -> int | None:
    """``pid`` if it is still the process that ``expected`` names."""
    return pid if pid and pid > 0 and expected and identity(pid) == expected else None


def is_supervisor(pid: int, expected: str | None, deployment: Path) -> bool:
    """Whether the process lives and is the supervisor of ``deployment``, as its words tell."""
    if not alive(pid, expected):
        return False
    words = Path(f"/proc/{pid}/cmdline")
    if not Path("/proc/self/cmdline").exists():
        return True  # macOS: nothing to look at
    try:
        return str(deployment).encode() in words.read_bytes().split(b"\0")
    except OSError:
        return False


def kill_replica(pid: int | None, expected: str | None, deployment: Path) -> bool:
    """End a replica of ``deployment`` and all it started; whether it was still there.

    A state file alone is not believed: the process itself has to carry the deployment's mark.
    """
    if not alive(pid, expected) or not _is_marked(pid or 0, deployment):
        return False
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid or 0, signal.SIGKILL)
    return True


def _is_marked(pid: int, deployment: Path) -> bool:
    environment = Path(f"/proc/{pid}/environ")
    if not Path("/proc/self/environ").exists():
        return True  # macOS: nothing to look at
    try:
        return f"{MARK}={deployment}".encode() in environment.read_bytes().split(b"\0")
    except OSError:
        return False
