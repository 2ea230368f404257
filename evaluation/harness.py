"""lm-eval as the engine: one process for all tasks, its results as scores and samples.

What is done stays: each group of tasks leaves its result in the run's folder, each answered request
an entry in a cache, and the same command goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from llama_hub.errors import (
    AccessError,
    IntegrityError,
    LlamaHubError,
    UnreachableError,
    UsageError,
)
from llama_hub.evaluation import environment, intervals, lm_eval_runner
from llama_hub.evaluation.endpoint import Endpoint
from llama_hub.evaluation.record import Sample, Score
from llama_hub.files import private_folder, write_atomic
from llama_hub.home import home
from llama_hub.hub.manifest import canonical
from llama_hub.schema import conform
from llama_hub.strict import FileKind, read_json

CONCURRENT = 8  # requests at once
TIMEOUT = 600  # seconds for one answer
RETRIES = 3
KIND = FileKind("lm-eval's result", max_bytes=64 << 20, max_values=500_000)
MAX_LINE = 1 << 20
RUNNER = Path(lm_eval_runner.__file__)
LOG = "lm-eval.log"
LOG_TAIL = 64 << 10  # bytes
_RESPONSE = re.compile(r"Response text: (.*?)\. Retrying")
_STATUS = re.compile(r"ClientResponseError: (\d{3})")
END_SECONDS = 10.0  # that the process has after SIGTERM


@dataclass(frozen=True)
class Job:
    """What to ask of whom."""

    endpoint: Endpoint
    groups: Sequence[tuple[int | None, Sequence[Any]]]  # shots, tasks
    folder: Path  # of the run
    seed: int
    limit: int | None
    tokenizer: Path | None = None
    chat: bool = False
    include: Path | None = None
    programs: tuple[str, ...] = ()  # tasks whose answers are kept to be run

    @property
    def digest(self) -> str:
        """Of all that an answer depends on, and of the run: the name of its cache.

        Another run asks again: what lies behind an address may have changed, and a rerun that only
        repeats what was kept would prove nothing.
        """
        stated = self.endpoint.stated or {}
        what = {
            "folder": str(self.folder),
            "url": "" if stated.get("manifest") else self.endpoint.url,
            "manifest": str(stated.get("manifest")),
            "engine": json.dumps(stated.get("engine"), sort_keys=True),
            "model": self.endpoint.model, "chat": self.chat, "seed": self.seed,
            "policy": json.dumps(stated.get("moderation"), sort_keys=True),
        }  # fmt: skip
        return hashlib.sha256(canonical(what)).hexdigest()[:32]

    def document(self) -> dict[str, Any]:
        """The runner's file, without any key."""
        path = "chat/completions" if self.chat else "completions"
        arguments: dict[str, Any] = {
            "model": self.endpoint.model,
            "base_url": f"{self.endpoint.url}/v1/{path}",
            "num_concurrent": CONCURRENT,
            "max_retries": RETRIES,
            "timeout": TIMEOUT,
            "seed": self.seed,
        }
        if self.tokenizer is not None:
            arguments |= {"tokenizer": str(self.tokenizer), "tokenizer_backend": "huggingface"}
            arguments["tokenized_requests"] = not self.chat
        else:
            arguments |= {"tokenizer_backend": "None", "tokenized_requests": False}
        if self.endpoint.context is not None:
            arguments["max_length"] = self.endpoint.context
        cache = home() / "evaluations" / "cache"
        private_folder(cache)
        return {
            "model": "local-chat-completions" if self.chat else "local-completions",
            "arguments": arguments,
            "groups": [{"shots": shots, "tasks": list(tasks)} for shots, tasks in self.groups],
            "out": str(self.folder),
            "cache": str(cache / self.digest),
            "include": None if self.include is None else str(self.include),
            "limit": self.limit,
            "seed": self.seed,
            "chat": self.chat,
            "programs": list(self.programs),
            "no_logprobs": self._no_logprobs(),
        }

    def _no_logprobs(self) -> str:
        if self.endpoint.no_logprobs:
            return self.endpoint.no_logprobs
        if self.chat:
            return "chat completions give no log-probabilities of a prompt (leave out --chat)"
        if self.tokenizer is None:
            return "the tokenizer is not here: --tokenizer FOLDER"
        return ""


@dataclass
class Result:
    """What came of it."""

    scores: list[Score] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    programs: dict[tuple[str, str], tuple[Mapping[str, Any], str]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)  # task → why
    version: str = environment.VERSION
    asked: int = 0  # requests that the endpoint answered, those of the cache not among them
    seconds: float = 0.0  # for these


def run(job: Job, python: Path, *, tell: Callable[[str], None], noise: bool = False) -> Result:
    """Run the job.

    ``UsageError`` for tasks that nobody knows or that cannot be asked, or another run's folder;
    ``UnreachableError`` if the endpoint or the data fail. ``noise``: show lm-eval's own bars.
    """
    private_folder(job.folder)
    file = job.folder / "job.json"
    document = job.document()
    if file.exists() and _identity(read_json(file, KIND)) != _identity(document):
        raise UsageError(
            f"{job.folder} holds another run: other tasks, settings or another endpoint",
            hint="another --out, or none",
        )
    write_atomic(file, json.dumps(document, indent=1).encode(), mode=0o600)
    result = Result()
    last = _spoken(_lines(job, python, file, noise), result, tell)
    _judge(last, result, job.folder / LOG)
    for number in range(len(job.groups)):
        _collect(job.folder / f"group-{number}.json", result)
    return result


def _identity(document: Any) -> Any:
    """A job without its address: the same model may be served at another port."""
    if not isinstance(document, dict) or not isinstance(document.get("arguments"), dict):
        return None
    arguments = {k: v for k, v in document["arguments"].items() if k != "base_url"}
    return document | {"arguments": arguments}


def _lines(job: Job, python: Path, file: Path, noise: bool) -> Iterator[Mapping[str, Any]]:
    """What the runner says, line by line; the process ends with the iterator."""
    given = environment.variables(
        **{lm_eval_runner.HEADERS: json.dumps(dict(job.endpoint.headers))},
        OPENAI_API_KEY="none", TOKENIZERS_PARALLELISM="false", HF_HUB_DISABLE_TELEMETRY="1",
    )  # fmt: skip
    log = (job.folder / LOG).open("ab")
    with log:
        process = subprocess.Popen(
            [str(python), str(RUNNER), str(file)],
            env=given, stdout=subprocess.PIPE, stderr=None if noise else log, cwd=job.folder,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            while line := process.stdout.readline(MAX_LINE):
                document = _parsed(line)
                if document is not None:
                    yield document
            process.wait()
        finally:
            _end(process)


def _parsed(line: bytes) -> Mapping[str, Any] | None:
    """A line of ours; what libraries print is passed over."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _spoken(
    lines: Iterator[Mapping[str, Any]], result: Result, tell: Callable[[str], None]
) -> Mapping[str, Any]:
    last: Mapping[str, Any] = {"end": "killed"}
    for line in lines:
        if "refused" in line:
            result.refused[str(line["refused"])] = str(line["why"])
            tell(f"{line['refused']} is left out: {line['why']}")
        elif "group" in line:
            tell(f"{', '.join(map(str, line['tasks']))}: {line['state']}")
        elif "end" in line:
            last = line
    return last


def _judge(last: Mapping[str, Any], result: Result, log: Path) -> None:
    """The error for a run that came to nothing."""
    end = last["end"]
    if end == "done":
        return
    if end == "unknown":
        names = ", ".join(map(str, last["tasks"]))[:500]
        raise UsageError(
            f"lm-eval knows no task {names}", hint="check the suite; docs/evaluation.md"
        )
    if end == "nothing":
        why = "; ".join(f"{task}: {reason}" for task, reason in result.refused.items())[:1500]
        raise UsageError(f"no task can be asked. {why}", hint="docs/evaluation.md")
    why = str(last.get("why", "lm-eval's process ended without a word"))
    raise _failure(why, _refusal(log), log)


def _refusal(log: Path) -> str:
    """The endpoint's last words to a request that it refused, which only lm-eval's log has."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL))
        found = _RESPONSE.findall(file.read().decode("utf-8", "replace"))
    return f"; it says {found[-1][:500]}" if found else ""


def _failure(why: str, said: str, log: Path) -> LlamaHubError:
    hint = f"the same command with --out {log.parent} goes on where it stopped; {log} has the rest"
    status = _STATUS.search(why)
    if status is not None and status[1] in ("401", "403"):
        return AccessError(f"the endpoint refused: {why}{said}", hint="--api-key KEY|@FILE")
    if status is not None and status[1] in ("400", "404", "413", "422"):
        return UsageError(f"the endpoint refused a request: {why}{said}", hint=hint)
    if "DatasetNotFound" in why or "ConnectionError" in why and "datasets" in why:
        return UnreachableError(f"the data of a task could not be loaded: {why}", hint=hint)
    if "OfflineMode" in why or "LocalEntryNotFound" in why:
        return UnreachableError(f"the data of a task is not on this machine: {why}", hint=hint)
    return UnreachableError(f"the evaluation failed: {why}", hint=hint)


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """A score as the runner writes it."""

    task: str
    metric: str
    value: float
    stderr: float | None
    n: int
    share: bool
    higher_is_better: bool
    fewshot: int | None
    version: str | None
    task_hash: str | None
    data: str | None
    data_revision: str | None
    binary: bool


@dataclass(frozen=True, kw_only=True)
class _Group:
    """A group's file."""

    scores: tuple[_Scored, ...]
    harness: str
    asked: Annotated[int, Ge(0)]
    seconds: Annotated[float, Ge(0)]


def _collect(file: Path, result: Result) -> None:
    if not file.exists():
        return
    group = conform(_Group, read_json(file, KIND), file, KIND)
    result.version = group.harness
    result.asked += group.asked
    result.seconds += group.seconds
    result.scores += [score_of(each) for each in group.scores]
    with file.with_suffix(".jsonl").open("rb") as lines:
        for line in lines:
            if len(line) > MAX_LINE:
                raise IntegrityError(f"{file.with_suffix('.jsonl')} holds a line that is too long")
            document = json.loads(line)
            program = document.pop("program", None)
            sample = Sample(**document)
            result.samples.append(sample)
            if program is not None:
                result.programs[sample.key] = (program[0], str(program[1]))


def score_of(each: _Scored) -> Score:
    """With its interval: Wilson's for shares of right answers, else two standard errors."""
    fields = {k: v for k, v in vars(each).items() if k != "binary"}
    low = high = None
    if each.binary and each.n:
        low, high = intervals.wilson(each.value, each.n)
    elif each.stderr is not None:
        low, high = each.value - intervals.Z * each.stderr, each.value + intervals.Z * each.stderr
    return Score(**fields, low=low, high=high)


def new_folder(name: str) -> Path:
    """A folder for a run without ``--out``, of this moment."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    safe = "".join(c if c.isalnum() or c in "-." else "-" for c in name)[-60:].strip("-.")
    return home() / "evaluations" / f"{stamp}-{safe or 'endpoint'}"
