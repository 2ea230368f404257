"""The download of a model: licence, plan, room on the disk, transfer, manifest, final name.

The order is the promise: the licence is accepted before the first weight byte, every digest is
right before the manifest is written, and the folder has no final name before that.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from llama_hub import __version__
from llama_hub.files import write_atomic
from llama_hub.hub import release_items
from llama_hub.hub.catalog import Model
from llama_hub.hub.digests import Hashed, hash_file
from llama_hub.hub.inspection import inspect
from llama_hub.hub.manifest import FileEntry, Format, Manifest
from llama_hub.hub.sources.base import FetchPlan, Source
from llama_hub.hub.store import Store, StoredModel
from llama_hub.hub.transfer.fetch import JOURNALS, Fetched
from llama_hub.hub.transfer.fetch_all import fetch_all
from llama_hub.hub.transfer.remote_file import RemoteFile
from llama_hub.licenses import gate as gates
from llama_hub.licenses import terms, wording
from llama_hub.progress import NO_PROGRESS, Progress
from llama_hub.strict import read_bytes

REFERENCES = {  # what Meta's download has as code and guide, and where ours is
    "model_code": "llama_hub.inference",
    "user_guide": "README.md of llama-hub",
}


@dataclass(frozen=True)
class Downloaded(StoredModel):
    """A model that is in the store now."""

    receipt: str
    received: int  # bytes that came from the source in this run
    seconds: float
    reused: bool  # it was complete before
    lacks: tuple[str, ...]  # what the source does not have


@dataclass(frozen=True)
class Job:
    """What is wanted, and how."""

    model: Model
    source: Source
    format: Format
    store: Store = field(default_factory=Store)
    gate: gates.Gate = field(default_factory=gates.Gate)
    accept: gates.Accept | None = None  # how to accept a licence that is not accepted yet
    progress: Progress = NO_PROGRESS
    replace: Callable[[StoredModel], None] = lambda stored: None  # may refuse; of another revision
    files: int = 4  # at a time
    connections: int | None = None  # ranges of one file at a time; None: as the source likes it


Bring = Callable[[FetchPlan, Path, Job], list[Fetched]]


def download(job: Job) -> Downloaded:
    """Bring the model into the store, or find it there; resumes an interrupted download."""
    return complete(job, _transfer)


def _transfer(plan: FetchPlan, folder: Path, job: Job) -> list[Fetched]:
    _remove_others(plan, folder)
    return fetch_all(
        plan,
        folder,
        job.model.bytes,
        progress=job.progress,
        files=job.files,
        connections=job.connections,
    )


def _remove_others(plan: FetchPlan, folder: Path) -> None:
    """Files that an interrupted download of another revision left there."""
    wanted = {file.path for file in plan.files}
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in wanted and path.name != JOURNALS and path.is_file():
            path.unlink()


def complete(job: Job, bring: Bring, folder: Path | None = None) -> Downloaded:
    """The whole way of a model into the store; ``bring`` is how its files come.

    ``folder``: where it is put together, if not where downloads are.
    """
    begun = time.monotonic()
    license = terms.load(job.model.license)
    with _alone(job), closing(job.source):
        stored = _present(job.store, job.model.id, job.format)
        if stored is not None and not job.source.holds(stored.manifest):
            job.replace(stored)
            stored = None
        if stored is not None:
            receipt = job.gate.ensure(license, _stored_texts(stored), job.accept)
            return _downloaded(stored, receipt.id, 0, begun, reused=True)
        job.progress.say(job.source.about)
        receipt = job.gate.ensure(license, job.source.texts(job.model), job.accept)
        plan = job.source.plan(job.model)
        inspect(plan)
        folder = folder or job.store.partial_folder(job.model.id, job.format)
        fetched = bring(plan, folder, job)
        _write_notice(folder, license)
        manifest = describe(job, plan, folder, fetched, receipt.id)
        release_items.write(folder, manifest)
        manifest.write(folder)
        shutil.rmtree(folder / JOURNALS, ignore_errors=True)
        stored = job.store.publish(job.model.id, job.format, folder)
    received = sum(one.received for one in fetched)
    return _downloaded(stored, receipt.id, received, begun, reused=False)


def _downloaded(
    stored: StoredModel, receipt: str, received: int, begun: float, *, reused: bool
) -> Downloaded:
    lacks = tuple(stored.manifest.source.get("lacks", ()))
    seconds = time.monotonic() - begun
    return Downloaded(
        stored.path, stored.manifest, stored.id, receipt, received, seconds, reused, lacks
    )


@contextmanager
def _alone(job: Job) -> Iterator[None]:
    """The lock of one model and format; says so if another process has it."""
    with ExitStack() as held:
        try:
            held.enter_context(job.store.lock(job.model.id, job.format, blocking=False))
        except BlockingIOError:
            job.progress.say("another llama-hub is busy with this model: waiting for it")
            held.enter_context(job.store.lock(job.model.id, job.format))
        yield


def _present(store: Store, model_id: str, fmt: Format) -> StoredModel | None:
    """The model, if its folder is complete by name and size."""
    stored = store.complete(model_id, fmt)
    if stored is None:
        return None
    for entry in stored.manifest.files:
        path = stored.path / entry.path
        if not path.is_file() or path.stat().st_size != entry.size:
            return None
    return stored


def _stored_texts(stored: StoredModel) -> gates.Texts:
    """The texts that came with a model that is here already."""

    def text(name: str) -> str | None:
        path = stored.path / name
        return read_bytes(path, wording.KIND).decode("utf-8", "replace") if path.is_file() else None

    source = {key: str(value) for key, value in stored.manifest.source.items() if key != "lacks"}
    return gates.Texts(text("LICENSE") or "", text("USE_POLICY.md"), source)


def describe(
    job: Job, plan: FetchPlan, folder: Path, fetched: Sequence[Fetched], receipt: str
) -> Manifest:
    """The manifest of what was fetched, and of the files that llama-hub added."""
    by_path = {file.path: file for file in plan.files}
    entries = [entry(by_path[one.path], one.hashed) for one in fetched]
    if (folder / "NOTICE").is_file():
        entries.append(added_entry(folder, "NOTICE"))
    return Manifest(
        model=job.model.id,
        format=plan.format,
        license=job.model.license,
        files=tuple(sorted(entries)),
        made_by={"operation": "import" if plan.source["kind"] == "import" else "download"},
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
    hashed = hash_file(folder / name)
    return FileEntry(name, hashed.size, hashed.digests["sha256"], blocks=hashed.blocks)


def _write_notice(folder: Path, license: terms.License) -> None:
    text = gates.notice_text(license)
    if text:
        write_atomic(folder / "NOTICE", text.encode())
