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
