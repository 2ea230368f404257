"""Download a model: licence, plan, room on the disk, transfer, manifest, final name.

The order is the promise: the licence is accepted before the first weight byte, every digest is
right before the manifest is written, and the folder has no final name before that.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llama_hub import __version__
from llama_hub.errors import NotFoundError
from llama_hub.files import write_atomic
from llama_hub.hub.catalog import Model
from llama_hub.hub.digests import Hashed
from llama_hub.hub.manifest import FileEntry, Format, Manifest
from llama_hub.hub.origins import RemoteFile
from llama_hub.hub.receiving import Cancel, Policy
from llama_hub.hub.sources.base import FetchPlan, Source
from llama_hub.hub.store import Store, Stored
from llama_hub.hub.transfer import Fetched, disk_full, fetch
from llama_hub.licenses import gate as gates
from llama_hub.licenses import terms
from llama_hub.progress import NO_PROGRESS, Progress

JOURNALS = ".journals"  # inside a partial folder
TOTAL = "total"
REFERENCES = {  # what Meta's download has as code and guide, and where ours is
    "model_code": "llama_hub.inference",
    "user_guide": "README.md of llama-hub",
}


@dataclass(frozen=True)
class Downloaded(Stored):
    """A model that is in the store now."""

    receipt: str
    received: int  # bytes that came from the source in this run
    seconds: float
    reused: bool  # it was complete before
    lacks: tuple[str, ...]  # what the source does not have


def download(
    model: Model,
    source: Source,
    fmt: Format,
    *,
    store: Store | None = None,
    gate: gates.Gate | None = None,
    accept: gates.Accept | None = None,
    progress: Progress = NO_PROGRESS,
    jobs: int = 4,
    connections: int | None = None,
) -> Downloaded:
    """Bring ``model`` into the store, or find it there; continues what was broken off.

    ``jobs``: files at a time; ``connections``: ranges of one file (default: the source's).
    """
    begun = time.monotonic()
    store, gate = store or Store(), gate or gates.Gate()
    with _alone(store, model.id, fmt, progress):
        stored = _present(store, model.id, fmt)
        if stored is not None:
            receipt = gate.ensure(terms.load(model.license), _stored_texts(stored), accept)
            return _downloaded(stored, receipt.id, 0, begun, reused=True)
        texts = source.texts(model)
        receipt = gate.ensure(terms.load(model.license), texts, accept)
        plan = source.plan(model)
        folder = store.partial_folder(model.id, fmt)
        fetched = fetch_all(
            plan, folder, model.bytes, progress=progress, jobs=jobs, connections=connections
        )
        _write_notice(folder, terms.load(model.license))
        describe(model, plan, folder, fetched, receipt.id).write(folder)
        _remove_journals(folder)
        received = sum(one.received for one in fetched)
        return _downloaded(store.publish(model.id, fmt), receipt.id, received, begun, reused=False)


def _downloaded(
    stored: Stored, receipt: str, received: int, begun: float, *, reused: bool
) -> Downloaded:
    lacks = tuple(stored.manifest.source.get("lacks", ()))
    seconds = time.monotonic() - begun
    return Downloaded(stored.path, stored.manifest, receipt, received, seconds, reused, lacks)


class _alone:
    """The lock of one model and format; says so if another process has it."""

    def __init__(self, store: Store, model_id: str, fmt: Format, progress: Progress) -> None:
        self._of: Callable[[bool], Any] = lambda blocking: store.lock(
            model_id, fmt, blocking=blocking
        )
        self._progress = progress

    def __enter__(self) -> None:
        self._held = self._of(False)
        try:
            self._held.__enter__()
        except BlockingIOError:
            self._progress.say("another llama-hub is busy with this model: waiting for it")
            self._held = self._of(True)
            self._held.__enter__()

    def __exit__(self, *exception: object) -> None:
        self._held.__exit__(None, None, None)


def _present(store: Store, model_id: str, fmt: Format) -> Stored | None:
    """The model, if its folder is complete by name and size."""
    try:
        stored = store.find(model_id, fmt)
    except NotFoundError:
        return None
    for entry in stored.manifest.files:
        path = stored.path / entry.path
        if not path.is_file() or path.stat().st_size != entry.size:
            return None
    return stored


def _stored_texts(stored: Stored) -> gates.Texts:
    """The texts that came with a model that is here already."""

    def text(name: str) -> str | None:
        path = stored.path / name
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None

    source = {key: str(value) for key, value in stored.manifest.source.items() if key != "lacks"}
    return gates.Texts(text("LICENSE") or "", text("USE_POLICY.md"), source)


def fetch_all(
    plan: FetchPlan,
    folder: Path,
    expected_bytes: int | None,
    *,
    progress: Progress,
    jobs: int,
    connections: int | None,
) -> list[Fetched]:
    """Bring every file of ``plan`` to ``folder``; raises the first error after all have stopped."""
    require_room(folder, plan, expected_bytes)
    policy = plan.policy
    if connections is not None and policy.span is not None:
        policy = replace(policy, connections=connections)
    total = _Total(progress, plan.size or expected_bytes)
    cancel = Cancel()
    pool = ThreadPoolExecutor(max(1, jobs), thread_name_prefix="file")
    try:
        futures = [
            pool.submit(_fetch_one, file, folder, policy, total, cancel) for file in _order(plan)
        ]
        _wait(futures, policy, cancel)
        return [future.result() for future in futures]
    except BaseException as interruption:
        cancel.set(interruption)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        progress.finish(TOTAL)


def _order(plan: FetchPlan) -> list[RemoteFile]:
    """Small files first: they are what makes the large ones usable."""
    return sorted(plan.files, key=lambda file: file.size is None or file.size > 1 << 24)


def _fetch_one(
    file: RemoteFile, folder: Path, policy: Policy, progress: Progress, cancel: Cancel
) -> Fetched:
    cancel.sleep(0)  # do not begin what was cancelled
    journal = folder / JOURNALS / f"{file.path}.journal"
    fetched = fetch(file, folder / file.path, journal, policy, progress=progress, cancel=cancel)
    checked = ", ".join(file.digests) if file.digests else "no digest to compare with"
    progress.finish(file.path, f"verified ({checked})" if file.digests else checked)
    return fetched


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
        self._progress = progress
        progress.start(TOTAL, size)

    def start(self, task: str, total: int | None = None, *, unit: str = "B", done: int = 0) -> None:
        self._progress.start(task, total, unit=unit, done=done)
        if done:
            self._progress.advance(TOTAL, done)

    def advance(self, task: str, amount: int) -> None:
        self._progress.advance(task, amount)
        self._progress.advance(TOTAL, amount)

    def finish(self, task: str, note: str = "") -> None:
        self._progress.finish(task, note)

    def say(self, message: str) -> None:
        self._progress.say(message)


def require_room(folder: Path, plan: FetchPlan, expected_bytes: int | None) -> None:
    """``DiskFullError`` that names the missing bytes, if the disk cannot hold what is to come."""
    known = sum(file.size or 0 for file in plan.files)
    needed = known if plan.size is not None else max(known, expected_bytes or 0)
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


def describe(
    model: Model, plan: FetchPlan, folder: Path, fetched: Sequence[Fetched], receipt: str
) -> Manifest:
    """The manifest of what was fetched, and of the files that llama-hub added."""
    by_path = {file.path: file for file in plan.files}
    entries = [entry(by_path[one.path], one.hashed) for one in fetched]
    if (folder / "NOTICE").is_file():
        entries.append(added_entry(folder, "NOTICE"))
    return Manifest(
        model=model.id,
        format=plan.format,
        license=model.license,
        files=tuple(sorted(entries)),
        made_by={"operation": "download"},
        source=dict(plan.source)
        | {"lacks": list(plan.lacks), "references": REFERENCES, "tool": f"llama-hub {__version__}"},
        receipt=receipt,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def entry(file: RemoteFile, hashed: Hashed) -> FileEntry:
    """A fetched file in the manifest."""
    return FileEntry(
        path=file.path,
        size=hashed.size,
        sha256=hashed.digests["sha256"],
        md5=hashed.digests["md5"] if "md5" in file.digests else None,
        pinned=file.pinned,
        blocks=hashed.blocks,
    )


def added_entry(folder: Path, name: str) -> FileEntry:
    """A file that llama-hub wrote itself."""
    from llama_hub.hub.digests import hash_file

    hashed = hash_file(folder / name)
    return FileEntry(name, hashed.size, hashed.digests["sha256"], blocks=hashed.blocks)


def _write_notice(folder: Path, license: terms.License) -> None:
    text = gates.notice_text(license)
    if text:
        write_atomic(folder / "NOTICE", text.encode())


def _remove_journals(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder / JOURNALS, ignore_errors=True)
