"""Red team: a fixed suite replayed, greedy and seeded; answers judged; a record that can be diffed.

What counts is the change: a prompt that was refused before and is answered now is a regression
(exit 5), whether a new revision, a quantisation or a backend made it. A rate alone says little, for
a suite is a sample of nothing but itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le, MaxLen

from llama_hub.errors import IntegrityError
from llama_hub.evaluation import intervals
from llama_hub.evaluation.record import Count, Stamp, Subject, Text, Word
from llama_hub.evaluation.redteam_suite import Expect
from llama_hub.files import write_atomic
from llama_hub.hub.manifest import Sha256, canonical
from llama_hub.schema import conform
from llama_hub.strict import FileKind, read_json

SCHEMA = 1
RECORD = "redteam.json"
KIND = FileKind(
    "the red-team record",
    max_bytes=256 << 20,
    max_values=500_000,
    hint="llama-hub redteam TARGET writes one",
)
Verdict = Literal["refused", "filtered", "harmless", "answered", "harmful"]
REFUSED: tuple[Verdict, ...] = ("refused", "filtered")
VIOLATIONS: tuple[Verdict, ...] = ("answered", "harmful")
_STRICT: Mapping[str, Any] = {"extra": "forbid"}


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What one prompt brought."""

    id: Word
    category: Word
    expect: Expect
    prompt: Annotated[str, MaxLen(100_000)]  # the last message
    answer: Annotated[str, MaxLen(100_000)]
    verdict: Verdict
    why: Text = ""
    by: Word  # who judged

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT

    @property
    def violates(self) -> bool:
        """Whether what should have been refused was not."""
        return self.expect == "refuse" and self.verdict in VIOLATIONS

    @property
    def refuses_harmless(self) -> bool:
        """Whether what should have been answered was refused."""
        return self.expect == "answer" and self.verdict in REFUSED


@dataclass(frozen=True, kw_only=True)
class RedTeamRecord:
    """A replay, whole."""

    schema: Annotated[int, Ge(SCHEMA), Le(SCHEMA)] = SCHEMA
    kind: Literal["redteam"] = "redteam"
    version: Word
    subject: Subject
    suite: Word
    suite_sha256: Sha256
    judge: Word
    seed: int
    max_tokens: Count
    system: Annotated[str, MaxLen(20_000)] | None = None
    replies: Annotated[tuple[Reply, ...], MaxLen(10_000)]
    started: Stamp
    seconds: Annotated[float, Ge(0)]

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT

    @property
    def digest(self) -> str:
        """``sha256:…`` of all but when it was and how long it took."""
        document = self.to_json()
        for key in ("started", "seconds"):
            document.pop(key)
        return "sha256:" + hashlib.sha256(canonical(document)).hexdigest()

    @property
    def violations(self) -> list[Reply]:
        """What should have been refused and was not."""
        return [each for each in self.replies if each.violates]

    @property
    def over_refusals(self) -> list[Reply]:
        """What should have been answered and was refused."""
        return [each for each in self.replies if each.refuses_harmless]

    def to_json(self) -> dict[str, Any]:
        """The document of ``redteam.json``."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    def rates(self) -> list[tuple[str, int, int, float, float]]:
        """Category, violations, prompts, and the 95 % interval of the share; all first."""
        asked = [each for each in self.replies if each.expect == "refuse"]
        groups = {"all": asked}
        for each in asked:
            groups.setdefault(each.category, []) if each.category != "all" else None
        for name in list(groups)[1:]:
            groups[name] = [each for each in asked if each.category == name]
        rows = []
        for name, listed in groups.items():
            if listed:
                bad = sum(each.violates for each in listed)
                low, high = intervals.wilson(bad / len(listed), len(listed))
                rows.append((name, bad, len(listed), low, high))
        return rows


@dataclass(frozen=True)
class Change:
    """One prompt in two records."""

    before: Reply
    after: Reply

    @property
    def regressed(self) -> bool:
        """Whether a refused prompt is answered now."""
        return self.after.violates and not self.before.violates

    @property
    def improved(self) -> bool:
        """Whether an answered prompt is refused now."""
        return self.before.violates and not self.after.violates


@dataclass(frozen=True)
class Diff:
    """What changed from one record to another."""

    changes: tuple[Change, ...]
    settings: tuple[tuple[str, str, str], ...] = field(default_factory=tuple)  # that differ
    missing: tuple[str, ...] = ()  # ids that only one has

    @property
    def regressions(self) -> list[Change]:
        """Refused before, answered now."""
        return [each for each in self.changes if each.regressed]

    @property
    def improvements(self) -> list[Change]:
        """Answered before, refused now."""
        return [each for each in self.changes if each.improved]

    @property
    def same_answers(self) -> int:
        """Answers that are the same to the letter."""
        return sum(each.before.answer == each.after.answer for each in self.changes)

    def to_json(self) -> dict[str, Any]:
        """The document of ``redteam diff``."""

        def rows(changes: Sequence[Change]) -> list[dict[str, Any]]:
            return [
                {
                    "id": c.after.id, "category": c.after.category, "prompt": c.after.prompt,
                    "before": {"verdict": c.before.verdict, "answer": c.before.answer},
                    "after": {"verdict": c.after.verdict, "answer": c.after.answer},
                }
                for c in changes
            ]  # fmt: skip

        return {
            "regressions": rows(self.regressions),
            "improvements": rows(self.improvements),
            "same_answers": self.same_answers,
            "compared": len(self.changes),
            "missing": list(self.missing),
            "settings": [{"name": n, "before": a, "after": b} for n, a, b in self.settings],
        }


def diff(before: RedTeamRecord, after: RedTeamRecord) -> Diff:
    """What changed; ``IntegrityError`` if the two asked other prompts under the same ids."""
    old = {each.id: each for each in before.replies}
    new = {each.id: each for each in after.replies}
    both = [each for each in new if each in old]
    for each in both:
        if old[each].prompt != new[each].prompt:
            raise IntegrityError(
                f"the prompt {each!r} is another one in each record: they are of two suites",
                hint="replay the same suite",
            )
    pairs = {
        "manifest": (before.subject.manifest, after.subject.manifest),
        "quantization": (before.subject.quantization, after.subject.quantization),
        "engine": (before.subject.engine, after.subject.engine),
        "backend": (before.subject.backend, after.subject.backend),
        "revision": (before.subject.revision, after.subject.revision),
        "moderation policy": (before.subject.policy, after.subject.policy),
        "judge": (before.judge, after.judge),
        "seed": (before.seed, after.seed),
        "max_tokens": (before.max_tokens, after.max_tokens),
        "system prompt": (before.system, after.system),
        "suite": (before.suite_sha256, after.suite_sha256),
    }
    settings = tuple((n, str(a or "–"), str(b or "–")) for n, (a, b) in pairs.items() if a != b)
    missing = tuple(sorted(old.keys() ^ new.keys()))
    return Diff(tuple(Change(old[each], new[each]) for each in both), settings, missing)


def read(path: Path) -> RedTeamRecord:
    """The record in a file or folder; ``DamagedFileError`` names the key that is wrong."""
    file = path / RECORD if path.is_dir() else path
    return conform(RedTeamRecord, read_json(file, KIND), file, KIND)


def write(folder: Path, record: RedTeamRecord) -> None:
    """Write the record below ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record.to_json(), indent=1, ensure_ascii=False, sort_keys=True)
    write_atomic(folder / RECORD, (text + "\n").encode())
