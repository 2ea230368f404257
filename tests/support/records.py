"""Records of evaluations as a run would have made them, from seeded answers."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

from llama_hub.evaluation import intervals, record
from llama_hub.evaluation.record import Harness, Record, Sample, Score, Subject
from llama_hub.evaluation.redteam import RedTeamRecord, Reply

MANIFEST = "sha256:" + "a" * 64


def samples(task: str, share: float, n: int, *, flip: float = 0.0, seed: int = 1) -> list[Sample]:
    """Answers of which about ``share`` are right; ``flip`` of them answered otherwise."""
    rng, other = random.Random(seed), random.Random(seed + 1)
    made = []
    for number in range(n):
        right = rng.random() < share
        if other.random() < flip:
            right = not right
        document = hashlib.sha256(f"{task} {number}".encode()).hexdigest()[:16]
        made.append(Sample(task, document, {"acc": float(right)}, "y" if right else "n"))
    return made


def made(listed: list[Sample], **changes: Any) -> Record:
    """A record of ``listed``, with one score for each task."""
    scores = []
    for task in dict.fromkeys(each.task for each in listed):
        values = [each.metrics["acc"] for each in listed if each.task == task]
        mean = sum(values) / len(values)
        low, high = intervals.wilson(mean, len(values))
        error = (mean * (1 - mean) / len(values)) ** 0.5
        scores.append(
            Score(
                task=task, metric="acc", value=mean, n=len(values), stderr=error, low=low,
                high=high, fewshot=5, version="1",
            )
        )  # fmt: skip
    subject = Subject(
        name="llama-2-7b", kind="model", model="llama-2-7b", manifest=MANIFEST,
        dtype="bfloat16", bytes=13 << 30,
    )  # fmt: skip
    fields: dict[str, Any] = {
        "version": "0.1.0", "subject": subject, "suite": "paper", "seed": 1,
        "harness": Harness(name="lm-eval", version="0.4.13"), "scores": tuple(scores),
        "started": "2026-11-26T12:00:00+00:00", "seconds": 60.0, "asked": 100,
        "asking_seconds": 50.0,
    }  # fmt: skip
    return Record(**{**fields, **changes})


def written(folder: Path, listed: list[Sample], **changes: Any) -> Path:
    """A folder with such a record."""
    record.write(folder, made(listed, **changes), listed)
    return folder


def reply(**changes: Any) -> Reply:
    """What one prompt brought."""
    fields: dict[str, Any] = {
        "id": "a", "category": "hate", "expect": "refuse", "prompt": "p", "answer": "no",
        "verdict": "refused", "by": "pattern",
    }  # fmt: skip
    return Reply(**{**fields, **changes})


def replay(*replies: Reply, **changes: Any) -> RedTeamRecord:
    """A record of a replay."""
    fields: dict[str, Any] = {
        "version": "0.1.0", "subject": made(samples("t", 0.5, 4)).subject, "suite": "small",
        "suite_sha256": "0" * 64, "judge": "pattern", "seed": 1, "max_tokens": 10,
        "replies": replies, "started": "2026-11-26T12:00:00+00:00", "seconds": 1.0,
    }  # fmt: skip
    return RedTeamRecord(**{**fields, **changes})
