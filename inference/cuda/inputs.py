"""A step's numbers on the device: gathered in pinned memory, sent in one copy.

What changes from step to step (tokens, positions, places in the cache, page tables)
is a few thousand integers. They are written into one host buffer and cross to the
device together; the tensors of a step are views of where they arrive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llama_hub.inference.batch import Batch, Span
from llama_hub.inference.config import PAGE


class Staging:
    """A host buffer of int32 that is copied to the device as a whole."""

    def __init__(self, size: int, device: torch.device) -> None:
        self._pinned = device.type == "cuda"
        self._host = torch.zeros(size, dtype=torch.int32, pin_memory=self._pinned)
        self._sent: Any = torch.cuda.Event() if self._pinned else None  # type: ignore[no-untyped-call]
        self._numbers = self._host.numpy()

    def __len__(self) -> int:
        return len(self._host)

    def open(self) -> np.ndarray:
        """The buffer, to be written; waits until the last copy has read it."""
        if self._sent is not None:
            self._sent.synchronize()
        return self._numbers

    def send(self, target: Tensor) -> None:
        """Copy the first ``len(target)`` numbers to the device without waiting for it."""
        target.copy_(self._host[: len(target)], non_blocking=True)
        if self._sent is not None:
            self._sent.record()


@dataclass(frozen=True)
class DecodeRows:
    """A decode step's tensors, int32, of fixed size ``[B]``; unused rows compute nothing."""

    tokens: Tensor
    positions: Tensor
    slots: Tensor
    lengths: Tensor  # tokens of each sequence, this one included
    table: Tensor  # [B, pages]


class DecodeInputs:
    """The fixed tensors of all recorded decode steps: a step of B rows reads the first B."""

    FIELDS = 5  # numbers of a row beside its pages

    def __init__(self, rows: int, pages: int, spare: int, device: torch.device) -> None:
        """``spare``: the slot of a page that no sequence has, where unused rows write."""
        self._spare = spare
        size = rows * (self.FIELDS + pages)
        self._staging = Staging(size, device)
        self._target = torch.zeros(size, dtype=torch.int32, device=device)
        self._shape = (rows, pages)
        numbers = self._staging.open()
        self._fields = numbers[: rows * self.FIELDS].reshape(self.FIELDS, rows)
        self._table = numbers[rows * self.FIELDS :].reshape(rows, pages)
        self._pages: list[tuple[int, ...]] = [()] * rows  # that the table holds
        self._fields[2], self._fields[3] = spare, 1
        self._table[:] = spare // PAGE
        self._staging.send(self._target)

    def rows(self, size: int) -> DecodeRows:
        """The tensors of a step of ``size`` rows."""
        rows, pages = self._shape
        fields = self._target[: rows * self.FIELDS].view(self.FIELDS, rows)[:, :size]
        table = self._target[rows * self.FIELDS :].view(rows, pages)[:size]
        return DecodeRows(fields[0], fields[1], fields[2], fields[3], table)

    def fill(self, batch: Batch) -> Tensor:
        """Send a batch of single rows; its wanted rows, on the device."""
        self._staging.open()
        rows, wanted = len(batch.spans), len(batch.wanted)
        values = (batch.tokens, batch.positions, batch.slots)
        for field, tensor in zip(self._fields, values, strict=False):
            field[:rows] = tensor.numpy()
        self._fields[2, rows:] = self._spare
        self._fields[3, :rows] = [span.length for span in batch.spans]
        self._fields[3, rows:] = 1
        self._fields[4, :wanted] = batch.wanted.numpy()
        for row, span in enumerate(batch.spans):
            self._lay_pages(row, span.pages)
        self._staging.send(self._target)
        last = (self.FIELDS - 1) * self._shape[0]
        return self._target[last : last + wanted]

    def _lay_pages(self, row: int, pages: tuple[int, ...]) -> None:
        """Write what differs from the row's pages of the last step: usually nothing."""
        known = self._pages[row]
        if known == pages:
            return
        start = len(known) if pages[: len(known)] == known else 0
        self._table[row, start : len(pages)] = pages[start:]
        self._pages[row] = pages


@dataclass(frozen=True)
class MixedRows:
    """The tensors of a step with prompts, int32; ``singles`` are the rows that stand alone."""

    tokens: Tensor  # [T]
    positions: Tensor  # [T]
    slots: Tensor  # [T]
    wanted: Tensor  # [R]
    singles: slice  # rows of spans of one row
    lengths: Tensor  # of the singles' sequences
    single_table: Tensor  # [singles, pages]
    spans: tuple[Span, ...]  # of several rows
    places: Tensor  # [3, spans]: first rows, their positions, numbers of rows
    table: Tensor  # [spans, pages]


class MixedInputs:
    """Sends batches of any shape; its tensors live as long as the step."""

    def __init__(self, pages: int, device: torch.device) -> None:
        self._pages = pages
        self._device = device
        self._staging = Staging(1 << 14, device)

    def fill(self, batch: Batch) -> MixedRows:
        """Lay a batch out and send it."""
        single = [span for span in batch.spans if span.count == 1]
        several = tuple(span for span in batch.spans if span.count > 1)
        parts = [
            batch.tokens.numpy(),
            batch.positions.numpy(),
            batch.slots.numpy(),
            batch.wanted.numpy(),
            np.array([span.length for span in single], dtype=np.int32),
            self._table(single),
            np.array([(s.row, s.start, s.count) for s in several], dtype=np.int32).T,
            self._table(several),
        ]
        tokens, positions, slots, wanted, lengths, single_table, places, table = self._send(parts)
        first = single[0].row if single else 0
        return MixedRows(
            tokens=tokens,
            positions=positions,
            slots=slots,
            wanted=wanted,
            singles=slice(first, first + len(single)),
            lengths=lengths,
            single_table=single_table.view(len(single), self._pages),
            spans=several,
            places=places.view(3, len(several)),
            table=table.view(len(several), self._pages),
        )

    def _send(self, parts: list[np.ndarray]) -> list[Tensor]:
        """All parts in one copy; flat views of where they arrived."""
        ends = np.cumsum([part.size for part in parts]).tolist()
        if ends[-1] > len(self._staging):
            self._staging = Staging(2 * ends[-1], self._device)
        numbers = self._staging.open()
        for part, end in zip(parts, ends, strict=True):
            numbers[end - part.size : end] = part.reshape(-1)
        target = torch.empty(ends[-1], dtype=torch.int32, device=self._device)
        self._staging.send(target)
        return [target[end - part.size : end] for part, end in zip(parts, ends, strict=True)]

    def _table(self, spans: list[Span] | tuple[Span, ...]) -> np.ndarray:
        """Always as wide as a whole context: one shape for the kernels."""
        table = np.zeros((len(spans), self._pages), dtype=np.int32)
        for row, span in enumerate(spans):
            table[row, : len(span.pages)] = span.pages
        return table


@dataclass(frozen=True)
class PromptRows:
    """The tensors of a recorded step with prompts, int32, of fixed size.

    The first ``len(lengths)`` rows stand alone, the rest belong to runs of rows; unused rows write
    to the spare page, unused runs have no rows.
    """

    tokens: Tensor  # [R]
    positions: Tensor  # [R]
    slots: Tensor  # [R]
    wanted: Tensor  # [W]
    lengths: Tensor  # [singles]
    single_table: Tensor  # [singles, pages]
    places: Tensor  # [3, RUNS]: first rows, their positions, numbers of rows
    table: Tensor  # [RUNS, pages]


class PromptInputs:
    """The fixed tensors of recorded steps with prompts, of up to ``rows`` rows in runs."""

    RUNS = 8  # prompts, or pieces of them, in one step

    def __init__(
        self, singles: int, rows: int, pages: int, spare: int, device: torch.device
    ) -> None:
        self._singles = singles
        self._spare = spare
        total, runs = singles + rows, self.RUNS
        shapes = [
            (total,), (total,), (total,), (singles + runs,), (singles,), (singles, pages),
            (3, runs), (runs, pages),
        ]  # fmt: skip
        sizes = [int(np.prod(shape)) for shape in shapes]
        ends = np.cumsum(sizes).tolist()
        self._staging = Staging(ends[-1], device)
        self._target = torch.zeros(ends[-1], dtype=torch.int32, device=device)
        numbers = self._staging.open()
        spans = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        self._host = [numbers[s].reshape(shape) for s, shape in zip(spans, shapes, strict=True)]
        self._device = [
            self._target[span].view(shape) for span, shape in zip(spans, shapes, strict=True)
        ]
        self._clear()
        self._staging.send(self._target)

    def rows(self, size: int) -> PromptRows:
        """The tensors of a step with ``size`` rows in runs."""
        total = self._singles + size
        tokens, positions, slots, *rest = self._device
        return PromptRows(tokens[:total], positions[:total], slots[:total], *rest)

    def takes(self, batch: Batch, size: int) -> bool:
        """Whether a batch fits into a step of ``size`` rows in runs."""
        single = sum(1 for span in batch.spans if span.count == 1)
        return (
            single <= self._singles
            and len(batch.spans) - single <= self.RUNS
            and len(batch.tokens) - single <= size
            and len(batch.wanted) <= self._singles + self.RUNS
        )

    def fill(self, batch: Batch) -> None:
        """Send a batch; its wanted rows come first among the step's logits, in their order."""
        self._staging.open()
        self._clear()
        tokens, positions, slots, wanted, lengths, single_table, places, table = self._host
        single = [span for span in batch.spans if span.count == 1]
        several = [span for span in batch.spans if span.count > 1]
        place = self._place(len(batch.tokens), single)
        tokens[place] = batch.tokens.numpy()
        positions[place] = batch.positions.numpy()
        slots[place] = batch.slots.numpy()
        wanted[: len(batch.wanted)] = place[batch.wanted.numpy()]
        lengths[: len(single)] = [span.length for span in single]
        for row, span in enumerate(single):
            single_table[row, : len(span.pages)] = span.pages
        for row, span in enumerate(several):
            places[:, row] = (place[span.row], span.start, span.count)
            table[row, : len(span.pages)] = span.pages
        self._staging.send(self._target)

    def _place(self, rows: int, single: list[Span]) -> np.ndarray:
        """Where each row of a batch stands in the step: rows of runs after all single rows."""
        index = np.arange(rows)
        first = single[0].row if single else rows
        last = first + len(single)
        runs = self._singles + np.where(index < first, index, index - len(single))
        return np.where((first <= index) & (index < last), index - first, runs)

    def _clear(self) -> None:
        tokens, positions, slots, wanted, lengths, single_table, places, table = self._host
        for field in (tokens, positions, wanted, places, table):
            field[:] = 0
        slots[:], lengths[:], single_table[:] = self._spare, 1, self._spare // PAGE
