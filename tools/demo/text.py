"""The training text: endless, seeded, written by this project's own grammar."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from tools.demo import dialogues, slots, stories
from tools.demo.spin import sentence, spin
from tools.demo.topics import read_topics

STATEMENTS = (
    ("animal", "A/an {animal} is {what}. It lives {home} and eats {food}."),
    ("animal", "A/an {animal} can {skill}. It has {legs} legs."),
    ("animal", "(Most {animals}|{animals}) (live {home}|eat {food})."),
    ("sound", 'A/an {animal} says "{sound}".'),
    ("colour", "{noun} is {colour}."),
    ("mix", "{first} and {second} make {result}."),
    ("count", "{counted}."),
    ("add", "{first} plus {second} is {sum}."),
    ("order", "{after} (comes after|is the {kind} after) {before}."),
    ("order", "{before} (comes before|is the {kind} before) {after}."),
    ("capital", "{capital} is the capital of {country}."),
    ("capital", "The capital of {country} is {capital}."),
    ("opposite", "The opposite of {first} is {second}."),
)
"""Plain true sentences: the section of slots.py that fills them, and the template."""


def documents(seed: int) -> Iterator[str]:
    """Texts for the base model: mostly stories, some statements, some sentences on llama-hub."""
    rng = Random(f"base {seed}")
    while True:
        draw = rng.random()
        if draw < 0.55:
            yield stories.story(rng)
        elif draw < 0.82:
            yield statements(rng)
        else:
            yield explanation(rng)


def statements(rng: Random) -> str:
    """A paragraph of four statements."""
    drawn = [rng.choice(STATEMENTS) for _ in range(4)]
    return " ".join(
        sentence(spin(rng, template, **slots.SLOTS[section](rng))) for section, template in drawn
    )


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
