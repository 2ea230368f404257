"""Doing the steps of a plan, with the journal before and after each.

Nothing here knows a cloud. A throttled step is tried again; a step that fails
ends the run, and what the run made is removed unless the caller wants to look
at it; a crash leaves a journal from which the next run goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from llama_hub.deploy.backend import Backend, Context, Observed, Resource, Step, Target
from llama_hub.deploy.plan import Plan, ordered
from llama_hub.deploy.waiting import persist
from llama_hub.errors import DiskFullError, LlamaHubError, ProvisioningError, UnconfirmedError
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
            problems = self._undo(before)
            if not problems:
                self._journal.end("undone")
            else:
                self._options.progress.say(self._not_undone(problems, before))

    def _failed(self, error: Exception, before: Sequence[str]) -> LlamaHubError:
        """Keep the log, remove what this run made, and say so in the error."""
        shown = _as_error(error)
        self._journal.failure(self._plan.name, shown.message)
        if self._plan.kind == "delete":
            return _told(shown, "the same command again removes what is left")
        if isinstance(error, UnconfirmedError):
            self._journal.end("kept")
            return _told(shown, f"nothing was undone{self._standing()}; then run deploy again")
        log = self._journal.keep_log(self._last_lines())
        notes = [f"its last log lines: {log}"] if log else []
        return _told(shown, *notes, self._clean_up(before))

    def _clean_up(self, before: Sequence[str]) -> str:
        if self._options.on_failure == "keep" or self._cannot_undo(before):
            self._journal.end("kept")
            return (
                f"nothing was undone{self._standing()}: run deploy again to go on, "
                f"or llama-hub delete {self._plan.name} to remove all"
            )
        problems = self._undo(before)
        if problems:
            return self._not_undone(problems, before)
        self._journal.end("undone")
        done = "what was there before is back" if before else "what was made is removed again"
        return done + self._lasting()

    def _not_undone(self, problems: Sequence[str], before: Sequence[str]) -> str:
        """What failed, what it leaves and costs, and the command that ends it."""
        mend = f"llama-hub delete {self._plan.name}"
        mend = f"run deploy again, or {mend}" if before else f"llama-hub gc, or {mend}"
        return (
            f"undoing it failed too ({'; '.join(problems)}){self._standing()}; to clean up: {mend}"
        )

    def _standing(self) -> str:
        """What is still there, and what it may cost."""
        try:
            names = [one.id for one in self._all().resources]
        except LlamaHubError:
            names = [str(one["id"]) for one in self._journal.history().unfinished()]
        if not names:
            return ""
        cost = self._plan.cost_per_hour
        price = f", which may cost up to ${cost[1]:.2f} an hour" if cost and cost[1] else ""
        return f"; still there: {', '.join(names)}{price}"

    def _lasting(self) -> str:
        """What this run has put there and an undo leaves: uploads, which the next try needs."""
        run = self._journal.history().runs[-1]
        begun = {one["id"] for one in run.intents if not one["undo"]}
        try:
            there = {*run.outcomes, *(one.id for one in self._all().resources)}
        except LlamaHubError:
            there = begun
        steps = [one for one in self._plan.changes if one.action != "delete"]
        names = [one.id for one in steps if one.id in begun & there]
        if not names:
            return ""
        told = f", except {', '.join(names)}: the next deploy goes on with it"
        return f"{told}, llama-hub gc removes it"

    def _cannot_undo(self, before: Sequence[str]) -> bool:
        """Whether something that was there before may be changed, and the way back is unknown."""
        if self._back is not None or not before:
            return False
        intents = self._journal.history().runs[-1].intents
        return any(_changes_what_was_there(intent, before) for intent in intents)

    def _undo(self, before: Sequence[str]) -> list[str]:
        """Return to the last good spec, if there was one; then remove what is left of this run.

        Everything that can be undone is; what could not be is returned, in words.
        """
        keep = {*before, *(step.id for step in self._plan.steps if not step.undo)}
        try:
            if self._back is not None:
                self._context.target, steps = self._back()
                keep |= {step.id for step in steps if step.action in ("create", "replace")}
                problems = self._try_all(steps)
                if problems:  # what was made may be all that answers now
                    return problems
            self._context.target = None
            made = [found for found in self._all().resources if found.id not in keep]
            return self._try_all(self._backend.plan_delete(self._plan.name, Observed(tuple(made))))
        except Exception as error:
            return [_as_error(error).message]

    def _try_all(self, steps: Sequence[Step]) -> list[str]:
        """Do each step that does not wait for one that failed; what went wrong."""
        problems: list[str] = []
        failed: set[str] = set()
        for step in ordered(steps):
            if failed & set(step.after):
                failed.add(step.id)
            elif step.action != "noop":
                try:
                    self._do(step)
                except Exception as error:
                    failed.add(step.id)
                    problems.append(f"{step.id}: {_as_error(error).message}")
        return problems

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

    A platform may list a new resource late; deleting what is absent does no harm. What others have
    in its place was never made by us.
    """
    shown = {found.id for found in (*observed.resources, *observed.foreign)}
    unconfirmed = tuple(
        Resource(kind=intent["kind"], name=intent["name"], state="unknown")
        for intent in intents
        if intent["undo"] and intent["id"] not in shown
    )
    return replace(observed, resources=observed.resources + unconfirmed)


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
