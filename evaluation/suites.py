"""Suites: which tasks, with how many shots. The paper's, a quick one, code, the demo's, a file's.

A file is YAML: ``tasks: [{task: mmlu, fewshot: 5}]`` with names that lm-eval knows; ``include:
FOLDER`` adds tasks of your own. Such a folder is code (lm-eval runs their templates and functions),
so it is taken only with ``--trust-tasks``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Le, MaxLen, MinLen

from llama_hub.errors import UsageError
from llama_hub.schema import Pattern, conform, did_you_mean
from llama_hub.strict import read_yaml, text_kind

KIND = text_kind("the suite", max_bytes=256 << 10, max_values=5000, hint="docs/evaluation.md")
NAME = Pattern(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", "the name of a task")


@dataclass(frozen=True)
class Entry:
    """A task; ``fewshot`` None: as the task itself says."""

    task: Annotated[str, NAME]
    fewshot: Annotated[int, Ge(0), Le(100)] | None = None

    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid"}


@dataclass(frozen=True)
class Suite:
    """Tasks under one name."""

    name: str
    entries: tuple[Entry, ...] = ()
    limit: int | None = None  # documents of each task, unless the user says
    include: Path | None = None
    demo: bool = False
    code: tuple[str, ...] = ()  # tasks whose answers are programs: humaneval, mbpp

    def groups(self) -> list[tuple[int | None, list[str]]]:
        """Tasks by their shots, in order of first appearance."""
        grouped: dict[int | None, list[str]] = {}
        for entry in self.entries:
            grouped.setdefault(entry.fewshot, []).append(entry.task)
        return list(grouped.items())


CODE = ("humaneval", "mbpp")  # ours, which run nothing outside of the sandbox
PAPER = (
    Entry("mmlu", 5), Entry("bbh"), Entry("agieval_en"), Entry("boolq", 0), Entry("piqa", 0),
    Entry("social_iqa", 0), Entry("hellaswag", 0), Entry("winogrande", 0), Entry("arc_easy", 0),
    Entry("arc_challenge", 0), Entry("openbookqa", 0), Entry("commonsense_qa", 7),
    Entry("nq_open", 5), Entry("triviaqa", 5), Entry("gsm8k", 8), Entry("truthfulqa_mc2", 0),
    Entry("toxigen", 0),
)  # fmt: skip
QUICK = (Entry("piqa", 0), Entry("arc_easy", 0), Entry("winogrande", 0), Entry("boolq", 0))
SUITES: Mapping[str, Suite] = {
    "paper": Suite("paper", PAPER, code=CODE),
    "quick": Suite("quick", QUICK, limit=200),
    "code": Suite("code", code=CODE),
    "demo": Suite("demo", demo=True),
}


@dataclass(frozen=True, kw_only=True)
class _File:
    """A suite's file."""

    name: Annotated[str, NAME] | None = None
    limit: Annotated[int, Ge(1), Le(10_000_000)] | None = None
    include: Annotated[str, MaxLen(4096)] | None = None
    tasks: Annotated[tuple[Entry, ...], MinLen(1), MaxLen(500)] = field(default=())

    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid"}


def load(name: str, *, trusted: bool = False) -> Suite:
    """The suite called ``name``, or in the file ``name``.

    ``UsageError`` for one that is neither, is empty, or brings code that nobody said to trust.
    """
    if name in SUITES:
        return SUITES[name]
    path = Path(name).expanduser()
    if not path.exists() and not name.endswith((".yaml", ".yml")):
        near = did_you_mean(name, SUITES)
        raise UsageError(
            f"there is no suite {name[:100]!r}{near}", hint=f"{', '.join(SUITES)}, or a YAML file"
        )
    read = conform(_File, read_yaml(path, KIND), path, KIND)
    if not read.tasks:
        raise KIND.invalid(path, "holds no task", "tasks")
    _no_task_twice(read.tasks, path)
    include = None if read.include is None else (path.parent / read.include).resolve()
    if include is not None and not trusted:
        raise UsageError(
            f"{path} adds tasks of the folder {include}, which lm-eval runs as code",
            hint="read them, then say --trust-tasks",
        )
    plain = tuple(entry for entry in read.tasks if entry.task not in CODE)
    code = tuple(entry.task for entry in read.tasks if entry.task in CODE)
    return Suite(read.name or path.stem, plain, read.limit, include, code=code)


def _no_task_twice(entries: Sequence[Entry], path: Path) -> None:
    names = [entry.task for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise KIND.invalid(path, f"{', '.join(twice)} stands there twice", "tasks")
