"""Reads topics.txt: what can be asked and answered, section by section."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path


@dataclass(slots=True)
class Topic:
    """Templates for spin.py: questions that mean the same, and their answers."""

    questions: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)


@cache
def read_topics() -> dict[str, tuple[Topic, ...]]:
    """The topics of each [section] of topics.txt, with its <abbreviations> written out."""
    source = Path(__file__).with_name("topics.txt").read_text(encoding="utf-8")
    short = dict(re.findall(r"^<(\w+)> (.+)$", source, re.MULTILINE))
    full = re.sub(r"^\? <(\w+)>", lambda found: "? " + short[found[1]], source, flags=re.MULTILINE)
    sections = re.split(r"^\[(\w+)\]\n", full, flags=re.MULTILINE)[1:]
    return {
        name: tuple(parse_topic(block) for block in body.strip().split("\n\n"))
        for name, body in zip(sections[::2], sections[1::2], strict=True)
    }


def parse_topic(block: str) -> Topic:
    topic = Topic()
    for line in block.splitlines():
        kind, _, template = line.partition(" ")
        {"?": topic.questions, "=": topic.answers}[kind].append(template)
    return topic
