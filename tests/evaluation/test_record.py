"""Records: what is written is read again, a rerun is equal, a broken one is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llama_hub.errors import LlamaHubError
from llama_hub.evaluation import record
from tests.support.records import made, samples, written


def test_a_record_comes_back_and_a_rerun_has_its_digest(tmp_path: Path) -> None:
    listed = samples("mmlu", 0.4, 50)
    first = record.read(written(tmp_path / "a", listed))
    again = record.read(
        written(tmp_path / "b", listed, started="2026-11-27T00:00:00+00:00", seconds=1.0, cost=2.0)
        / "record.json"
    )
    assert first.digest == again.digest
    assert record.read_samples(tmp_path / "a", first) == listed
    other = record.read(written(tmp_path / "c", samples("mmlu", 0.4, 50, flip=0.1)))
    assert other.digest != first.digest
    assert made(listed, seed=2).digest != made(listed).digest


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"schema": 2}, "schema"),
        ({"scores": [{"task": "a"}]}, "scores.0.metric: is missing"),
        ({"seed": "1"}, "seed"),
        ({"seconds": -1}, "seconds"),
        ({"started": "yesterday"}, "started"),
        ({"more": 1}, "unknown key"),
        ({"subject": {"name": "x", "kind": "rumour"}}, "subject.kind"),
        ({"samples": {"count": 1, "sha256": "../x"}}, "64 hexadecimal"),
    ],
)
def test_a_broken_record_names_its_key(tmp_path: Path, change: Any, problem: str) -> None:
    document = made(samples("mmlu", 0.4, 5)).to_json() | change
    (tmp_path / "record.json").write_text(json.dumps(document))
    with pytest.raises(LlamaHubError, match=problem) as raised:
        record.read(tmp_path)
    assert raised.value.exit_code == 5


@pytest.mark.parametrize(
    "line", ["", "[]", '{"task": "a"}', '{"task": 1, "document": "x", "metrics": {}}', "x" * 70_000]
)
def test_samples_are_bound_to_their_record(tmp_path: Path, line: str) -> None:
    import hashlib

    folder = written(tmp_path / "a", samples("mmlu", 0.4, 5))
    (folder / "samples.jsonl").write_text(line + "\n")
    with pytest.raises(LlamaHubError, match="not what record.json was made of") as raised:
        record.read_samples(folder, record.read(folder))
    assert raised.value.exit_code == 5
    digest = hashlib.sha256((line + "\n").encode()).hexdigest()
    document = json.loads((folder / "record.json").read_text())
    document["samples"]["sha256"] = digest
    (folder / "record.json").write_text(json.dumps(document))
    with pytest.raises(LlamaHubError) as raised:
        record.read_samples(folder, record.read(folder))
    assert raised.value.exit_code == 5
    (folder / "samples.jsonl").unlink()
    assert record.read_samples(folder, record.read(folder)) == []
