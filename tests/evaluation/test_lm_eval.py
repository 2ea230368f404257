"""A real lm-eval: the demo's score is exact, through the service and through transformers.

Optional: name an interpreter that has ``lm_eval[api]`` in LM_EVAL_PYTHON.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llama_hub.evaluation import demo_task, environment, record
from tests.support.command import run
from tests.support.demo_model import demo_folder
from tests.support.lazy import transformers

PYTHON = Path(os.environ.get("LM_EVAL_PYTHON", "/nowhere"))
pytestmark = pytest.mark.skipif(not PYTHON.is_file(), reason="LM_EVAL_PYTHON names no interpreter")


def through_transformers(folder: Path) -> dict[tuple[str, str], dict[str, float]]:
    """The right choices and answers of each document, computed without llama-hub or lm-eval."""
    import torch

    torch.set_num_threads(1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def likelihood(prompt: str, choice: str) -> float:
        begin = len(tokenizer.encode(prompt, add_special_tokens=False))
        whole = tokenizer.encode(prompt + choice, add_special_tokens=False)
        with torch.no_grad():
            scores = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        return sum(float(scores[k - 1, whole[k]]) for k in range(begin, len(whole)))

    right = {"acc": 0, "acc_norm": 0}
    listed = demo_task.documents()
    for each in listed:
        scored = [likelihood(each["prompt"], choice) for choice in each["choices"]]
        normed = [s / len(c) for s, c in zip(scored, each["choices"], strict=True)]
        right["acc"] += scored.index(max(scored)) == each["answer"]
        right["acc_norm"] += normed.index(max(normed)) == each["answer"]
    return {("demo_choices", ""): {k: v / len(listed) for k, v in right.items()}}


@pytest.mark.timeout(600)
def test_the_demo_s_score_is_exact(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.VARIABLE, str(PYTHON))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = demo_folder(home).path
    for name in ("a", "b"):
        done = run(
            "eval", "llama-demo-chat", "--suite", "demo", "--serve-option", "dtype=float32",
            "--out", str(tmp_path / name), "--json", "--quiet",
        )  # fmt: skip
        assert done.code == 0, done.stderr
    first, again = (record.read(tmp_path / name) for name in ("a", "b"))
    assert first.digest == again.digest
    expected = through_transformers(folder)["demo_choices", ""]
    for metric, value in expected.items():
        score = first.score("demo_choices", metric)
        assert score is not None
        assert score.value == pytest.approx(value, abs=1e-12)
    same = run("eval", "compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json").json
    answers = [row["cells"][1]["same_answers"] for row in same["rows"]]
    assert [38, 38] in answers


def test_a_task_that_nobody_knows_is_exit_2(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.VARIABLE, str(PYTHON))
    demo_folder(home)
    (tmp_path / "s.yaml").write_text("tasks: [{task: mmlu_of_nobody}]")
    done = run("eval", "llama-demo-chat", "--suite", str(tmp_path / "s.yaml"), "--json")
    assert done.code == 2
    assert "mmlu_of_nobody" in done.json["error"]["message"]
