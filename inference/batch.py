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
    wanted: Tensor  # int64 [R], the rows whose logits are asked for


@dataclass(frozen=True)
class Piece:
    """One sequence's share of a step, before it becomes tensors."""

    tokens: tuple[int, ...]
    start: int
    pages: tuple[int, ...]
    wanted: int = 1  # of how many rows, counted from the last, logits are asked for


def build(pieces: Sequence[Piece], device: torch.device) -> Batch:
    """Lay ``pieces`` end to end."""
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    wanted: list[int] = []
    spans: list[Span] = []
    for piece in pieces:
        row, count = len(tokens), len(piece.tokens)
        spans.append(Span(row, count, piece.start, piece.pages))
        tokens += piece.tokens
        for position in range(piece.start, piece.start + count):
            positions.append(position)
            slots.append(piece.pages[position // PAGE] * PAGE + position % PAGE)
        wanted += range(row + count - piece.wanted, row + count)

    def on_device(numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64).to(device)

    return Batch(
        tokens=on_device(tokens),
        positions=on_device(positions),
        slots=on_device(slots),
        spans=tuple(spans),
        wanted=on_device(wanted),
    )
