"""A seeded task for the demo model, which needs no network and whose score must be exact.

Questions of which the demo model was taught some: opposites, capitals, what animals say. The score
says nothing of any other model; that it is the same through the service, through transformers and
at the next run is what it is for.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

OPPOSITES = {
    "hot": "cold", "big": "small", "fast": "slow", "up": "down", "day": "night", "old": "new",
    "good": "bad", "happy": "sad", "open": "closed", "long": "short", "full": "empty",
    "hard": "soft", "wet": "dry", "loud": "quiet", "high": "low", "rich": "poor",
}  # fmt: skip
CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid",
    "Portugal": "Lisbon", "England": "London", "Ireland": "Dublin", "Austria": "Vienna",
    "Greece": "Athens", "Japan": "Tokyo", "Peru": "Lima", "Norway": "Oslo",
}  # fmt: skip
SOUNDS = {
    "cat": "meow", "cow": "moo", "dog": "woof", "duck": "quack", "horse": "neigh",
    "lion": "roar", "owl": "hoot", "pig": "oink", "sheep": "baa", "snake": "hiss",
}  # fmt: skip
CHOICES = 8
SEED = 20260101  # of the documents; a run's own seed does not change them


def documents() -> list[dict[str, Any]]:
    """The questions in a fixed order: a prompt, its choices, the right one's number."""
    rng = random.Random(SEED)
    made = []
    for table, prompt in (
        (OPPOSITES, "[INST] What is the opposite of {}? [/INST] The opposite of {} is"),
        (CAPITALS, "[INST] What is the capital of {}? [/INST] The capital of {} is"),
        (SOUNDS, '[INST] What sound does a {} make? [/INST] A {} says "'),
    ):
        for key, right in table.items():
            others = rng.sample(sorted(set(table.values()) - {right}), CHOICES - 1)
            choices = [right, *others]
            rng.shuffle(choices)
            question = prompt.replace("{}", key)
            lead = "" if question.endswith('"') else " "
            made.append(
                {
                    "prompt": question,
                    "choices": [lead + each for each in choices],
                    "answer": choices.index(right),
                    "right": right,
                }
            )
    return made


def tasks(folder: Path) -> list[dict[str, Any]]:
    """lm-eval's configurations of both tasks, with their documents written below ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "demo-facts.json"
    file.write_text("".join(json.dumps(each) + "\n" for each in documents()))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        "metadata": {"version": 1.0},
    }
    choices = {
        "task": "demo_choices",
        "output_type": "multiple_choice",
        "doc_to_text": "{{prompt}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    answers = {
        "task": "demo_answers",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{right}}",
        "generation_kwargs": {"until": [".", '"', "\n"], "max_gen_toks": 8, "temperature": 0},
        "filter_list": [
            {
                "name": "none",
                "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}],
            }
        ],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    return [common | choices, common | answers]
