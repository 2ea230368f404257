"""Added tokens found in a text as the ``tokenizers`` library does: leftmost, then longest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from llama_hub.hub.tokenizer.vocabulary import AddedToken

Span = tuple[int, int]  # from, to: characters of a text


@dataclass(frozen=True)
class Run:
    """A part of a text: an added token, or what stands between two of them."""

    start: int
    text: str
    token: int | None = None


class SpecialTokens:
    """The added tokens of a model, ready to be looked for."""

    def __init__(self, added: Mapping[int, AddedToken]) -> None:
        exact = {t: known for t, known in added.items() if known.text and not known.normalized}
        others = {t: known for t, known in added.items() if known.text and known.normalized}
        self._passes = [_Table(each) for each in (exact, others) if each]

    def runs(self, text: str, literal: Sequence[Span] = ()) -> list[Run]:
        """The parts of ``text`` in order; what touches a ``literal`` span is no token."""
        runs = [Run(0, text)] if text else []
        for table in self._passes:
            runs = [
                part
                for run in runs
                for part in (table.split(run, literal) if run.token is None else [run])
            ]
        return runs


class _Table:
    """Tokens by their first character and their lengths: one look-up for each length."""

    def __init__(self, tokens: Mapping[int, AddedToken]) -> None:
        self._ids = {known.text: token for token, known in tokens.items()}
        self._flags = dict(tokens)
        lengths: dict[str, set[int]] = {}
        for text in self._ids:
            lengths.setdefault(text[0], set()).add(len(text))
        self._lengths = {first: sorted(each, reverse=True) for first, each in lengths.items()}
        self._first = re.compile("[" + "".join(map(re.escape, lengths)) + "]")

    def split(self, run: Run, literal: Sequence[Span]) -> Iterator[Run]:
        """``run`` cut at the tokens in it."""
        text, done = run.text, 0
        for start, end, token in self._found(run, literal):
            known = self._flags[token]
            while known.lstrip and start > done and text[start - 1].isspace():
                start -= 1
            while known.rstrip and end < len(text) and text[end].isspace():
                end += 1
            if start > done:
                yield Run(run.start + done, text[done:start])
            yield Run(run.start + start, text[start:end], token)
            done = end
        if done < len(text):
            yield Run(run.start + done, text[done:])

    def _found(self, run: Run, literal: Sequence[Span]) -> Iterator[tuple[int, int, int]]:
        text, at = run.text, 0
        while match := self._first.search(text, at):
            start = at = match.start()
            for length in self._lengths[text[start]]:
                token = self._ids.get(text[start : start + length])
                if token is not None:
                    break
            end = start + length
            if token is None or _touches(run.start + start, run.start + end, literal):
                at = start + 1
                continue
            at = end
            if not self._flags[token].single_word or _is_word(text, start, end):
                yield start, end, token


def _touches(start: int, end: int, spans: Sequence[Span]) -> bool:
    return any(start < to and end > begin for begin, to in spans)


def _is_word(text: str, start: int, end: int) -> bool:
    """Whether no word character stands beside the place."""
    before, behind = text[max(0, start - 1) : start], text[end : end + 1]
    return not any(each.isalnum() or each == "_" for each in (before, behind) if each)
