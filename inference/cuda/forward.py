"""``Executor``'s forward function on CUDA: decodes replayed, steps with prompts launched.

A step in which every span has one row has the same shape each time; so its launches are
recorded once for each size and replayed as one. Other steps launch the same operations.
Both are compared with ``model.Llama`` before they are used; a machine that cannot compile
or record them takes simpler operations, and ``model.Llama`` in the end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from llama_hub.inference.batch import Batch, Piece, build
from llama_hub.inference.config import PAGE
from llama_hub.inference.cuda.graphs import Recorder, Recording, sizes
from llama_hub.inference.cuda.inputs import DecodeInputs, MixedInputs, MixedRows
from llama_hub.inference.cuda.operations import Operations
from llama_hub.inference.cuda.selection import available
from llama_hub.inference.cuda.step import Step
from llama_hub.inference.kv_cache import KVCache
from llama_hub.inference.model import Llama

logger = logging.getLogger(__name__)

TOLERANCE = 0.1  # of the spread of a row's logits, between two ways to compute it
PROMPT_LENGTHS = (12, 24, 48, 100)  # that are compiled for: kernels change form between them
PLAIN = "plain"  # model.Llama, operation by operation


class CudaForward:
    """Computes steps over one cache; ``prepare`` before the first."""

    def __init__(
        self,
        model: Llama,
        cache: KVCache,
        context: int,
        max_batch: int,
        *,
        operations: Sequence[Operations] | None = None,
        recorder: Callable[[], Recorder] = Recorder,
    ) -> None:
        self._model = model
        self._cache = cache
        self._device = cache.data.device
        width = model.heads.width
        self._candidates = available(self._device, width) if operations is None else operations
        self._recorder = recorder
        self._context = context
        pages = -(-context // PAGE)
        # The last page is unknown to the scheduler. No more rows than pages can decode together.
        self._spare = (cache.pages - 1) * PAGE
        self._sizes = sizes(max(1, min(max_batch, cache.pages - 1)))
        self._decode_inputs = DecodeInputs(self._sizes[-1], pages, self._spare, self._device)
        self._mixed_inputs = MixedInputs(pages, self._device)
        self._recordings: dict[int, Recording] = {}
        self._step: Step | None = None
        self._operations: Operations | None = None
        # How each kind of step is computed: those with prompts, and decodes by number of rows.
        self.modes: dict[str, str] = {}

    def __call__(self, batch: Batch) -> Tensor:
        """Logits of the wanted rows ``[R, vocab]``, in the order of ``batch.wanted``."""
        rows = len(batch.spans)
        single = len(batch.tokens) == rows
        size = next((size for size in self._sizes if size >= rows), None)
        if single and size in self._recordings:
            wanted = self._decode_inputs.fill(batch)
            self._recordings[size].replay()
            # The batch's order is not the caller's: rows of prompts stand first.
            return self._recordings[size].logits.index_select(0, wanted)
        if self._step is None or self._operations is None:
            return self._model.forward(batch.to(self._device), self._cache)
        return self._mixed(self._step, self._operations, batch)

    def close(self) -> None:
        """Drop the recordings; before the processes of a tensor-parallel model part."""
        self._recordings.clear()
        self._step = None

    def prepare(self) -> None:
        """Compile and record: the first operations that work and agree, in all processes alike."""
        for operations in self._candidates:
            self._operations = operations
            if self._agreed(operations):
                break
            self._recordings.clear()
            self._step = self._operations = None
        self.modes = self._describe()
        logger.info("steps: %s", "; ".join(f"{name}: {how}" for name, how in self.modes.items()))

    def _describe(self) -> dict[str, str]:
        mixed = self._operations.name if self._operations else PLAIN
        decodes = {
            f"decode {size}": f"graph, {mixed}" if size in self._recordings else mixed
            for size in self._sizes
        }
        return {**decodes, "mixed": mixed}

    def _agreed(self, operations: Operations) -> bool:
        """Whether every process can compute with ``operations``.

        What can fail in one process alone is tried before the processes meet in a step, so that
        none is left waiting for another.
        """
        stages = (
            partial(self._compile, operations),
            partial(self._check_mixed, operations),
            self._record,
            self._check_recordings,
        )
        return all(self._stage(operations, stage) for stage in stages)

    def _stage(self, operations: Operations, stage: Callable[[], None]) -> bool:
        try:
            stage()
            worked = True
        except Exception as error:  # a compiler's or driver's failure must not stop serving
            logger.warning("steps cannot be computed by %s: %s", operations.name, error)
            worked = False
        return self._model.collective.least(int(worked)) == 1

    def _compile(self, operations: Operations) -> None:
        """Run steps of every shape without the other processes."""
        alone = _Rehearsal(self._model.collective.size)
        step = Step(self._model, self._cache, operations, alone)
        for size in self._sizes:
            self._decode(step, operations, size)
        for batch in (self._trial_batch(), *self._prompts()):
            self._mixed(step, operations, batch)
        self._step = Step(self._model, self._cache, operations, self._model.collective)

    def _decode(self, step: Step, operations: Operations, size: int) -> Tensor:
        rows = self._decode_inputs.rows(size)

        def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            return operations.attend_decode(query, keys, values, rows.table, rows.lengths)

        return step(rows.tokens, rows.positions, rows.slots, attend)

    def _mixed(self, step: Step, operations: Operations, batch: Batch) -> Tensor:
        rows = self._mixed_inputs.fill(batch)
        attend = partial(_attend_mixed, operations, rows)
        return step(rows.tokens, rows.positions, rows.slots, attend, rows.wanted)

    def _record(self) -> None:
        """One graph for each size, the largest first, so that they share its memory."""
        assert self._step is not None
        assert self._operations is not None
        recorder = self._recorder()
        for size in reversed(self._sizes):
            step = partial(self._decode, self._step, self._operations, size)
            self._recordings[size] = recorder.record(step)

    def _check_mixed(self, operations: Operations) -> None:
        """``RuntimeError`` unless a step with prompts agrees with the plain model."""
        assert self._step is not None
        batch = self._trial_batch()
        expected = self._model.forward(batch.to(self._device), self._cache)
        agree(self._mixed(self._step, operations, batch), expected, "a step with prompts")

    def _check_recordings(self) -> None:
        """Each size replayed with two orders of the same sequences, against the plain model."""
        begun = [Piece(tokens, 0, pages, prompt=len(tokens)) for tokens, pages in self._sequences()]
        self._model.forward(build(begun).to(self._device), self._cache)
        following = [
            Piece((7 + row,), len(piece.tokens), piece.pages, prompt=row % 2)
            for row, piece in enumerate(begun)
        ]
        for size in self._sizes:
            pieces = following[:size]
            expected = self._model.forward(build(pieces).to(self._device), self._cache)
            order = [(row * 7 + 3) % size for row in range(size)] if size % 7 else range(size)[::-1]
            agree(self(build(pieces)), expected, f"{size} rows")
            permuted = self(build([pieces[row] for row in order]))
            agree(permuted, expected[list(order)], f"{size} rows in another order")

    def _sequences(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Short prompts, each on a page of its own, all different."""
        words = min(1000, self._model.architecture.vocab_size - 1)
        lengths = [1 + row * 5 % (PAGE - 2) for row in range(self._sizes[-1])]
        return [
            (tuple((row * 31 + n * 7) % words for n in range(length)), (row,))
            for row, length in enumerate(lengths)
        ]

    def _prompts(self) -> list[Batch]:
        """One prompt of each length for which kernels have a form of their own."""
        room = min(self._context, (self._cache.pages - 1) * PAGE)
        pages = tuple(range(-(-room // PAGE)))
        lengths = sorted({min(length, room) for length in PROMPT_LENGTHS})
        return [build([Piece((1,) * n, 0, pages, wanted=n, prompt=n)]) for n in lengths]

    def _trial_batch(self) -> Batch:
        """Prompts from their beginning and from their middle, and single rows."""
        last = self._cache.pages - 2
        pieces = [
            Piece(tuple(range(5, 12)), 0, (0,), prompt=7),
            Piece((9,), 0, (last,), prompt=1),
            Piece((3, 4, 5), 7, (0,), wanted=2, prompt=3),
            Piece((11,), 10, (0,)),
        ]
        return build(pieces if last > 0 else pieces[:1])


def _attend_mixed(
    operations: Operations, rows: MixedRows, query: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """Spans of several rows in one launch where that is possible, all single rows in another."""
    if not rows.spans:
        return operations.attend_decode(query, keys, values, rows.single_table, rows.lengths)
    out = operations.attend_spans(query, keys, values, rows)
    if rows.singles.start < rows.singles.stop:
        out[rows.singles] = operations.attend_decode(
            query[rows.singles], keys, values, rows.single_table, rows.lengths
        )
    return out


class _Rehearsal:
    """Stands in for the other processes while one compiles."""

    def __init__(self, size: int) -> None:
        self.size = size

    def sum(self, partial: Tensor) -> Tensor:
        return partial

    def gather(self, part: Tensor) -> Tensor:
        return part

    def least(self, number: int) -> int:
        return number


def agree(found: Tensor, expected: Tensor, what: str) -> None:
    """``RuntimeError`` unless every row of ``found`` is ``expected`` but for rounding.

    By the root mean square of a row, not its largest entry: of 32000 logits in bfloat16 one always
    lies far off, while a row that belongs to another sequence differs by more than the row itself.
    """
    if found.shape != expected.shape:
        raise RuntimeError(f"{what} has logits of shape {list(found.shape)}")
    difference = (found - expected).square().mean(-1).sqrt()
    worst = float((difference / expected.std(-1)).max())
    if not worst <= TOLERANCE:
        raise RuntimeError(f"the logits of {what} differ by {worst:.3g} of their spread")
