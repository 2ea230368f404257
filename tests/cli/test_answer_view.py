"""Answers on a terminal: blocks of Markdown, whole words, nothing that acts on it."""

from __future__ import annotations

import io
import random

import pytest
from rich.console import Console

from llama_hub.cli.answer_view import AnswerView, split_blocks
from llama_hub.cli.printable import console

CODE = "```python\na = 1\n\n\nb = 2\n```\n"


@pytest.mark.parametrize(
    ("text", "blocks", "rest"),
    [
        ("", [], ""),
        ("one", [], "one"),
        ("one\n\ntwo", ["one\n\n"], "two"),
        ("one\n \n\ntwo\n", ["one\n \n"], "two\n"),
        (CODE, [], CODE),
        (f"{CODE}\nend", [f"{CODE}\n"], "end"),
        ("~~~\n```\n\n~~~\n\nx", ["~~~\n```\n\n~~~\n\n"], "x"),
        ("````\n```\n\n````\n\nx", ["````\n```\n\n````\n\n"], "x"),
    ],
)
def test_blocks_end_at_empty_lines_outside_of_code(text: str, blocks: list[str], rest: str) -> None:
    found, left = split_blocks(text)
    assert ([one.lstrip("\n") for one in found], left.lstrip("\n")) == (blocks, rest.lstrip("\n"))


def drawn(text: str, *, seed: int = 0, width: int = 30) -> str:
    """What stays on a terminal after ``text`` came in pieces of random sizes."""
    shown = io.StringIO()
    made: Console = console(shown, None)
    made.width, made.height = width, 10
    draw, at = random.Random(seed), 0
    with AnswerView(made) as view:
        while at < len(text):
            size = draw.randint(1, 9)
            view.show(text[at : at + size])
            at += size
    return shown.getvalue()


@pytest.mark.parametrize("seed", range(5))
def test_the_pieces_do_not_matter(seed: int) -> None:
    text = f"# Title\n\nSome *words* that are longer than a line.\n\n{CODE}\n1. one\n2. two\n\nend"
    assert drawn(text, seed=seed) == drawn(text)
    lines = [line.strip() for line in drawn(text).splitlines()]
    assert "Some words that are longer" in lines
    assert "than a line." in lines
    assert "a = 1" in lines
    assert lines[-1] == "end"


def test_nothing_in_an_answer_acts_on_the_terminal() -> None:
    shown = drawn(
        "[click](https://evil.example) \x1b]0;title\x07 \x1b[2J\n\n`\x9b31m`\n\n![x](y)\n"
    )
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "\x9b" not in shown
    assert "evil.example" in shown  # the address is told, as text
