"""A deployment stays where it was made: every command looks there, and nowhere else by mistake.

Two files of the simulated backend are two accounts. What is not asked is never told as "nothing".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llama_hub.backends.memory import backend as memory
from llama_hub.errors import AccessError
from tests.support.command import Outcome, run
from tests.support.deployments import echo, make_folder

COMMANDS = (
    ["status", "x"],
    ["logs", "x"],
    ["attest", "x"],
    ["invoke", "x", "hello"],
    ["rollback", "x", "--plan"],
    ["delete", "x", "--plan"],
)


@pytest.fixture(autouse=True)
def model(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model in the store, no cloud of the person who runs the tests."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(home / "none"))
    monkeypatch.setattr(memory, "_core", lambda: echo)
    return make_folder(home / "models" / "llama-demo" / "hf")


@pytest.fixture
def other(home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """``x`` runs in the first account; from now on the settings name another one."""
    assert deploy().code == 0
    monkeypatch.setenv("LLAMA_HUB_MEMORY_FILE", str(home / "other.json"))
    return str(home / "other.json")


def deploy(*words: str) -> Outcome:
    asked = ["deploy", "memory", "llama-demo", "--name", "x", "--context", "256", "--yes"]
    return run(*asked, *words, "--json")


def begins(home: Path) -> list[Any]:
    lines = (home / "deployments" / "memory" / "x" / "journal.jsonl").read_text().splitlines()
    return [one for one in map(json.loads, lines) if one["event"] == "begin"]


def test_the_place_is_resolved_and_written_down(home: Path) -> None:
    assert deploy().code == 0
    place = {"file": str(home / "deployments" / "memory.json")}
    assert begins(home)[-1]["location"] == place


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_look_where_it_was_deployed(other: str, words: list[str]) -> None:
    outcome = run(*words, "--json")
    assert outcome.code in (0, 6, 9), outcome.stdout
    assert "there is no deployment" not in outcome.stdout


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_another_place_is_refused(other: str, words: list[str]) -> None:
    outcome = run(*words, "--at", f"file={other}", "--json")
    error = outcome.json["error"]
    assert outcome.code == 2
    assert "was deployed to file " in error["message"]
    assert "llama-hub status x" in error["hint"]


def test_delete_never_says_gone_of_what_is_elsewhere(other: str, home: Path) -> None:
    assert run("delete", "x", "--at", f"file={other}", "--yes", "--json").code == 2
    assert run("status", "x", "--json").json["status"] == "ready"
    assert run("delete", "x", "--yes", "--json").code == 0
    left = json.loads((home / "deployments" / "memory.json").read_text())
    assert "endpoint/x" not in json.dumps(left)


def test_a_second_deployment_of_the_name_elsewhere_is_refused(other: str) -> None:
    outcome = deploy()
    assert outcome.code == 2
    assert "was deployed to" in outcome.json["error"]["message"]
    assert run("delete", "x", "--yes", "--json").code == 0
    assert deploy().code == 0  # the name is free again


def test_ps_and_gc_look_in_both(other: str) -> None:
    found = run("ps", "--backend", "memory", "--json")
    assert (found.code, [one["name"] for one in found.json["deployments"]]) == (0, ["x"])
    assert run("ps", "--at", f"file={other}", "--json").json["deployments"] == []
    assert run("gc", "--backend", "memory", "--json").json["leftovers"] == []


def test_gc_leaves_cut_off_runs_of_another_place_alone(
    other: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = home / "deployments" / "memory" / "x" / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]))  # as if the run had been cut off at its end
    only_there = run("gc", "--at", f"file={other}", "--json")
    assert (only_there.code, only_there.json["leftovers"]) == (0, [])


@pytest.mark.parametrize("command", ["ps", "gc"])
def test_what_could_not_be_asked_is_named_and_no_success(
    other: str, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def refuse(self: Any) -> Any:
        raise AccessError("the token has expired", hint="log in")

    monkeypatch.setattr(memory.MemoryBackend, "list", refuse)
    outcome = run(command, "--backend", "memory", "--json")
    assert outcome.code == 4
    (error,) = outcome.json["errors"]
    assert (error["deployments"], error["message"]) == (["x"], "the token has expired")
    shown = run(command, "--backend", "memory")
    assert "in what could be asked" in shown.stdout
    assert "perhaps billing: x" in shown.stderr


def test_status_of_what_no_journal_knows_is_not_absent_where_nobody_could_be_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(self: Any, name: str) -> Any:
        raise AccessError("the token has expired", hint="log in")

    monkeypatch.setattr(memory.MemoryBackend, "status", refuse)
    outcome = run("status", "y", "--json")
    assert outcome.code == 4
    assert "whether there is 'y' is unknown" in outcome.json["error"]["message"]


@pytest.mark.parametrize("words", [["--at", "file"], ["--at", "=x"], ["--at", "file="]])
def test_a_place_that_is_none_is_a_usage_error(words: list[str]) -> None:
    outcome = run("status", "x", *words, "--json")
    assert (outcome.code, "--at account=" in outcome.json["error"]["hint"]) == (2, True)
