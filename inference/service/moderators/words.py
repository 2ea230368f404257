"""Word lists as moderators: no model, no network, a decision in microseconds.

What it finds is the words that were listed, however they are cased, spaced or composed; it
understands nothing. Use it for what must never be said literally, beside a model that judges.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from llama_hub.inference.service.moderation import Passage, Verdict
from llama_hub.strict import read_text, text_kind

MAX_TERMS = 10_000
MAX_TERM = 200  # characters
OVERLAP = 4096  # characters before the new part of an answer that are looked at again
KIND = text_kind("the word list", max_bytes=MAX_TERMS * (MAX_TERM + 2), hint="one term a line")
_WORD = re.compile(r"\w+")
_INVISIBLE = "Cf"  # Unicode's category of joiners, soft hyphens and the like


def read_terms(path: Path) -> tuple[str, ...]:
    """The terms of a file: one a line, ``#`` begins a remark; ``InvalidFileError`` if too many."""
    lines = (line.partition("#")[0].strip() for line in read_text(path, KIND).splitlines())
    terms = tuple(line for line in lines if line)
    problem = problem_of(terms)
    if problem:
        raise KIND.invalid(path, problem)
    return terms


def problem_of(terms: tuple[str, ...]) -> str:
    """What is wrong with a list of terms; empty if nothing is."""
    if not terms:
        return "holds no term"
    if len(terms) > MAX_TERMS:
        return f"holds {len(terms)} terms; at most {MAX_TERMS}"
    for term in terms:
        if len(term) > MAX_TERM:
            return f"the term {term[:40]!r}… has more than {MAX_TERM} characters"
        if not words_of(term):
            return f"the term {term!r} holds no word"
    return ""


def words_of(text: str) -> list[str]:
    """The words of ``text`` as they are compared: one case, one composition, nothing invisible."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    visible = "".join(c for c in plain if unicodedata.category(c) != _INVISIBLE)
    return _WORD.findall(visible)


@dataclass(frozen=True)
class WordList:
    """Refuses a text that holds one of its terms as whole words."""

    phrases: dict[str, tuple[tuple[str, ...], ...]]  # by their first word
    name: str = "words"

    def __call__(self, passage: Passage) -> Verdict:
        """The refusal; it names no term, so that nobody learns the list from it."""
        words = words_of(_unjudged(passage))
        for position, word in enumerate(words):
            for phrase in self.phrases.get(word, ()):
                if tuple(words[position : position + len(phrase)]) == phrase:
                    return "it holds a term that is not allowed here"
        return None


def word_list(terms: Iterable[str]) -> WordList:
    """A moderator for ``terms``."""
    phrases: dict[str, tuple[tuple[str, ...], ...]] = {}
    for term in terms:
        words = tuple(words_of(term))
        phrases[words[0]] = (*phrases.get(words[0], ()), words)
    return WordList(phrases)


def _unjudged(passage: Passage) -> str:
    """What has not been judged yet, with enough before it, from the beginning of a word."""
    begin = passage.judged - OVERLAP
    if begin <= 0:
        return passage.text
    while begin < passage.judged and passage.text[begin - 1].isalnum():
        begin += 1
    return passage.text[begin:]
