"""The table behind the memory backend, and what can go wrong with it."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llama_hub.backends.memory.records import read
from llama_hub.deploy.backend import TAG_MANIFEST, Step
from llama_hub.deploy.journal import now
from llama_hub.files import PRIVATE, locked, write_atomic


@dataclass
class Fault:
    """Something that goes wrong ``times`` times at steps (or calls) that match ``at``."""

    at: str  # pattern: "revision/*", "create revision/*", or a call: observe, offers, list
    error: BaseException
    when: Literal["before", "after"] = "before"  # the write itself
    times: int = 1


@dataclass
class Platform:
    """All that the simulated backend knows; ``file`` keeps it between processes."""

    file: Path | None = None
    faults: list[Fault] = field(default_factory=list)
    lag: int = 0  # observations for which a new resource does not show
    writes: int = 0  # changes asked for in this process
    records: dict[str, dict[str, Any]] = field(default_factory=dict)  # by kind/name

    @contextmanager
    def open(self) -> Iterator[dict[str, dict[str, Any]]]:
        """The records, saved afterwards; other processes wait."""
        if self.file is None:
            yield self.records
            return
        with locked(self.file.with_suffix(".lock"), mode=PRIVATE):
            self.records = read(self.file)
            before = json.dumps(self.records)
            yield self.records
            after = json.dumps(self.records)
            if after != before:
                write_atomic(self.file, after.encode(), mode=PRIVATE)

    def fail(self, at: str, when: str, action: str = "") -> None:
        """Raise the first fault that is due."""
        names = (at, f"{action} {at}")
        for fault in self.faults:
            due = fault.times and fault.when == when
            if due and any(fnmatch.fnmatchcase(name, fault.at) for name in names):
                fault.times -= 1
                raise fault.error


def _make(records: dict[str, dict[str, Any]], step: Step, lag: int) -> None:
    """Create, replace, update or delete an upload, an endpoint or a revision."""
    if step.action == "delete":
        records.pop(step.id, None)
        return
    body = dict(step.body)
    tags = body.pop("tags", None)
    record = records.get(step.id)
    if record is None or step.action == "replace":
        record = {
            "kind": step.kind, "name": step.name, "body": {}, "tags": {}, "created": now(),
            "hidden": lag, "log": ["starting", "ready"], "served": "", "state": "",
        }  # fmt: skip
        records[step.id] = record
    record["body"] |= body
    record["tags"] = tags if tags is not None else record["tags"]
    record["served"] = record["tags"].get(TAG_MANIFEST, "")
    record["state"] = "running" if record["body"].get("run", True) else "stopped"


def _switch(records: dict[str, dict[str, Any]], step: Step, lag: int) -> None:
    """Lead the address to another revision."""
    _make(records, Step("update", "endpoint", step.name, step.why, step.body), lag)


DO: Mapping[str, Callable[[dict[str, dict[str, Any]], Step, int], None]] = {
    "model": _make,
    "endpoint": _make,
    "revision": _make,
    "traffic": _switch,
}
