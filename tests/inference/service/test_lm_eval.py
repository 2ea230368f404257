"""lm_eval as a judge: a task scores the same through our service and through transformers.

Optional: name an interpreter that has ``lm_eval[api,hf]`` in LM_EVAL_PYTHON.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from llama_hub.hub.catalog import load
from llama_hub.inference.config import EngineOptions
from llama_hub.inference.service import served_model
from llama_hub.inference.service.settings import ServiceSettings
from llama_hub.inference.tokenizer import Tokenizer
from llama_hub.inference.torch_engine import TorchEngine
from tests.support.demo_model import demo_folder
from tests.support.serving import serving

PYTHON = Path(os.environ.get("LM_EVAL_PYTHON", "/nowhere"))
TOKENS = 255  # of a window; the service keeps one token of its context for the answer

CHOICES = """
task: demo_choices
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/choices.json}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
TEXTS = """
task: demo_texts
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/texts.json}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
"""
PLACES = ("in the garden", "on the hill", "by the river", "behind the old house")
ANIMALS = ("cat", "dog", "horse", "bird", "fox", "hen")

pytestmark = pytest.mark.skipif(not PYTHON.is_file(), reason="LM_EVAL_PYTHON names no interpreter")


def write_tasks(folder: Path) -> None:
    questions = [
        {"question": f"The {animal} is", "choices": list(PLACES), "answer": number % len(PLACES)}
        for number, animal in enumerate(ANIMALS * 4)
    ]
    # Within a window: lm_eval cuts longer texts differently for its two backends.
    texts = [{"text": " ".join(f"The {a} sleeps {p}." for p in PLACES)} for a in ANIMALS]
    folder.mkdir()
    for name, rows in (("choices", questions), ("texts", texts)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.json").write_text(lines)
    for name, task in (("choices", CHOICES), ("texts", TEXTS)):
        (folder / f"{name}.yaml").write_text(task.replace("FOLDER", str(folder)))


def scores(tasks: Path, model: str, arguments: dict[str, object], *more: str) -> dict[str, float]:
    """Every number of the tasks' results."""
    out = tasks.parent / f"out-{model}"
    command: Sequence[str] = [
        str(PYTHON), "-m", "lm_eval", "--model", model,
        "--model_args", ",".join(f"{key}={value}" for key, value in arguments.items()),
        "--tasks", "demo_choices,demo_texts", "--include_path", str(tasks),
        "--output_path", str(out), "--batch_size", "1", *more,
    ]  # fmt: skip
    environment = {**os.environ, "OPENAI_API_KEY": "none", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (found,) = out.rglob("results_*.json")
    results = json.loads(found.read_text())["results"]
    return {
        f"{task}/{name}": value
        for task, each in results.items()
        for name, value in each.items()
        if isinstance(value, float) and "stderr" not in name
    }


@pytest.mark.timeout(1300)
def test_lm_eval_scores_the_same_here_and_in_transformers(tmp_path: Path) -> None:
    folder = demo_folder(tmp_path / "home").path
    tasks = tmp_path / "tasks"
    write_tasks(tasks)
    options = EngineOptions(device="cpu", dtype="float32", context=TOKENS + 1, threads=1)
    what = served_model.mounted(folder, load())
    with serving(
        TorchEngine(folder, options),
        ServiceSettings(),
        served=what.served,
        tokenizer=Tokenizer(folder / "tokenizer.model"),
    ) as running:
        ours = scores(
            tasks, "local-completions",
            {"model": "demo", "base_url": f"{running.url}/v1/completions", "tokenizer": folder,
             "max_length": TOKENS, "tokenized_requests": True, "num_concurrent": 4},
        )  # fmt: skip
    theirs = scores(
        tasks, "hf",
        {"pretrained": folder, "dtype": "float32", "max_length": TOKENS, "add_bos_token": False},
        "--device", "cpu",
    )  # fmt: skip
    assert len(ours) >= 4
    assert ours == pytest.approx(theirs, rel=1e-4)
