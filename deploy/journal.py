"""What was intended and what came of it: one append-only file per deployment.

Each line is a JSON document, flushed to the disk before the next thing happens.
A run is ``begin``, then for each step ``intent`` and ``outcome`` (or
``failure``), then ``end``. A run without ``end`` was cut off: the next run reads
what exists, plans from there and goes on. The platform is the truth about
resources; the journal is the truth about intentions.
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
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llama_hub.deploy.spec import is_name
from llama_hub.errors import IntegrityError, NotFoundError, ProvisioningError
from llama_hub.files import PRIVATE, fsync_folder, locked, private_folder, write_atomic
from llama_hub.home import home
from llama_hub.hub.model_id import shown

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


@dataclass(frozen=True)
class History:
    """All runs of one deployment, oldest first."""

    runs: tuple[Run, ...]

    @property
    def open(self) -> Run | None:
        """The last run, if it was cut off."""
        return self.runs[-1] if self.runs and self.runs[-1].result is None else None

    @property
    def location(self) -> Mapping[str, Any]:
        """Where the last run looked."""
        found: Mapping[str, Any] = self.runs[-1].begin["location"] if self.runs else {}
        return found

    @property
    def good(self) -> tuple[Mapping[str, Any], ...]:
        """``begin`` of every run that ended well since the last removal, oldest first."""
        found: list[Mapping[str, Any]] = []
        for run in self.runs:
            if run.kind == "delete":
                found = [] if run.result == "done" else found
            elif run.result == "done":
                found.append(run.begin)
        return tuple(found)

    @property
    def exists(self) -> bool:
        """Whether something may be there, as far as this machine knows."""
        return bool(self.good) or self.open is not None or self._kept()

    def _kept(self) -> bool:
        return bool(self.runs) and self.runs[-1].result == "kept"

    def unfinished(self) -> list[Mapping[str, Any]]:
        """Intents to create something, of runs that came to no good end, since the last good one.

        With or without outcome: a platform may list late what it has confirmed.
        """
        found: dict[str, Mapping[str, Any]] = {}
        for run in self.runs:
            if run.result in ("done", "undone"):
                found = {}
                continue
            found |= {one["id"]: one for one in run.intents if one["action"] == "create"}
        return list(found.values())


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

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude other appliers of this name; ``ProvisioningError`` while there is one."""
        private_folder(self.folder, self._root)
        lock = locked(self.folder / "lock", blocking=False, mode=PRIVATE)
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
        try:
            with locked(self.folder / "lock", blocking=False):
                return False
        except BlockingIOError:
            return True

    def begin(self, plan: Plan, before: list[str], asked: str) -> None:
        """Open a run.

        ``before``: ids of the resources that an undo must not touch. ``asked``: digest of the plan
        that somebody agreed to; after a crash ``plan`` is what is left of it.
        """
        self._run = uuid.uuid4().hex[:12]
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
        """Say what went wrong where."""
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
        runs: dict[str, Run] = {}
        for record in self._records():
            _add(runs, record)
        return History(tuple(runs.values()))

    def keep_log(self, lines: list[str]) -> Path | None:
        """Keep the last log lines of a deployment that is about to be removed."""
        if not lines:
            return None
        path = self.folder / f"failure-{now().replace(':', '')}.log"
        write_atomic(path, "\n".join([*lines, ""]).encode("utf-8", "replace"), mode=PRIVATE)
        return path

    def _records(self) -> list[Mapping[str, Any]]:
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        try:
            return [json.loads(line) for line in lines[:-1] if line]
        except ValueError as error:
            raise IntegrityError(f"the journal {self.path} is damaged: {error}") from error

    def _append(self, event: str, **facts: Any) -> None:
        record = {"at": now(), "run": self._run, "event": event, **facts}
        data = json.dumps(record, ensure_ascii=False, default=str).encode() + b"\n"
        fresh = not self.path.exists()
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, PRIVATE)
        try:
            os.lseek(descriptor, _whole_lines(descriptor), os.SEEK_SET)
            os.write(descriptor, data)
            os.fsync(descriptor)
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


def _add(runs: dict[str, Run], record: Mapping[str, Any]) -> None:
    event = record["event"]
    if event == "begin":
        runs[record["run"]] = Run(record["run"], record)
        return
    run = runs[record["run"]]
    match event:
        case "intent":
            run.intents.append(record)
        case "outcome":
            run.outcomes[record["id"]] = record["facts"]
        case "failure":
            run.failure = record
        case "end":
            run.result = record["result"]


def journals(root: Path | None = None) -> list[Journal]:
    """Every journal on this machine, by backend and name."""
    base = root or home() / "deployments"
    return [
        Journal(path.parent.parent.name, path.parent.name, base)
        for path in sorted(base.glob(f"*/*/{NAME}"))
        if BACKEND.fullmatch(path.parent.parent.name) and is_name(path.parent.name)
    ]
