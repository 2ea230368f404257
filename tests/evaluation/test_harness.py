"""lm-eval's process as seen from here: what it says, how it ends, what it leaves.

``fake`` is a shell script in the interpreter's place that writes the runner's lines; what lm-eval
itself does is in ``test_lm_eval.py``, where a real one is named.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from llama_hub.errors import LlamaHubError
from llama_hub.evaluation import environment, harness
from llama_hub.evaluation.endpoint import Endpoint
from llama_hub.evaluation.harness import Job

SCORE = {
    "task": "t", "metric": "acc", "value": 0.5, "stderr": 0.1, "n": 2, "share": True,
    "higher_is_better": True, "fewshot": 0, "version": "1", "task_hash": "sha256:1", "data": "d",
    "data_revision": None, "binary": True,
}  # fmt: skip
SAMPLES = [
    {"task": "t", "document": "a", "metrics": {"acc": 1.0}},
    {"task": "t", "document": "b", "metrics": {"acc": 0.0}, "answer": "x"},
]


def fake(tmp_path: Path, *lines: Any, before: str = "") -> Path:
    """An interpreter that says ``lines``, after the shell's words ``before``."""
    script = tmp_path / "python"
    said = "".join(
        f"echo '{line if isinstance(line, str) else json.dumps(line)}'\n" for line in lines
    )
    script.write_text(f"#!/bin/sh\n{before}\n{said}")
    script.chmod(0o755)
    return script


def job(tmp_path: Path, **changes: Any) -> Job:
    place = Endpoint("http://127.0.0.1:9", {"Authorization": "Bearer s3cret"}, "m")
    fields: dict[str, Any] = {
        "endpoint": place, "groups": [(0, ["t"])], "folder": tmp_path / "out", "seed": 1,
        "limit": None, "tokenizer": tmp_path,
    }  # fmt: skip
    return Job(**{**fields, **changes})


def leave(tmp_path: Path, score: dict[str, Any] = SCORE, lines: str | None = None) -> str:
    """Shell words that put a group's result where the runner would."""
    (tmp_path / "group.json").write_text(
        json.dumps({"scores": [score], "harness": "0.4.13", "asked": 3, "seconds": 1.5})
    )
    text = "".join(json.dumps(each) + "\n" for each in SAMPLES) if lines is None else lines
    (tmp_path / "group.jsonl").write_text(text)
    out = tmp_path / "out"
    return "".join(f"cp {tmp_path}/group.{x} {out}/group-0.{x}\n" for x in ("json", "jsonl"))


def test_scores_and_samples_are_collected(tmp_path: Path, home: Path) -> None:
    told: list[str] = []
    python = fake(
        tmp_path, "noise of a library", "[1]", {"group": 0, "tasks": ["t"], "state": "running"},
        {"refused": "u", "why": "no probabilities"}, {"end": "done"}, before=leave(tmp_path),
    )  # fmt: skip
    result = harness.run(job(tmp_path), python, tell=told.append)
    (score,) = result.scores
    assert (score.value, score.n) == (0.5, 2)
    assert score.low == pytest.approx(0.0945, abs=1e-3)  # Wilson's, since all are 0 or 1
    assert [each.answer for each in result.samples] == ["", "x"]
    assert (result.asked, result.seconds) == (3, 1.5)
    assert result.refused == {"u": "no probabilities"}
    assert told == ["t: running", "u is left out: no probabilities"]
    for file in (tmp_path / "out").iterdir():
        assert "s3cret" not in file.read_text()


@pytest.mark.parametrize(
    ("lines", "code", "words"),
    [
        ([{"end": "unknown", "tasks": ["mmul"]}], 2, "no task mmul"),
        ([{"refused": "u", "why": "no logprobs"}, {"end": "nothing"}], 2, "u: no logprobs"),
        ([{"end": "failed", "why": "ConnectionRefusedError: x"}], 10, "ConnectionRefusedError"),
        ([{"end": "failed", "why": "DatasetNotFoundError: x"}], 10, "data of a task"),
        ([{"end": "failed", "why": "ClientResponseError: 401, message=x"}], 4, "refused"),
        ([{"end": "failed", "why": "ClientResponseError: 400, message=x"}], 2, "a long prompt"),
        ([], 10, "without a word"),
    ],
)
def test_each_end_has_its_code(
    tmp_path: Path, home: Path, lines: list[Any], code: int, words: str
) -> None:
    log = "echo 'Status code: 400, Response text: {a long prompt}. Retrying...' >&2"
    with pytest.raises(LlamaHubError) as raised:
        harness.run(job(tmp_path), fake(tmp_path, *lines, before=log), tell=lambda text: None)
    assert raised.value.exit_code == code
    assert words in raised.value.message


def test_another_run_s_folder_is_refused(tmp_path: Path, home: Path) -> None:
    python = fake(tmp_path, {"end": "done"}, before=leave(tmp_path))
    harness.run(job(tmp_path), python, tell=lambda text: None)
    moved = Endpoint("http://127.0.0.1:10", {}, "m", {"manifest": "sha256:1"})
    with pytest.raises(LlamaHubError, match="another run"):
        harness.run(job(tmp_path, endpoint=moved), python, tell=lambda text: None)
    with pytest.raises(LlamaHubError, match="another run") as raised:
        harness.run(job(tmp_path, seed=2), python, tell=lambda text: None)
    assert raised.value.exit_code == 2
    harness.run(job(tmp_path), python, tell=lambda text: None)


def test_a_broken_result_is_refused(tmp_path: Path, home: Path) -> None:
    for score in (SCORE | {"value": "high"}, {"task": "t"}):
        python = fake(tmp_path, {"end": "done"}, before=leave(tmp_path, score))
        with pytest.raises(LlamaHubError) as raised:
            harness.run(job(tmp_path), python, tell=lambda text: None)
        assert raised.value.exit_code == 5


def test_logprob_tasks_need_a_tokenizer_and_no_chat(tmp_path: Path, home: Path) -> None:
    assert job(tmp_path).document()["no_logprobs"] == ""
    assert "--tokenizer" in job(tmp_path, tokenizer=None).document()["no_logprobs"]
    asked = job(tmp_path, chat=True).document()
    assert "--chat" in asked["no_logprobs"]
    assert asked["arguments"]["base_url"].endswith("/v1/chat/completions")
    two = [job(tmp_path, seed=seed).document()["cache"] for seed in (1, 2)]
    assert two[0] != two[1]  # other answers
    assert job(tmp_path, folder=tmp_path / "b").document()["cache"] != two[0]  # another run asks


def test_an_interpreter_without_lm_eval_is_named(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.VARIABLE, str(fake(tmp_path, "0.3.0")))
    with pytest.raises(LlamaHubError, match=r"lm-eval 0\.3\.0; this needs 0\.4\.13") as raised:
        environment.find()
    assert raised.value.exit_code == 2
    good = fake(tmp_path, environment.VERSION)
    assert environment.find() == good
    monkeypatch.delenv(environment.VARIABLE)
    monkeypatch.setattr(environment, "version_of", lambda python: None)
    with pytest.raises(LlamaHubError) as raised:
        environment.find()
    assert "eval setup" in raised.value.hint


def test_no_secret_of_the_shell_reaches_lm_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:1")
    given = environment.variables()
    assert "AWS_SECRET_ACCESS_KEY" not in given
    assert given["HTTPS_PROXY"] == "http://proxy:1"
    assert given["PATH"] == os.environ["PATH"]
