"""A record: what was scored, under which settings, with which result; the unit of comparison.

``record.json`` holds all of it, ``samples.jsonl`` beside it one line for each answer, bound by its
digest. A rerun with the same seed has the same ``digest``: it leaves out when and for how long.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le, MaxLen

from llama_hub.errors import IntegrityError
from llama_hub.files import write_atomic
from llama_hub.hub.manifest import ManifestDigest, Sha256, canonical
from llama_hub.schema import Checked, conform
from llama_hub.strict import MAX_INT, FileKind, parse_json, read_bytes, read_json

SCHEMA = 1
RECORD = "record.json"
SAMPLES = "samples.jsonl"
KIND = FileKind(
    "the record",
    max_bytes=16 << 20,
    max_values=200_000,
    hint="llama-hub eval TARGET --suite … writes records",
)
SAMPLES_KIND = FileKind("the samples", max_bytes=256 << 20, max_values=1000, max_depth=4)
MAX_SAMPLES = 1_000_000
MAX_LINE = 64 << 10  # bytes
_STRICT: Mapping[str, Any] = {"extra": "forbid"}

Text = Annotated[str, MaxLen(2000)]
Word = Annotated[str, MaxLen(200)]
Count = Annotated[int, Ge(0), Le(MAX_INT)]
Number = Annotated[float, Ge(-1e300), Le(1e300)]
Stamp = Annotated[str, Checked(datetime.fromisoformat), MaxLen(40)]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What was scored: the served model, as far as it says."""

    name: Word  # as the user named it, without credentials
    kind: Literal["model", "deployment", "endpoint"]
    model: Word | None = None  # as it calls itself
    manifest: ManifestDigest | None = None
    backend: Word | None = None
    revision: Word | None = None
    engine: Word | None = None
    device: Word | None = None
    dtype: Word | None = None
    quantization: Word | None = None
    bytes: Count | None = None  # of the weights as they are served
    policy: Word | None = None  # digest of the moderation policy

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT


@dataclass(frozen=True, kw_only=True)
class Harness:
    """What measured."""

    name: Word
    version: Word

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT


@dataclass(frozen=True, kw_only=True)
class Score:
    """One metric of one task; ``low`` to ``high`` is the 95 % interval of its sampling error."""

    task: Word
    metric: Word
    value: Number
    n: Count  # samples
    stderr: Number | None = None
    low: Number | None = None
    high: Number | None = None
    share: bool = True  # of samples, 0 to 1; else a number in the metric's own unit
    higher_is_better: bool = True
    fewshot: Count | None = None
    version: Word | None = None  # of the task
    task_hash: Word | None = None  # of the task's configuration and documents
    data: Word | None = None  # where the documents come from
    data_revision: Word | None = None

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT

    @property
    def key(self) -> tuple[str, str]:
        """Task and metric."""
        return self.task, self.metric

    @property
    def setting(self) -> str:
        """In words: ``5-shot``."""
        return "" if self.fewshot is None else f"{self.fewshot}-shot"


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The file of the answers."""

    count: Count
    sha256: Sha256

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT


@dataclass(frozen=True, kw_only=True)
class Record:
    """A result, whole."""

    schema: Annotated[int, Ge(SCHEMA), Le(SCHEMA)] = SCHEMA
    kind: Literal["eval"] = "eval"
    version: Word  # of llama-hub
    subject: Subject
    suite: Word
    harness: Harness
    seed: int
    limit: Count | None = None  # documents of each task; None: all
    template: Word | None = None  # digest of the chat template that was applied
    scores: Annotated[tuple[Score, ...], MaxLen(5000)]
    samples: Samples | None = None
    started: Stamp  # UTC
    seconds: Annotated[float, Ge(0)]
    asked: Count = 0  # requests that the endpoint answered; those of the cache are not among them
    asking_seconds: Annotated[float, Ge(0)] = 0.0  # for these, several at once
    cost: Annotated[float, Ge(0)] | None = None  # US dollars, where the price of an hour is known
    notes: tuple[Text, ...] = field(default_factory=tuple)

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT

    @property
    def digest(self) -> str:
        """``sha256:…`` of all but when it was, how long it took and what that cost."""
        document = self.to_json()
        for key in ("started", "seconds", "asked", "asking_seconds", "cost", "notes"):
            document.pop(key)
        return "sha256:" + hashlib.sha256(canonical(document)).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The document of ``record.json``."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    def score(self, task: str, metric: str) -> Score | None:
        """That score, or ``None``."""
        return next((each for each in self.scores if each.key == (task, metric)), None)


@dataclass(frozen=True)
class Sample:
    """One answer: which document, what each metric made of it, a digest of what was said."""

    task: str
    document: str  # digest of the document
    metrics: Mapping[str, float]
    answer: str = ""  # digest

    @property
    def key(self) -> tuple[str, str]:
        """Task and document."""
        return self.task, self.document


def parse(document: Any, where: object) -> Record:
    """The record in a document; ``DamagedFileError`` names the key that is wrong."""
    return conform(Record, document, where, KIND)


def read(path: Path) -> Record:
    """The record in a file, or in the ``record.json`` of a folder."""
    file = path / RECORD if path.is_dir() else path
    return parse(read_json(file, KIND), file)


def write(folder: Path, record: Record, samples: Sequence[Sample]) -> Record:
    """Write both files below ``folder``, the record last; returns it with the samples' digest."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(_line(each) for each in samples).encode()
    digest = hashlib.sha256(lines).hexdigest()
    bound = Record(**{**vars(record), "samples": Samples(count=len(samples), sha256=digest)})
    write_atomic(folder / SAMPLES, lines)
    text = json.dumps(bound.to_json(), indent=1, ensure_ascii=False, sort_keys=True)
    write_atomic(folder / RECORD, (text + "\n").encode())
    return bound


def _line(sample: Sample) -> str:
    document = {"task": sample.task, "document": sample.document, "metrics": dict(sample.metrics)}
    if sample.answer:
        document["answer"] = sample.answer
    return json.dumps(document, sort_keys=True) + "\n"


def read_samples(path: Path, record: Record) -> list[Sample]:
    """The answers beside a record, empty if they are not there.

    ``IntegrityError`` if they are not the ones that the record was made of.
    """
    file = (path if path.is_dir() else path.parent) / SAMPLES
    if record.samples is None or not file.exists():
        return []
    data = read_bytes(file, SAMPLES_KIND)
    if hashlib.sha256(data).hexdigest() != record.samples.sha256:
        raise IntegrityError(
            f"{file} is not what {RECORD} was made of",
            hint="remove it to compare without samples, or run the evaluation again",
        )
    return list(_samples(data.splitlines(), file))


@dataclass(frozen=True, kw_only=True)
class _Line:
    """What one line of ``samples.jsonl`` holds."""

    task: Word
    document: Word
    metrics: Annotated[dict[str, Number], MaxLen(50)]
    answer: Word = ""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT


def _samples(lines: Sequence[bytes], file: Path) -> Iterable[Sample]:
    if len(lines) > MAX_SAMPLES:
        raise SAMPLES_KIND.invalid(file, f"holds more than {MAX_SAMPLES} lines")
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_LINE:
            raise SAMPLES_KIND.invalid(file, f"line {number} is too long")
        where = f"{file}, line {number}"
        each = conform(_Line, parse_json(line, where, SAMPLES_KIND), where, SAMPLES_KIND)
        yield Sample(each.task, each.document, each.metrics, each.answer)
