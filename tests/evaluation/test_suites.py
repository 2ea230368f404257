"""Suites: ours, and files of users, which are hostile until they are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_hub.errors import LlamaHubError
from llama_hub.evaluation import demo_task, published, suites


def test_the_paper_s_suite_has_the_paper_s_shots() -> None:
    paper = suites.load("paper")
    shots = {entry.task: entry.fewshot for entry in paper.entries}
    assert (shots["mmlu"], shots["boolq"], shots["commonsense_qa"], shots["gsm8k"]) == (5, 0, 7, 8)
    assert shots["bbh"] is None  # its own three
    assert dict(paper.groups())[5] == ["mmlu", "nq_open", "triviaqa"]
    known = {*published.TASKS, "humaneval", "mbpp"}
    assert {entry.task for entry in paper.entries} | set(paper.code) <= known


def test_a_file_names_tasks(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("limit: 50\ntasks:\n- {task: mmlu, fewshot: 5}\n- {task: piqa}\n")
    suite = suites.load(str(file))
    assert (suite.name, suite.limit) == ("mine", 50)
    assert suite.groups() == [(5, ["mmlu"]), (None, ["piqa"])]


def test_tasks_of_code_are_ours_in_a_file_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("tasks: [{task: humaneval}, {task: piqa}]")
    suite = suites.load(str(file))
    assert (suite.code, [entry.task for entry in suite.entries]) == (("humaneval",), ["piqa"])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "an object"), ("[]", "an object"), ("tasks: []", "at least 1"),
        ("name: x", "holds no task"),
        ("tasks: [{task: mmlu}, {task: mmlu, fewshot: 3}]", "twice"),
        ("tasks: [{task: ../x}]", "name of a task"),
        ("tasks: [{task: mmlu, fewshot: -1}]", "fewshot"),
        ("tasks: [{task: mmlu, shots: 5}]", "shots: unknown key"),
        ("tasks: [{task: mmlu}]\nlimit: 0", "limit"),
        ("tasks: [{task: mmlu}]\ninclude: mine", "--trust-tasks"),
        ("tasks: &a [*a]", "alias"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_exit_2(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(LlamaHubError) as raised:
        suites.load(str(file))
    assert raised.value.exit_code == 2
    assert problem in raised.value.message + raised.value.hint


def test_a_mistyped_suite_is_suggested() -> None:
    with pytest.raises(LlamaHubError, match="did you mean 'paper'"):
        suites.load("papre")


def test_the_demo_s_documents_are_always_the_same() -> None:
    first, again = demo_task.documents(), demo_task.documents()
    assert first == again
    assert len(first) == 38
    for each in first:
        assert len(set(each["choices"])) == demo_task.CHOICES
        assert each["choices"][each["answer"]].strip() == each["right"]
