"""Garbage: half-made deployments, resources that nothing uses, expired lifetimes.

Found by reading; removed only by ``remove``, with the same journal as any other
deletion. What belongs to a deployment that works is never among it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from llama_hub.deploy import place
from llama_hub.deploy.apply import ApplyOptions, with_unconfirmed
from llama_hub.deploy.backend import (
    KEPT,
    TAG_DEPLOYMENT,
    TAG_TTL,
    Backend,
    Context,
    Deployed,
    FindsOrphans,
    Observed,
    Resource,
    Step,
)
from llama_hub.deploy.deployer import Deployer
from llama_hub.deploy.journal import Journal, Run, journals
from llama_hub.deploy.plan import ordered
from llama_hub.deploy.spec import is_name
from llama_hub.deploy.waiting import persist

Reason = Literal["cut off", "orphan", "expired", "kept"]  # kept: somebody asked for that


@dataclass(frozen=True)
class Leftover:
    """Something to remove, and why."""

    reason: Reason
    backend: str
    name: str  # of the deployment that it belongs or belonged to
    resources: tuple[Resource, ...]
    why: str

    def to_json(self) -> dict[str, Any]:
        """For ``gc --json``."""
        return {
            "reason": self.reason,
            "backend": self.backend,
            "name": self.name,
            "resources": [one.id for one in self.resources],
            "why": self.why,
        }


def find(
    backend: Backend,
    *,
    root: Path | None = None,
    now: datetime | None = None,
    location: place.Location | None = None,
) -> list[Leftover]:
    """``search``, as a list."""
    return list(search(backend, root=root, now=now, location=location))


def search(
    backend: Backend,
    *,
    root: Path | None = None,
    now: datetime | None = None,
    location: place.Location | None = None,
) -> Iterator[Leftover]:
    """Everything left over in one backend; only reads. ``location``: where that is, resolved.

    What could be read comes before the error about what could not.
    """
    here = place.resolved(backend, {}) if location is None else location
    journals_here = list(_open(backend, root, here))
    cut_off = list(_cut_off(backend, journals_here))
    expired = list(_expired(backend, now or datetime.now(UTC)))
    named = {one.id for left in (*cut_off, *expired) for one in left.resources}
    # Of an update that was cut off, what answers nothing is left over: it may bill.
    busy = {journal.name for journal, _ in journals_here if journal.is_busy()}
    yield from (*cut_off, *expired)
    yield from _orphans(backend, named, busy)


def remove(deployer: Deployer, left: Leftover, options: ApplyOptions) -> None:
    """Remove one leftover."""
    if left.reason in ("orphan", "kept"):
        _remove_orphans(deployer.backend, left, options)
    else:
        deployer.apply(deployer.plan_delete(left.name), options)


def _remove_orphans(backend: Backend, left: Leftover, options: ApplyOptions) -> None:
    """No journal: nothing depends on an orphan, and deleting it again does no harm."""
    context = Context(None, options.progress, options.timeout)
    for step in _delete_steps(backend, left):
        options.progress.say(f"{step.action} {step.id}: {step.why}")
        persist(
            lambda step=step: backend.execute(step, context),  # type: ignore[misc]
            tell=options.progress.say,
            sleep=options.sleep,
        )


def _delete_steps(backend: Backend, left: Leftover) -> Sequence[Step]:
    return ordered(backend.plan_delete(left.name, Observed(left.resources)))


def _open(
    backend: Backend, root: Path | None, here: place.Location
) -> Iterator[tuple[Journal, Run]]:
    """Journals of this place whose last run was cut off."""
    for journal in journals(root):
        run = journal.history().open if journal.backend == backend.name else None
        if run is not None and not place.differing(backend, run.begin["location"], here):
            yield journal, run


def _cut_off(backend: Backend, opened: Sequence[tuple[Journal, Run]]) -> Iterator[Leftover]:
    """First deployments and removals that a crash ended and that nobody has taken up again."""
    for journal, run in opened:
        history = journal.history()
        if journal.is_busy() or history.damaged or (history.good and run.kind != "delete"):
            continue  # at work; or nobody knows; or an update, with which deploy goes on
        seen = with_unconfirmed(backend.observe(journal.name), history.unfinished())
        what = "removal" if run.kind == "delete" else "first deployment"
        yield Leftover(
            "cut off",
            backend.name,
            journal.name,
            seen.resources,
            f"its {what} was cut off at {run.begin['at']}",
        )


def _expired(backend: Backend, now: datetime) -> Iterator[Leftover]:
    for deployed in backend.list():
        end = expiry(deployed)
        if end is not None and end <= now and is_name(deployed.name):
            yield Leftover(
                "expired",
                backend.name,
                deployed.name,
                backend.observe(deployed.name).resources,
                f"its lifetime ended at {end:%Y-%m-%dT%H:%M:%SZ}",
            )


def expiry(deployed: Deployed) -> datetime | None:
    """When the deployment's lifetime ends; ``None`` if it has none."""
    seconds = deployed.tags.get(TAG_TTL, "")
    if not seconds.isdigit() or deployed.created is None:
        return None
    try:
        begun = datetime.fromisoformat(deployed.created)
        return begun.replace(tzinfo=begun.tzinfo or UTC) + timedelta(seconds=int(seconds))
    except (ValueError, OverflowError):  # tags that others wrote: nothing is removed for them
        return None


def _orphans(backend: Backend, named: set[str], busy: set[str]) -> Iterator[Leftover]:
    if not isinstance(backend, FindsOrphans):
        return
    for one in backend.orphans():
        name = one.tags.get(TAG_DEPLOYMENT, one.name)
        if one.id in named or name in busy:
            continue
        if one.state == KEPT:
            yield Leftover("kept", backend.name, name, (one,), "it was to outlive its deployment")
        else:
            why = f"no deployment uses it ({one.state})"
            yield Leftover("orphan", backend.name, name, (one,), why)
