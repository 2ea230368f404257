"""What one step of the model computes: some tokens of some sequences, laid end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    wanted: Tensor  # int64 [R], the rows whose logits are asked for


@dataclass(frozen=True)
class Piece:
    """One sequence's share of a step, before it becomes tensors."""

    tokens: tuple[int, ...]
    start: int
    pages: tuple[int, ...]
    wanted: int = 1  # of how many rows, counted from the last, logits are asked for
    prompt: int = 0  # how many of the tokens, counted from the first, the user gave


def build(pieces: Sequence[Piece], device: torch.device) -> Batch:
    """Lay ``pieces`` end to end: what users gave first, then what was generated.

    The two kinds may be computed in different ways, which have to depend on the token alone and
    never on the rest of the batch.
    """
    layout = _Layout()
    starts = [layout.add(piece, 0, piece.prompt) for piece in pieces]
    prompt_rows = len(layout.tokens)
    later = [layout.add(piece, piece.prompt, len(piece.tokens)) for piece in pieces]
    wanted: list[int] = []
    for piece, first, second in zip(pieces, starts, later, strict=True):
        rows = [*range(first, first + piece.prompt)]
        rows += range(second, second + len(piece.tokens) - piece.prompt)
        wanted += rows[len(rows) - piece.wanted :]

    def on_device(numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64).to(device)

    return Batch(
        tokens=on_device(layout.tokens),
        positions=on_device(layout.positions),
        slots=on_device(layout.slots),
        spans=tuple(layout.spans),
        prompt_rows=prompt_rows,
        wanted=on_device(wanted),
    )


class _Layout:
    """The rows of a batch as they are laid out."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.slots: list[int] = []
        self.spans: list[Span] = []

    def add(self, piece: Piece, begin: int, end: int) -> int:
        """Append the piece's tokens from ``begin`` to ``end``; their first row."""
        row, start = len(self.tokens), piece.start + begin
        if begin == end:
            return row
        self.spans.append(Span(row, end - begin, start, piece.pages))
        self.tokens += piece.tokens[begin:end]
        for position in range(start, start + end - begin):
            self.positions.append(position)
            self.slots.append(piece.pages[position // PAGE] * PAGE + position % PAGE)
        return row
