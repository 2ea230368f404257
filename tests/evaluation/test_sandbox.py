"""Programs of a model: nothing of this machine is there for them, and their outcome is theirs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from llama_hub.errors import LlamaHubError
from llama_hub.evaluation import code_tasks, sandbox
from llama_hub.evaluation.record import Sample
from tests.support.command import run


def _works() -> bool:
    try:
        sandbox.require()
    except LlamaHubError:
        return False
    return True


needs_bubblewrap = pytest.mark.skipif(not _works(), reason="bubblewrap makes no sandbox here")


@needs_bubblewrap
@pytest.mark.parametrize(
    ("program", "passed", "why"),
    [
        ("x = 1", True, ""),
        ("assert 1 == 2", False, "AssertionError"),
        ("import os; os._exit(0)", False, ""),
        ("import sys; sys.exit(0)", False, ""),
        ("import socket; socket.create_connection(('1.1.1.1', 53), 2)", False, "nreachable"),
        ("open('HOME_OF_TEST').read()", False, "No such file"),
        ("open('/usr/x', 'w')", False, "Read-only"),
        ("open('/x', 'w')", False, "Read-only"),
        ("x = 'a' * (3 << 30)", False, "MemoryError"),
        ("open('/tmp/x', 'w').write('a' * (2 << 20))", False, ""),
        ("import os; assert not set(os.environ) - {'PWD', 'LC_CTYPE'}", True, ""),
        ("import os; assert len([p for p in os.listdir('/proc') if p.isdigit()]) < 4", True, ""),
    ],
)
def test_a_program_has_its_walls(tmp_path: Path, program: str, passed: bool, why: str) -> None:
    (tmp_path / "secret").write_text("s3cret")
    outcome = sandbox.run(
        sandbox.require(), program.replace("HOME_OF_TEST", str(tmp_path / "secret"))
    )
    assert outcome.passed is passed, outcome.why
    assert why in outcome.why


@needs_bubblewrap
def test_pass_at_1_is_the_share_of_programs_that_pass() -> None:
    problem = {
        "prompt": "def f(x):\n",
        "test": "def check(f):\n    assert f(2) == 3",
        "entry_point": "f",
    }
    said = {("humaneval", "a"): "    return x + 1", ("humaneval", "b"): "    return x"}
    samples = [Sample(*key, {"bypass": 999.0}, "digest") for key in said]
    programs = {key: (problem, text) for key, text in said.items()}
    made, (score,) = code_tasks.scored(samples, programs, sandbox.require())
    assert [each.metrics for each in made] == [{"pass@1": 1.0}, {"pass@1": 0.0}]
    assert (score.task, score.value, score.n) == ("humaneval", 0.5, 2)


def test_mbpp_runs_its_list_of_tests() -> None:
    document = {
        "test_setup_code": "import math",
        "test_list": ["assert f(1) == 1", "assert f(2) == 2"],
    }
    text = code_tasks.program("mbpp", document, "def f(x):\n    return x")
    assert text.splitlines()[0] == "import math"
    exec(compile(text, "program", "exec"), {})


def test_without_a_sandbox_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("eval", "llama-demo-chat", "--suite", "code", "--json")
    assert done.code == 2
    assert "--allow-code" in done.json["error"]["hint"]
    monkeypatch.setattr(shutil, "which", lambda name: None)
    done = run("eval", "llama-demo-chat", "--suite", "code", "--allow-code", "--json")
    assert done.code == 2
    assert "no sandbox" in done.json["error"]["message"]
