"""Sentences with alternatives: "(One day|Once) {name} saw a/an {colour} kite." becomes one of them."""

from __future__ import annotations

import re
from random import Random

INNERMOST = re.compile(r"\(([^()]*)\)")
ARTICLE = re.compile(r"\b([Aa])/an (\w)")


def spin(rng: Random, template: str, **slots: str) -> str:
    """Choose one alternative in every bracket, fill the {slots}, set a or an, tidy the spaces."""
    while "(" in template:
        template = INNERMOST.sub(lambda found: rng.choice(found[1].split("|")), template)
    text = template.format(**slots)
    text = ARTICLE.sub(_article, text)
    return re.sub(r"  +", " ", text).strip()


def sentence(text: str) -> str:
    """The text with its first letter as a capital."""
    return text[:1].upper() + text[1:]


def _article(found: re.Match[str]) -> str:
    vowel = "n" if found[2].lower() in "aeiou" else ""
    return f"{found[1]}{vowel} {found[2]}"


def invented(rng: Random) -> str:
    """A word that does not exist, of two or three syllables."""
    syllables = (
        rng.choice("b c d f g h k l m n p r s t v z br cr dr fl gr pl st tr".split())
        + rng.choice("a e i o u ai ee ou".split())
        for _ in range(rng.randrange(2, 4))
    )
    return "".join(syllables) + rng.choice(("", "n", "r", "s", "l", "t"))
