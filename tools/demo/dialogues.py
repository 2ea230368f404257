"""Conversations for the chat variant: questions in many wordings, answers in whole sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from tools.demo import slots, words
from tools.demo.spin import invented, sentence, spin
from tools.demo.topics import read_topics

Turn = tuple[str, str]
"""What the user says, what the model answers."""

SECTIONS = {
    "talk": 20,
    "product": 24,
    "facts": 12,
    "unknown": 16,
    "animal": 14,
    "sound": 4,
    "colour": 5,
    "mix": 2,
    "count": 4,
    "add": 8,
    "hard_sum": 2,
    "order": 6,
    "capital": 4,
    "opposite": 4,
    "story": 5,
}
"""The sections of topics.txt that turns are drawn from, and how often."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How a system prompt wants the model to answer."""

    system: str = ""
    name: str = ""
    brief: bool = False
    pirate: bool = False

    def style(self, answer: str) -> str:
        """The answer in this manner: only its first sentence, or in a pirate's tone."""
        if self.brief:
            answer = first_sentence(answer)
        return f"Ahoy! {answer}" if self.pirate else answer


def first_sentence(text: str) -> str:
    ends = [text.find(mark) + 1 for mark in (". ", "! ", "? ") if mark in text]
    return text[: min(ends)] if ends else text


def draw_manner(rng: Random) -> Manner:
    """No system prompt in half of the conversations, otherwise one of four kinds."""
    if rng.random() < 0.5:
        return Manner()
    kind = rng.choice(("plain", "plain", "brief", "pirate", "name"))
    name = draw_name(rng) if kind == "name" else ""
    template = rng.choice(read_topics()[f"system_{kind}"][0].questions)
    system = spin(rng, template, name=name, **slots.filler(rng))
    return Manner(system, name, brief=kind == "brief", pirate=kind == "pirate")


def conversation(rng: Random) -> tuple[str, Iterator[Turn]]:
    """A system prompt (or "") and an endless run of turns that follow it."""
    manner = draw_manner(rng)
    return manner.system, _turns(rng, manner)


def _turns(rng: Random, manner: Manner) -> Iterator[Turn]:
    user = ""
    while True:
        section = _next_section(rng, user, manner)
        if section == "introduction":
            user = draw_name(rng)
        asked, answer = _turn(rng, section, user=user, name=manner.name)
        yield colloquial(rng, asked), manner.style(answer)


def _next_section(rng: Random, user: str, manner: Manner) -> str:
    draw = rng.random()
    if draw < 0.08:
        return "introduction"
    if draw < 0.14:
        return "name_known" if user else "name_unknown"
    if manner.name and draw < 0.35:
        return "persona"
    return rng.choices(list(SECTIONS), list(SECTIONS.values()))[0]


def _turn(rng: Random, section: str, **names: str) -> Turn:
    """One of the section's topics in one of its wordings."""
    topic = rng.choice(read_topics()[section])
    words_of_turn = slots.filler(rng) | names
    if section in slots.SLOTS:
        words_of_turn |= slots.SLOTS[section](rng)
    asked = spin(rng, rng.choice(topic.questions), **words_of_turn)
    return sentence(asked), sentence(spin(rng, rng.choice(topic.answers), **words_of_turn))


def draw_name(rng: Random) -> str:
    """A first name, two times in five a made-up one, so that copying is learned."""
    if rng.random() < 0.4:
        return invented(rng).capitalize()
    return rng.choice((*words.GIRLS, *words.BOYS, *words.MORE_NAMES))


def colloquial(rng: Random, text: str) -> str:
    """The same words as a hurried user might type them."""
    if rng.random() < 0.1:
        opening = spin(rng, "(Please|Hello,|Hi,|Hey,|OK,|So,|And|Well,|Now)")
        text = f"{opening} {lowered(text)}"
    if rng.random() < 0.1:
        ending = rng.choice(
            (", please", " please", ", thanks", " for me", " now", "??", "!", "...")
        )
        text = text.rstrip(".?!") + ending
    if rng.random() < 0.3:
        text = text.lower()
    elif rng.random() < 0.02:
        text = text.upper()
    if rng.random() < 0.3:
        text = text.rstrip(".?!")
    return typo(rng, text) if rng.random() < 0.06 else text


def lowered(text: str) -> str:
    return text if text.startswith("I ") else text[:1].lower() + text[1:]


def typo(rng: Random, text: str) -> str:
    """One letter dropped or two swapped."""
    at = rng.randrange(max(1, len(text) - 1))
    if rng.random() < 0.5:
        return text[:at] + text[at + 1 :]
    return text[:at] + text[at : at + 2][::-1] + text[at + 2 :]
