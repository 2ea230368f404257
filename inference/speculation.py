"""Prompt lookup: tokens guessed from earlier ones of the same sequence, to be checked in one step.

Summaries, edits and code repeat what the prompt says. Where the last tokens stood before, what
followed them is a guess; the model computes all guessed tokens in one step, which reads the
weights once, and the tokens that it would have chosen anyway are kept (Saxena, Prompt Lookup
Decoding, 2023). Each row is chosen from as in a step of its own, with the sequence's own random
number, so that an answer is the same with and without guesses, greedy or sampled.
"""

from __future__ import annotations

from collections.abc import Sequence

NGRAM = 3  # tokens that must have stood together before
FIRST = 3  # guesses to begin with: four rows cost our kernels about one and a half
LONGEST_PAUSE = 64  # tokens without a guess after guesses that were wrong


class PromptLookup:
    """The guesses for one sequence; right ones make them longer, wrong ones rarer."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}  # where the latest such tokens ended
        self._indexed = NGRAM  # ends that are in it, or were too early
        self._count = FIRST
        self._misses = 0
        self._silent_until = 0  # tokens of the sequence

    def propose(self, tokens: Sequence[int], most: int) -> tuple[int, ...]:
        """Up to ``most`` tokens that may follow ``tokens``, which only ever grow."""
        if most < 1 or len(tokens) < self._silent_until:
            return ()
        for end in range(self._indexed, len(tokens)):
            self._after[tuple(tokens[end - NGRAM : end])] = end
        self._indexed = max(self._indexed, len(tokens))
        start = self._after.get(tuple(tokens[-NGRAM:]))
        if start is None:
            return ()
        # Past the end go on in the guesses: a loop repeats itself.
        guesses: list[int] = []
        for at in range(start, start + min(most, self._count)):
            guesses.append(tokens[at] if at < len(tokens) else guesses[at - len(tokens)])
        return tuple(guesses)

    def judge(self, proposed: int, accepted: int, length: int) -> None:
        """Learn that ``accepted`` of ``proposed`` guesses were right; ``length``: tokens by now."""
        if accepted:
            self._misses = 0
            self._count = 2 * proposed + 1 if accepted == proposed else FIRST
            return
        self._misses += 1
        self._count = FIRST
        self._silent_until = length + min(LONGEST_PAUSE, 1 << self._misses)


class Speculation:
    """How far the steps of an engine guess ahead, and what became of it."""

    def __init__(self, most: int, rows: int, context: int = 0) -> None:
        """``most`` guesses for a sequence, 0: none; ``rows`` of all sequences in one step;
        ``context``: tokens of a sequence."""
        self.most = most
        self.rows = rows
        self.context = context
        self.drafts = 0
        self.proposed = 0
        self.accepted = [0] * most  # by place

    def judged(self, proposed: int, accepted: int) -> None:
        """Count one draft."""
        self.drafts += 1
        self.proposed += proposed
        for place in range(accepted):
            self.accepted[place] += 1
