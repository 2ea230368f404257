"""The training text: endless, seeded, written by this project's own grammar."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from tools.demo import dialogues, stories
from tools.demo.spin import spin
from tools.demo.topics import read_topics


def documents(seed: int) -> Iterator[str]:
    """Texts for the base model: mostly stories, some statements, some sentences on llama-hub."""
    rng = Random(f"base {seed}")
    while True:
        draw = rng.random()
        if draw < 0.55:
            yield stories.story(rng)
        elif draw < 0.82:
            yield stories.statements(rng)
        else:
            yield explanation(rng)


def explanation(rng: Random) -> str:
    """Two answers that the chat variant gives as well, as plain text."""
    known = read_topics()
    chosen = rng.sample((*known["product"], *known["facts"]), 2)
    return " ".join(spin(rng, rng.choice(topic.answers)) for topic in chosen)


def conversations(seed: int) -> Iterator[tuple[str, Iterator[dialogues.Turn]]]:
    """For the chat model: (system prompt or "", endless turns) again and again."""
    rng = Random(f"chat {seed}")
    while True:
        yield dialogues.conversation(rng)
