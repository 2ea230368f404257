"""All files of a plan at once: room on the disk first, then several transfers side by side."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

from llama_hub.hub import digests
from llama_hub.hub.sources.base import FetchPlan
from llama_hub.hub.transfer.fetch import JOURNALS, Fetched, disk_full, fetch
from llama_hub.hub.transfer.linking import bring
from llama_hub.hub.transfer.remote_file import RemoteFile
from llama_hub.hub.transfer.retry import Cancel, Policy
from llama_hub.progress import NO_PROGRESS, Progress

TOTAL = "total"
LARGEST_OTHER = 64 << 20  # bytes of a file that holds no weights, and of what surrounds weights
SMALL = 1 << 20  # bytes; a file up to this size has no progress line of its own


def fetch_all(
    plan: FetchPlan,
    folder: Path,
    expected_bytes: int | None,
    *,
    progress: Progress,
    files: int,
    connections: int | None,
) -> list[Fetched]:
    """Bring every file of ``plan`` to ``folder``; raises the first error after all have stopped."""
    require_room(folder, plan, expected_bytes)
    policy = plan.policy
    if connections is not None and policy.span is not None:
        policy = replace(policy, connections=connections)
    total = _Total(progress, plan.size or expected_bytes)
    cancel = Cancel()
    pool = ThreadPoolExecutor(max(1, files), thread_name_prefix="file")
    try:
        futures = [
            pool.submit(_fetch_one, _limited(file, expected_bytes), folder, policy, total, cancel)
            for file in _order(plan)
        ]
        _wait(futures, policy, cancel)
        return [future.result() for future in futures]
    except BaseException as interruption:
        cancel.set(interruption)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        progress.finish(TOTAL)


def _limited(file: RemoteFile, expected_bytes: int | None) -> RemoteFile:
    """A file cannot be larger than the whole model in float32, where that is known."""
    if expected_bytes is None:
        return file
    return replace(file, limit=min(file.limit, 2 * expected_bytes + LARGEST_OTHER))


def _order(plan: FetchPlan) -> list[RemoteFile]:
    """Small files first: they are what makes the large ones usable."""
    return sorted(plan.files, key=lambda file: file.size is None or file.size > 1 << 24)


def _fetch_one(
    file: RemoteFile, folder: Path, policy: Policy, progress: _Total, cancel: Cancel
) -> Fetched:
    cancel.sleep(0)  # do not begin what was cancelled
    journal = folder / JOURNALS / f"{file.path}.journal"
    small = file.size is not None and file.size <= SMALL
    shown: Progress = progress.total_only() if small else progress
    fetched = _from_here(file, folder, shown) or fetch(
        file, folder / file.path, journal, policy, progress=shown, cancel=cancel
    )
    checked = ", ".join(file.digests) if file.digests else "no digest to compare with"
    shown.finish(file.path, f"verified ({checked})" if file.digests else checked)
    return fetched


def _from_here(file: RemoteFile, folder: Path, progress: Progress) -> Fetched | None:
    """The file from elsewhere on this machine, linked or copied, if it has the right digests.

    A mark says that a target has another name as well: a later run takes it away before it writes.
    """
    target, mark = folder / file.path, folder / JOURNALS / f"{file.path}.linked"
    if mark.exists():
        target.unlink(missing_ok=True)
        mark.unlink()
    if file.local is None or not file.digests:
        return None
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    bring(file.local.resolve(), target)
    size = target.stat().st_size
    progress.start(file.path, size)
    algorithms = ["sha256", *(name for name in file.digests if name != "sha256")]
    hashed = digests.hash_file(
        target, algorithms, limit=size, advance=lambda count: progress.advance(file.path, count)
    )
    if any(hashed.digests[name] != value for name, value in file.digests.items()):
        progress.say(f"{file.local} is not what its name says: {file.path} is fetched")
        target.unlink()
        mark.unlink()
        return None
    return Fetched(file.path, hashed, 0)


def _wait(futures: Sequence[Future[Fetched]], policy: Policy, cancel: Cancel) -> None:
    """Until all are done; the first failure stops the rest, or lets those under way finish."""
    pending = set(futures)
    while pending:
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        for future in done:
            error = future.exception()
            if error is None:
                continue
            if policy.finish_others:
                for other in pending:
                    other.cancel()
                wait(pending)
            else:
                cancel.set(error)
            raise error


class _Total:
    """Passes progress on, and adds it up for all files."""

    def __init__(self, progress: Progress, size: int | None) -> None:
        self._progress = self._files = progress
        progress.start(TOTAL, size)

    def total_only(self) -> _Total:
        """The same for a file that is too small for a line of its own."""
        silent = copy.copy(self)
        silent._files = NO_PROGRESS
        return silent

    def start(self, task: str, total: int | None = None, *, unit: str = "B", done: int = 0) -> None:
        self._files.start(task, total, unit=unit, done=done)
        if done:
            self._progress.advance(TOTAL, done)

    def advance(self, task: str, amount: int) -> None:
        self._files.advance(task, amount)
        self._progress.advance(TOTAL, amount)

    def finish(self, task: str, note: str = "") -> None:
        self._files.finish(task, note)

    def say(self, message: str) -> None:
        self._progress.say(message)


def require_room(folder: Path, plan: FetchPlan, expected_bytes: int | None) -> None:
    """``DiskFullError`` that names the missing bytes, if the disk cannot hold what is to come."""
    total = sum(file.size or 0 for file in plan.files)
    needed = total if plan.size is not None else max(total, expected_bytes or 0)
    here = [folder / file.path for file in plan.files]
    taken = sum(path.stat().st_blocks * 512 for path in here if path.is_file())
    state = os.statvfs(_existing(folder))
    missing = needed - taken - state.f_bavail * state.f_frsize
    if missing > 0:
        raise disk_full(folder / "models", missing)


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
