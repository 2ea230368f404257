"""The journal of a deployment: what was intended and what came of it, in one append-only file.

Each line is a JSON document, flushed to the disk before the next thing happens.
A run is ``begin``, then for each step ``intent`` and ``outcome`` (or
``failure``), then ``end``. A run without ``end`` was cut off: the next run reads
what exists, plans from there and goes on. The platform is the truth about
resources; the journal is the truth about intentions.

A line that cannot be read is passed over, and the history says so: what it may
have told is never assumed. The next run keeps the damaged file under another
name and goes on with the lines that are right.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llama_hub.deploy.spec import DeploymentSpec, is_name
from llama_hub.errors import FileFormatError, LlamaHubError, NotFoundError, ProvisioningError
from llama_hub.files import (
    FULL,
    PRIVATE,
    fsync_folder,
    is_locked,
    keep_folder,
    open_own,
    private_folder,
    private_lock,
    set_aside,
    write_at,
    write_atomic,
)
from llama_hub.home import home
from llama_hub.hub.model_id import shown
from llama_hub.schema import conform
from llama_hub.strict import FileKind, parse_json, read_bytes

if TYPE_CHECKING:
    from llama_hub.deploy.backend import Step
    from llama_hub.deploy.plan import Plan

Result = Literal["done", "undone", "kept"]
NAME = "journal.jsonl"
BACKEND = re.compile("[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Run:
    """One attempt, as the journal tells it."""

    id: str
    begin: Mapping[str, Any]
    intents: list[Mapping[str, Any]] = field(default_factory=list)  # steps, in order
    outcomes: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # facts by step id
    failure: Mapping[str, Any] | None = None
    result: Result | None = None  # None: cut off

    @property
    def kind(self) -> str:
        """deploy, rollback or delete."""
        return str(self.begin["kind"])

    @property
    def before(self) -> tuple[str, ...]:
        """Ids of the resources that were there before this run or the cut-off runs it continues."""
        return tuple(self.begin["before"])

    @cached_property
    def spec(self) -> DeploymentSpec | None:
        """What was deployed; ``None`` for a removal, or if this version cannot read it."""
        try:
            return DeploymentSpec(**self.begin["spec"]) if self.begin["spec"] else None
        except (ValueError, TypeError, LlamaHubError):
            return None


@dataclass(frozen=True)
class History:
    """All runs of one deployment, oldest first."""

    runs: tuple[Run, ...]
    damaged: bool = False  # whether lines could not be read, so that a run may have ended

    @property
    def open(self) -> Run | None:
        """The last run, if it was cut off."""
        return self.runs[-1] if self.runs and self.runs[-1].result is None else None

    @property
    def location(self) -> Mapping[str, Any]:
        """Where the last run looked."""
        place: Mapping[str, Any] = self.runs[-1].begin["location"] if self.runs else {}
        return place

    @property
    def good(self) -> tuple[Mapping[str, Any], ...]:
        """``begin`` of every run that ended well since the last removal, oldest first."""
        begins: list[Mapping[str, Any]] = []
        for run in self.runs:
            if run.kind == "delete":
                begins = [] if run.result == "done" else begins
            elif run.result == "done" and run.spec is not None:
                begins.append(run.begin)
        return tuple(begins)

    @property
    def exists(self) -> bool:
        """Whether something may be there, as far as this machine knows."""
        if self.damaged or self.open is not None:
            return True
        ended = [run for run in self.runs if run.result in ("done", "kept")]
        return bool(ended) and (ended[-1].kind != "delete" or ended[-1].result == "kept")

    @property
    def standing(self) -> tuple[str, ...]:
        """Ids of what was asked for and, as far as this machine knows, not removed since."""
        ids: dict[str, None] = {}
        for run in self.runs:
            for intent in run.intents:
                if intent["action"] != "delete":
                    ids[intent["id"]] = None
                elif intent["id"] in run.outcomes:
                    ids.pop(intent["id"], None)
            if run.kind == "delete" and run.result == "done":
                ids = {}
        return tuple(ids)

    def unfinished(self) -> list[Mapping[str, Any]]:
        """Intents to create something, of runs that came to no good end, since the last good one.

        With or without outcome: a platform may list late what it has confirmed.
        """
        intents: dict[str, Mapping[str, Any]] = {}
        for run in self.runs:
            if run.result in ("done", "undone"):
                intents = {}
                continue
            intents |= {one["id"]: one for one in run.intents if one["action"] == "create"}
        return list(intents.values())


class Journal:
    """The journal of one deployment in one backend."""

    def __init__(self, backend: str, name: str, root: Path | None = None) -> None:
        """``NotFoundError`` for names that no backend or deployment has: they are part of paths."""
        if not BACKEND.fullmatch(backend) or not is_name(name):
            raise NotFoundError(
                f"there is no deployment {shown(name)} in {shown(backend)}", hint="llama-hub ps"
            )
        self.backend = backend
        self.name = name
        self._root = root or home() / "deployments"
        self.folder = self._root / backend / name
        self.path = self.folder / NAME
        self._run = ""
        self._must_write = True
        self._seen = _Seen()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude other appliers of this name; ``ProvisioningError`` while there is one."""
        for path in (self.folder.parent, self.folder):
            keep_folder(path)
        private_folder(self.folder, self._root)
        lock = private_lock(self.folder / "lock", blocking=False)
        try:
            lock.__enter__()
        except BlockingIOError as error:
            raise ProvisioningError(
                f"another llama-hub is working on {self.name!r} in {self.backend}",
                hint="wait until it is done, then run the command again",
            ) from error
        try:
            yield
        finally:
            lock.__exit__(None, None, None)

    def is_busy(self) -> bool:
        """Whether somebody holds the lock now."""
        return is_locked(self.folder / "lock")

    def begin(self, plan: Plan, before: list[str], asked: str) -> None:
        """Open a run.

        ``before``: ids of the resources that an undo must not touch. ``asked``: digest of the plan
        that somebody agreed to; after a crash ``plan`` is what is left of it.
        """
        self._run = uuid.uuid4().hex[:12]
        # A removal frees space and can be repeated: it goes on where nothing can be written.
        self._must_write = plan.kind != "delete"
        self._append(
            "begin",
            kind=plan.kind,
            asked=asked,
            location=dict(plan.location),
            spec=plan.spec.to_json() if plan.spec else None,
            generation=plan.generation,
            manifest=plan.manifest,
            receipt=plan.receipt,
            ledger_head=plan.ledger_head,
            before=before,
            steps=[f"{step.action} {step.id}" for step in plan.steps],
        )

    def intent(self, step: Step) -> None:
        """Say what is about to be asked for."""
        self._append(
            "intent", id=step.id, action=step.action, kind=step.kind, name=step.name, undo=step.undo
        )

    def outcome(self, step: Step, facts: Mapping[str, Any]) -> None:
        """Say that it holds."""
        self._append("outcome", id=step.id, facts=dict(facts))

    def failure(self, what: str, message: str) -> None:
        """Say what went wrong where; what is done about it goes on where the disk is full."""
        self._must_write = False
        self._append("failure", id=what, message=message)

    def end(self, result: Result) -> None:
        """Close the run."""
        self._append("end", result=result)

    def close(self, run: Run, result: Result) -> None:
        """Close a run that was cut off after its last step."""
        self._run = run.id
        self.end(result)

    def history(self) -> History:
        """All runs; a line torn by a power loss at the very end does not count."""
        return _read(self.path)[1]

    def keep_log(self, lines: list[str]) -> Path | None:
        """Keep the last log lines of a deployment that is about to be removed."""
        if not lines:
            return None
        path = self.folder / f"failure-{now().replace(':', '')}.log"
        try:
            write_atomic(path, "\n".join([*lines, ""]).encode("utf-8", "replace"), mode=PRIVATE)
        except OSError:
            return None
        return path

    def _append(self, event: str, **facts: Any) -> None:
        record = {"at": now(), "run": self._run, "event": event, **facts}
        data = json.dumps(record, ensure_ascii=False, default=str).encode() + b"\n"
        try:
            self._mend()
            self._write(data)
        except OSError as error:
            if self._must_write or error.errno not in FULL:
                raise

    def _mend(self) -> None:
        """Go on with what can be read; the damaged file is kept under another name."""
        lines, history = _read(self.path, self._seen)
        if history.damaged or self.path.is_symlink():
            self._seen = _Seen()
            set_aside(self.path)
            if lines:
                write_atomic(self.path, b"\n".join([*lines, b""]), mode=PRIVATE)

    def _write(self, data: bytes) -> None:
        fresh = not self.path.exists()
        descriptor = open_own(self.path, os.O_RDWR | os.O_CREAT, PRIVATE)
        try:
            end = _whole_lines(descriptor)
            try:
                write_at(descriptor, data, end)
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, end)  # no part of a line stays
                raise
        finally:
            os.close(descriptor)
        if fresh:
            fsync_folder(self.folder)


def _whole_lines(descriptor: int) -> int:
    """Bytes up to the last line end; a torn line behind it is cut off."""
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return size
    whole = os.pread(descriptor, size, 0).rfind(b"\n") + 1
    os.ftruncate(descriptor, whole)
    return whole


@dataclass
class _Begin:
    at: str
    run: str
    event: str
    kind: Literal["deploy", "rollback", "delete"]
    asked: str
    location: dict[str, Any]
    before: list[str]
    spec: dict[str, Any] | None = None
    generation: str | None = None
    manifest: str | None = None
    receipt: str | None = None
    ledger_head: str | None = None


@dataclass
class _Intent:
    run: str
    event: str
    id: str
    action: str
    kind: str
    name: str
    undo: bool


@dataclass
class _Outcome:
    run: str
    event: str
    id: str
    facts: dict[str, Any]


@dataclass
class _Failure:
    run: str
    event: str
    id: str
    message: str


@dataclass
class _End:
    run: str
    event: str
    result: Result


_EVENTS: Mapping[str, type[Any]] = {
    "begin": _Begin,
    "intent": _Intent,
    "outcome": _Outcome,
    "failure": _Failure,
    "end": _End,
}
_FILE = FileKind("the journal", max_bytes=64 << 20)
_LINE = FileKind("the journal", max_bytes=1 << 20)


@dataclass
class _Seen:
    """Whole lines that were read before, and what they told; every append would read all again."""

    data: bytes = b""
    lines: list[bytes] = field(default_factory=list)
    runs: dict[str, Run] = field(default_factory=dict)


def _read(path: Path, seen: _Seen | None = None) -> tuple[list[bytes], History]:
    """The lines of a journal that can be read, and what they tell.

    ``seen``, which learns what is read, counts where the file still begins with the same bytes.
    After damage it must not be used again.
    """
    try:
        data = read_bytes(path, _FILE)
    except NotFoundError:
        return [], History(())
    except FileFormatError:
        return [], History((), damaged=True)
    seen = seen or _Seen()
    if not data.startswith(seen.data):
        vars(seen).update(vars(_Seen()))
    lines = data[len(seen.data) :].split(b"\n")[:-1]  # what follows the last line end is torn
    right = [line for line in lines if line and _add(seen.runs, line, path)]
    seen.lines += right
    seen.data = data[: data.rfind(b"\n") + 1]
    return seen.lines, History(tuple(seen.runs.values()), damaged=len(right) < len(lines))


def _add(runs: dict[str, Run], line: bytes, path: Path) -> bool:
    """Add what a line tells to its run; whether it tells anything."""
    try:
        document = parse_json(line, path, _LINE)
        event = document["event"]
        record = vars(conform(_EVENTS[event], document, path, _LINE))
    except (FileFormatError, LookupError, TypeError):
        return False
    if event == "begin":
        runs[record["run"]] = Run(record["run"], record)
        return True
    run = runs.get(record["run"])
    if run is None:
        return False
    match event:
        case "intent":
            run.intents.append(record)
        case "outcome":
            run.outcomes[record["id"]] = record["facts"]
        case "failure":
            run.failure = record
        case "end":
            run.result = record["result"]
    return True


def journals(root: Path | None = None) -> list[Journal]:
    """Every journal on this machine, by backend and name."""
    base = root or home() / "deployments"
    return [
        Journal(folder.parent.name, folder.name, base)
        for folder in sorted(base.glob("*/*"))
        if BACKEND.fullmatch(folder.parent.name)
        and is_name(folder.name)
        and os.path.lexists(folder / NAME)
    ]
