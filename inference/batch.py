"""The batch of one step of the model: some tokens of some sequences, laid end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llama_hub.inference.config import PAGE


@dataclass(frozen=True)
class Span:
    """Consecutive tokens of one sequence within a batch."""

    row: int  # first row of the batch
    count: int  # rows
    start: int  # position of the first token in its sequence
    pages: tuple[int, ...]  # of the whole sequence

    @property
    def length(self) -> int:
        """Tokens of the sequence once this step is done."""
        return self.start + self.count


@dataclass(frozen=True)
class Batch:
    """Input of ``Llama.forward``; T rows in all."""

    tokens: Tensor  # int64 [T]
    positions: Tensor  # int64 [T]
    slots: Tensor  # int64 [T], where each token's key and value go
    spans: tuple[Span, ...]
    prompt_rows: int  # the first rows hold tokens of prompts, the rest tokens of answers
    wanted: Tensor  # int64 [R], the rows whose logits are asked for; not always ascending

    def to(self, device: torch.device) -> Batch:
        """The same with its tensors on ``device``."""
        if self.tokens.device == device:
            return self
        moved = (self.tokens, self.positions, self.slots, self.wanted)
        tokens, positions, slots, wanted = (each.to(device) for each in moved)
        return replace(self, tokens=tokens, positions=positions, slots=slots, wanted=wanted)


@dataclass(frozen=True)
class Piece:
    """One sequence's share of a step, before it becomes tensors."""

    tokens: tuple[int, ...]
    start: int
    pages: tuple[int, ...]
    wanted: int = 1  # of how many rows, counted from the last, logits are asked for
    prompt: int = 0  # how many of the tokens, counted from the first, the user gave


def build(pieces: Sequence[Piece]) -> Batch:
    """Lay ``pieces`` end to end on the CPU: what users gave first, then what was generated.

    The two kinds may be computed in different ways, which have to depend on the token alone and
    never on the rest of the batch. Spans of one row stand together: those of prompts last among
    the prompts, those of answers first among the answers.
    """
    layout = _Layout()
    prompts = layout.add_all(pieces, [(0, piece.prompt) for piece in pieces], singles_last=True)
    prompt_rows = len(layout.tokens)
    rests = [(piece.prompt, len(piece.tokens)) for piece in pieces]
    answers = layout.add_all(pieces, rests, singles_last=False)
    wanted: list[int] = []
    for piece, first, second in zip(pieces, prompts, answers, strict=True):
        rows = [*first, *second]
        wanted += rows[len(rows) - piece.wanted :]
    return Batch(
        tokens=torch.tensor(layout.tokens, dtype=torch.int64),
        positions=torch.tensor(layout.positions, dtype=torch.int64),
        slots=torch.tensor(layout.slots, dtype=torch.int64),
        spans=tuple(layout.spans),
        prompt_rows=prompt_rows,
        wanted=torch.tensor(wanted, dtype=torch.int64),
    )


class _Layout:
    """The rows of a batch as they are laid out."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.slots: list[int] = []
        self.spans: list[Span] = []

    def add_all(
        self, pieces: Sequence[Piece], parts: Sequence[tuple[int, int]], *, singles_last: bool
    ) -> list[range]:
        """Append each piece's tokens from one number to the other; the rows of each."""
        rows = [range(0)] * len(pieces)
        lengths = [end - begin for begin, end in parts]
        for index in sorted(range(len(pieces)), key=lambda i: (lengths[i] == 1) == singles_last):
            rows[index] = self._add(pieces[index], *parts[index])
        return rows

    def _add(self, piece: Piece, begin: int, end: int) -> range:
        row, start = len(self.tokens), piece.start + begin
        if begin == end:
            return range(0)
        self.spans.append(Span(row, end - begin, start, piece.pages))
        self.tokens += piece.tokens[begin:end]
        positions = range(start, start + end - begin)
        self.positions += positions
        self.slots += [piece.pages[each // PAGE] * PAGE + each % PAGE for each in positions]
        return range(row, row + end - begin)
