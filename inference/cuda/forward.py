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
from llama_hub.inference.cuda import checks
from llama_hub.inference.cuda.graphs import Recorder, Recording, sizes
from llama_hub.inference.cuda.inputs import DecodeInputs, MixedInputs, MixedRows, PromptInputs
from llama_hub.inference.cuda.operations import Operations
from llama_hub.inference.cuda.selection import available
from llama_hub.inference.cuda.step import Step
from llama_hub.inference.kv_cache import KVCache
from llama_hub.inference.model import Llama

logger = logging.getLogger(__name__)

RUN_ROWS = (16, 64, 256)  # rows of prompts in recorded steps; more keep the device busy anyhow
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
        self._prompt_inputs = PromptInputs(
            self._sizes[-1], RUN_ROWS[-1], pages, self._spare, self._device
        )
        self._recordings: dict[int, Recording] = {}
        self._prompt_recordings: dict[int, Recording] = {}
        self._step: Step | None = None
        self._operations: Operations | None = None
        # How each kind of step is computed: those with prompts, and decodes by number of rows.
        self.modes: dict[str, str] = {}

    def __call__(self, batch: Batch) -> Tensor:
        """Logits of the wanted rows ``[R, vocab]``, in the order of ``batch.wanted``."""
        recorded = self._replay(batch)
        if recorded is not None:
            return recorded
        if self._step is None or self._operations is None:
            return self._model.forward(batch.to(self._device), self._cache)
        return self._mixed(self._step, self._operations, batch)

    def hidden(self, batch: Batch) -> Tensor:
        """Last hidden states of the wanted rows ``[R, dim]``, by the plain model."""
        return self._model.hidden(batch.to(self._device), self._cache)

    def _replay(self, batch: Batch) -> Tensor | None:
        """The smallest recorded step that takes the batch, if there is one."""
        rows = len(batch.spans)
        if len(batch.tokens) == rows:
            size = next((size for size in self._sizes if size >= rows), None)
            if size in self._recordings:
                wanted = self._decode_inputs.fill(batch)
                self._recordings[size].replay()
                # The batch's order is not the caller's: rows of prompts stand first.
                return self._recordings[size].logits.index_select(0, wanted)
        for size in RUN_ROWS:
            if size in self._prompt_recordings and self._prompt_inputs.takes(batch, size):
                self._prompt_inputs.fill(batch)
                self._prompt_recordings[size].replay()
                return self._prompt_recordings[size].logits[: len(batch.wanted)].clone()
        return None

    def close(self) -> None:
        """Drop the recordings; before the processes of a tensor-parallel model part."""
        self._recordings.clear()
        self._prompt_recordings.clear()
        self._step = None

    def prepare(self) -> None:
        """Compile and record: the first operations that work and agree, in all processes alike."""
        for operations in self._candidates:
            self._operations = operations
            if self._agreed(operations):
                break
            self.close()
            self._operations = None
        self.modes = self._describe()
        logger.info("steps: %s", "; ".join(f"{name}: {how}" for name, how in self.modes.items()))

    def _describe(self) -> dict[str, str]:
        mixed = self._operations.name if self._operations else PLAIN
        decodes = {
            f"decode {size}": f"graph, {mixed}" if size in self._recordings else mixed
            for size in self._sizes
        }
        prompts = {f"prompt {size}": f"graph, {mixed}" for size in sorted(self._prompt_recordings)}
        return {**decodes, **prompts, "mixed": mixed}

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
        alone = checks.Rehearsal(self._model.collective.size)
        step = Step(self._model, self._cache, operations, alone)
        for size in self._sizes:
            self._decode(step, operations, size)
        for size in self._run_rows(operations):
            self._runs(step, operations, size)
        pages = self._cache.pages - 1
        for batch in (checks.mixed(pages), *checks.prompts(min(self._context, pages * PAGE))):
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

    def _run_rows(self, operations: Operations) -> tuple[int, ...]:
        """Sizes of steps with prompts that can be recorded; the largest first."""
        can = operations.can_record_runs(self._model.weights.embedding)
        return RUN_ROWS[::-1] if can else ()

    def _runs(self, step: Step, operations: Operations, size: int) -> Tensor:
        """A step with ``size`` rows of prompts beside single rows, on its fixed tensors."""
        rows = self._prompt_inputs.rows(size)
        singles = len(rows.lengths)

        def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            out = operations.attend_runs(query, keys, values, rows, size)
            out[:singles] = operations.attend_decode(
                query[:singles], keys, values, rows.single_table, rows.lengths
            )
            return out

        return step(rows.tokens, rows.positions, rows.slots, attend, rows.wanted)

    def _record(self) -> None:
        """One graph for each size, the largest first, so that they share its memory."""
        assert self._step is not None
        assert self._operations is not None
        recorder = self._recorder()
        for size in self._run_rows(self._operations):
            step = partial(self._runs, self._step, self._operations, size)
            self._prompt_recordings[size] = recorder.record(step)
        for size in reversed(self._sizes):
            step = partial(self._decode, self._step, self._operations, size)
            self._recordings[size] = recorder.record(step)

    def _plain(self, batch: Batch) -> Tensor:
        return self._model.forward(batch.to(self._device), self._cache)

    def _check_mixed(self, operations: Operations) -> None:
        """``RuntimeError`` unless a step with prompts agrees with the plain model."""
        assert self._step is not None
        batch = checks.mixed(self._cache.pages - 1)
        found = self._mixed(self._step, operations, batch)
        checks.agree(found, self._plain(batch), "a step with prompts")

    def _check_recordings(self) -> None:
        """Each size replayed with two orders of the same sequences, against the plain model."""
        begun = checks.begun(self._sizes[-1], self._model.architecture.vocab_size)
        for size in sorted(self._prompt_recordings):
            some = [piece for piece in begun if len(piece.tokens) > 1][: PromptInputs.RUNS]
            while sum(len(piece.tokens) for piece in some) > size:
                some.pop()
            self._check(some, f"prompts of up to {size} rows")
        self._plain(build(begun))
        following = checks.following(begun)
        for size in self._sizes:
            self._check(following[:size], f"{size} rows")
        for size in sorted(self._prompt_recordings):
            beside = [*following[::2], *begun[1:2]]
            self._check(beside, f"decodes beside a prompt, up to {size} rows")

    def _check(self, pieces: list[Piece], what: str) -> None:
        if not pieces:
            return
        batch = build(pieces)
        expected = self._plain(batch)
        checks.agree(self(batch), expected, what)
        order = checks.shuffled(len(pieces))
        found = self(build([pieces[index] for index in order]))
        checks.agree(found, expected[order], f"{what} in another order")


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
