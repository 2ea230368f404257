"""Doing the steps of a plan, with the journal before and after each.

Nothing here knows a cloud. A throttled step is tried again; a step that fails
ends the run, and what the run made is removed unless the caller wants to look
at it; a crash leaves a journal from which the next run goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from llama_hub.deploy.backend import Backend, Context, Observed, Resource, Step, Target
from llama_hub.deploy.plan import Plan, ordered
from llama_hub.deploy.waiting import persist
from llama_hub.errors import DiskFullError, LlamaHubError, ProvisioningError
from llama_hub.files import FULL
from llama_hub.progress import NO_PROGRESS, Progress

if TYPE_CHECKING:
    from llama_hub.deploy.journal import Journal

OnFailure = Literal["remove", "keep"]
Rollback = Callable[[], tuple[Target, Sequence[Step]]]
LAST_LINES = 50  # of the log of a deployment that failed


@dataclass(frozen=True)
class ApplyOptions:
    """How to apply: what to wait for, and what to do when it goes wrong."""

    wait: bool = True
    timeout: float = 3600.0  # seconds for each step
    on_failure: OnFailure = "remove"
    on_interrupt: Callable[[], OnFailure] = lambda: "keep"  # asked after Ctrl-C
    progress: Progress = NO_PROGRESS
    sleep: Callable[[float], None] = time.sleep


class PlanRunner:
    """One run: a plan, where it is written down, and the way back if it fails."""

    def __init__(
        self,
        backend: Backend,
        journal: Journal,
        plan: Plan,
        target: Target | None,
        options: ApplyOptions,
        back: Rollback | None = None,
    ) -> None:
        self._backend = backend
        self._journal = journal
        self._plan = plan
        self._options = options
        self._back = back
        self._context = Context(target, options.progress, options.timeout)
        self._facts: dict[str, Mapping[str, Any]] = {}

    def run(self, observed: Observed, asked: str) -> None:
        """Do all steps.

        ``observed``: what was there when the plan was made; ``asked``: digest of the plan that
        was agreed to.
        """
        before = _before(self._journal, observed)
        self._journal.begin(self._plan, before, asked)
        try:
            for step in ordered(self._plan.steps):
                if step.action != "noop":
                    self._do(step)
        except KeyboardInterrupt:
            self._interrupted(before)
            raise
        except Exception as error:
            raise self._failed(error, before) from error

    def _do(self, step: Step) -> None:
        self._options.progress.say(f"{step.action} {step.id}: {step.why}")
        self._journal.intent(step)
        outcome = self._call(step)
        self._facts[step.id] = outcome
        self._journal.outcome(step, outcome)

    def _call(self, step: Step) -> Mapping[str, Any]:
        context = self._context
        context.wait = self._options.wait or self._is_needed(step)
        context.facts = dict(self._facts)
        return persist(
            lambda: self._backend.execute(step, context),
            tell=self._options.progress.say,
            sleep=self._options.sleep,
        )

    def _is_needed(self, step: Step) -> bool:
        return any(step.id in later.after for later in self._plan.changes)

    def _interrupted(self, before: Sequence[str]) -> None:
        """Ctrl-C: the journal stays open for the next run, unless the person wants it undone."""
        if self._plan.kind != "delete" and self._options.on_interrupt() == "remove":
            self._undo(before)
            self._journal.end("undone")

    def _failed(self, error: Exception, before: Sequence[str]) -> LlamaHubError:
        """Keep the log, remove what this run made, and say so in the error."""
        shown = _as_error(error)
        self._journal.failure(self._plan.name, shown.message)
        if self._plan.kind == "delete":
            return _told(shown, "the same command again removes what is left")
        log = self._journal.keep_log(self._last_lines())
        notes = [f"its last log lines: {log}"] if log else []
        return _told(shown, *notes, self._clean_up(before))

    def _clean_up(self, before: Sequence[str]) -> str:
        if self._options.on_failure == "keep" or self._cannot_undo(before):
            self._journal.end("kept")
            return (
                "nothing was undone: run deploy again to go on, "
                f"or llama-hub delete {self._plan.name} to remove all"
            )
        try:
            self._undo(before)
        except LlamaHubError as second:
            return f"undoing it failed too ({second.message}); to clean up: llama-hub gc"
        self._journal.end("undone")
        return "what was there before is back" if before else "what was made is removed again"

    def _cannot_undo(self, before: Sequence[str]) -> bool:
        """Whether something that was there before may be changed, and the way back is unknown."""
        if self._back is not None or not before:
            return False
        intents = self._journal.history().runs[-1].intents
        return any(_changes_what_was_there(intent, before) for intent in intents)

    def _undo(self, before: Sequence[str]) -> None:
        """Return to the last good spec, if there was one; then remove what is left of this run."""
        keep = {*before, *(step.id for step in self._plan.steps if not step.undo)}
        if self._back is not None:
            self._context.target, steps = self._back()
            keep |= {step.id for step in steps if step.action in ("create", "replace")}
            self._do_all(steps)
        self._context.target = None
        made = [found for found in self._all().resources if found.id not in keep]
        self._do_all(self._backend.plan_delete(self._plan.name, Observed(tuple(made))))

    def _do_all(self, steps: Sequence[Step]) -> None:
        for step in ordered(steps):
            if step.action != "noop":
                self._do(step)

    def _all(self) -> Observed:
        """What is there, and what may be there although it does not show yet."""
        observed = self._backend.observe(self._plan.name)
        return with_unconfirmed(observed, self._journal.history().unfinished())

    def _last_lines(self) -> list[str]:
        with suppress(Exception):  # the cause is told already; a missing log must not hide it
            return list(self._backend.logs(self._plan.name, tail=LAST_LINES))
        return []


def _changes_what_was_there(intent: Mapping[str, Any], before: Sequence[str]) -> bool:
    """Whether a step touched what this run did not make; mere data (no ``undo``) does not count."""
    if intent["action"] == "create" or not intent["undo"]:
        return False
    return intent["action"] != "delete" or intent["id"] in before


def with_unconfirmed(observed: Observed, intents: Sequence[Mapping[str, Any]]) -> Observed:
    """``observed`` and what was asked for without a known outcome.

    A platform may list a new resource late; deleting what is absent does no harm.
    """
    shown = {found.id for found in observed.resources}
    unconfirmed = tuple(
        Resource(kind=intent["kind"], name=intent["name"], state="unknown")
        for intent in intents
        if intent["undo"] and intent["id"] not in shown
    )
    return Observed(observed.resources + unconfirmed)


def _before(journal: Journal, observed: Observed) -> list[str]:
    """What an undo must not touch: what was there, less what a cut-off run had made."""
    cut_off = journal.history().open
    if cut_off is not None and cut_off.kind != "delete":
        return list(cut_off.before)
    return [found.id for found in observed.resources]


def _as_error(error: Exception) -> LlamaHubError:
    if isinstance(error, LlamaHubError):
        return error
    if isinstance(error, OSError) and error.errno in FULL:
        return DiskFullError(f"the disk is full: {error.filename or error}", hint="free space")
    return ProvisioningError(f"{type(error).__name__}: {error}")


def _told(error: LlamaHubError, *notes: str) -> LlamaHubError:
    """``error`` of the same class, with ``notes`` among its cures."""
    error.hint = "; ".join([*([error.hint] if error.hint else []), *notes])
    return error
