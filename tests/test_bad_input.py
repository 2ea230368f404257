"""Files of every kind, mutated, through the command line: never exit 1, never long, never large.

A few cases of each kind always run; the whole of it, more than 20,000, is ``-m slow`` (about an
hour on two cores). ``python -m tests.support.fuzz.driver CASES [KIND …]`` runs others and prints
how to repeat what fell. Time is the processor's, memory what a case adds to its process.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.command import run
from tests.support.deployments import make_folder
from tests.support.fuzz.driver import endings, problem
from tests.support.fuzz.kinds import KINDS

FEW = 1
MANY = 680  # of each kind


def wrong(root: Path, kinds: list[str], numbers: range) -> list[str]:
    """What fell, with what repeats it."""
    return [
        f"{said}: tests.support.fuzz.worker FOLDER {one['kind']} {one['number']}: {one['error']}"
        for one in endings(root, kinds, numbers)
        if (said := problem(one))
    ]


def test_a_few_of_each_kind(tmp_path: Path) -> None:
    assert wrong(tmp_path, list(KINDS), range(FEW)) == []


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS)
def test_thousands(kind: str, tmp_path: Path) -> None:
    assert wrong(tmp_path, [kind], range(MANY)) == []


def test_there_are_enough_of_them() -> None:
    assert MANY * len(KINDS) >= 20_000


@pytest.mark.parametrize(
    "words",
    [
        ("models", "--catalog", "\0"),
        ("convert", "llama-demo", "out", "--to", "gguf", "--max-shard-size", "9" * 400),
        ("license", "export", "--output", "/"),
        ("license", "export", "--output", "\0"),
        ("deploy", "-f", "\0", "--plan"),
        ("models", "show", "\udcff"),
        ("license", "show", "\udcff" * 5000),
        ("verify", "\udcff"),
        ("deploy", "memory", "\udcff", "--plan"),
        ("chat", "http://[::1", "--once", "hi"),
        ("invoke", "../../x", "hi"),
        ("status", "a" * 5000),
        ("ps", "--backend", "\x1b[2J"),
        ("download", "llama-2-7b", "--source", "mirror", "--url", "\udcff"),
    ],
    ids=lambda words: ascii(words)[:60],
)
def test_arguments_of_any_content_are_wrong_usage(words: tuple[str, ...]) -> None:
    done = run(*words, "--json")
    assert done.code in (2, 6)
    assert done.json["error"]["message"]


@pytest.mark.parametrize("place", ["", "models", "licenses", "deployments", "config.toml"])
@pytest.mark.parametrize("thing", ["file", "pipe", "loop", "device"])
def test_a_home_of_any_shape_is_no_defect(
    place: str, thing: str, home: Path, tmp_path: Path
) -> None:
    at = home / place
    at.parent.mkdir(parents=True, exist_ok=True)
    if thing == "file":
        at.write_text("junk")
    elif thing == "pipe":
        os.mkfifo(at)
    else:
        at.symlink_to(at if thing == "loop" else "/dev/zero")
    served = make_folder(tmp_path / "served")
    for words in (
        ("list",),
        ("license", "verify"),
        ("ps",),
        ("deploy", "memory", str(served), "--plan", "--context", "64"),
        ("download", "llama-demo", "--source", "builtin", "--dry-run"),
    ):
        assert run(*words, "--json").code != 1, words
