"""``llama-hub eval TARGET``: the suite asked, the record written."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_hub import __version__
from llama_hub.cli.eval_target import Opened
from llama_hub.cli.output import Output
from llama_hub.errors import UsageError

if TYPE_CHECKING:
    from llama_hub.evaluation.harness import Result
    from llama_hub.evaluation.record import Record
    from llama_hub.evaluation.suites import Suite


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run asks, decided before anything starts."""

    suite: Suite
    limit: int | None
    seed: int
    chat: bool
    python: Path
    bwrap: str | None  # None: no program of a model is run
    folder: Path


def plan(
    name: str,
    *,
    limit: int | None,
    seed: int,
    chat: bool,
    allow_code: bool,
    trusted: bool,
    folder: Path,
) -> Plan:
    """The plan for the suite ``name``; ``UsageError`` for code that nobody allowed to run."""
    from llama_hub.evaluation import environment, sandbox, suites

    suite = suites.load(name, trusted=trusted)
    if suite.code and not allow_code and not suite.entries:
        raise UsageError(
            f"{', '.join(suite.code)} run programs that the model writes",
            hint="--allow-code runs them in a sandbox without network (bubblewrap)",
        )
    if suite.demo and chat:
        raise UsageError(
            "the demo's tasks are raw prompts in the chat format, which no chat message may hold",
            hint="leave out --chat",
        )
    bwrap = sandbox.require() if suite.code and allow_code else None
    chosen = suite.limit if limit is None else limit
    return Plan(suite, chosen or None, seed, chat, environment.find(), bwrap, folder.absolute())


def run(out: Output, target: Opened, chosen: Plan) -> tuple[Record, Result]:
    """Ask everything and write the record; the errors of ``harness.run``."""
    from llama_hub.evaluation import harness, record
    from llama_hub.evaluation.harness import Job

    started, clock = datetime.now(UTC), time.monotonic()
    job = Job(
        target.endpoint, _groups(chosen), chosen.folder, chosen.seed, chosen.limit,
        target.folder, chosen.chat, chosen.suite.include, chosen.suite.code,
    )  # fmt: skip
    noise = sys.stderr.isatty() and not out.quiet
    result = harness.run(job, chosen.python, tell=out.status, noise=noise)
    if chosen.suite.code and chosen.bwrap is None:
        for task in chosen.suite.code:
            result.refused[task] = "runs programs that the model writes: --allow-code"
    _score_code(out, chosen, result)
    seconds = time.monotonic() - clock
    cost = None if target.cost_per_hour is None else target.cost_per_hour * seconds / 3600
    made = record.Record(
        version=__version__,
        subject=target.subject,
        suite=chosen.suite.name,
        harness=record.Harness(name="lm-eval", version=result.version),
        seed=chosen.seed,
        limit=chosen.limit,
        template="the endpoint's own" if chosen.chat else None,
        scores=tuple(result.scores),
        started=started.isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        asked=result.asked,
        asking_seconds=round(result.seconds, 3),
        cost=cost,
        notes=tuple(f"{task} was left out: {why}"[:2000] for task, why in result.refused.items()),
    )
    return record.write(chosen.folder, made, result.samples), result


def _groups(chosen: Plan) -> list[tuple[int | None, Sequence[Any]]]:
    from llama_hub.evaluation import code_tasks, demo_task

    groups: list[tuple[int | None, Sequence[Any]]] = list(chosen.suite.groups())
    data = chosen.folder / "data"
    if chosen.suite.demo:
        groups.append((None, demo_task.tasks(data)))
    if chosen.suite.code and chosen.bwrap is not None:
        made = code_tasks.tasks(chosen.suite.code, data, chosen.python)
        groups += [(None, [task]) for task in made]  # each alone: MBPP needs the Hub
    return groups


def _score_code(out: Output, chosen: Plan, result: Result) -> None:
    """Run the programs, and put their outcome in the place of what lm-eval left out."""
    from llama_hub.evaluation import code_tasks

    own = [sample for sample in result.samples if sample.task in chosen.suite.code]
    if not own or chosen.bwrap is None:
        return
    out.status(f"running {len(own)} programs in the sandbox")
    samples, scores = code_tasks.scored(own, result.programs, chosen.bwrap)
    result.samples = [s for s in result.samples if s.task not in chosen.suite.code] + samples
    result.scores = [s for s in result.scores if s.task not in chosen.suite.code] + scores


def document(made: Record, result: Result, folder: Path) -> dict[str, Any]:
    """What scripts read of a run."""
    return {
        "target": made.subject.name,
        "manifest": made.subject.manifest,
        "suite": made.suite,
        "record": made.digest,
        "path": str(folder),
        "scores": [
            {
                "task": s.task, "metric": s.metric, "value": s.value, "stderr": s.stderr,
                "low": s.low, "high": s.high, "n": s.n, "setting": s.setting,
            }
            for s in made.scores
        ],
        "refused": dict(_mapping(result.refused)),
    }  # fmt: skip


def _mapping(refused: Mapping[str, str]) -> Mapping[str, str]:
    return {task: why for task, why in sorted(refused.items())}
