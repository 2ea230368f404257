"""The engine's thread: takes requests in, runs steps, hands deltas out."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch
from torch import Tensor

from llama_hub.errors import DeviceMemoryError
from llama_hub.inference.batch import Piece
from llama_hub.inference.chunk_rows import float32_bytes, last_row, samples, score_prompt
from llama_hub.inference.engine import Delta, FinishReason
from llama_hub.inference.executor import Executor
from llama_hub.inference.out_of_memory import is_out_of_memory, release_unused
from llama_hub.inference.sampling import Chosen, Row, choose
from llama_hub.inference.scheduler import Chunk, Scheduler, Sequence

logger = logging.getLogger(__name__)

Event = tuple[str, Delta | BaseException]  # request id, and what to tell its reader
Deliver = Callable[[list[Event]], None]
GRAMMAR_WAIT = 0.02  # seconds that a step waits for all grammars together
IDLE = 5.0  # seconds without a request after which pages that hold nothing give their memory back
FORGET = 600.0  # and after which kept beginnings of prompts do
GRAMMAR_PAUSE = 0.001  # seconds between two looks when there is nothing else to do


@dataclass(frozen=True)
class _Submit:
    sequence: Sequence


@dataclass(frozen=True)
class _Abort:
    request_id: str


@dataclass(frozen=True)
class _Stop:
    pass


class Worker:
    """Runs the scheduler's steps on a thread of its own until stopped."""

    def __init__(
        self,
        executor: Executor,
        scheduler: Scheduler,
        deliver: Deliver,
        *,
        ends: frozenset[int],
        context: int,
        nameless: frozenset[int] = frozenset(),
    ) -> None:
        self.scheduler = scheduler
        self.failure: BaseException | None = None
        self.ended = False  # set before the last look into the inbox
        self._executor = executor
        self._deliver = deliver
        self._ends = ends
        self._nameless = sorted(nameless)
        self._never: Tensor | None = None  # the same, on the device
        self._context = context
        self._inbox: queue.SimpleQueue[_Submit | _Abort | _Stop] = queue.SimpleQueue()
        self._by_id: dict[str, Sequence] = {}
        self._thread = threading.Thread(target=self._run, name="llama-hub-engine", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence; from any thread."""
        self._inbox.put(_Submit(sequence))

    def abort(self, request_id: str) -> None:
        """Drop a sequence if it is still there; from any thread."""
        self._inbox.put(_Abort(request_id))

    def stop(self) -> None:
        """End the thread after its step; every reader gets an ``abort``."""
        self._inbox.put(_Stop())
        self.join()

    def join(self) -> None:
        """Wait for the thread's end."""
        self._thread.join()

    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        farewell: Delta | BaseException = Delta(finish_reason="abort")
        try:
            with self._executor.device_scope():
                while self.receive(wait=not self._by_id):
                    self.step()
        except Exception as error:  # the readers have to learn of it, whatever it is
            self.failure = farewell = error
        # Whoever submits looks at `ended` afterwards: no request falls between the two.
        self.ended = True
        while not self.receive(wait=False):
            pass
        self._drop_all(farewell)

    def receive(self, *, wait: bool) -> bool:
        """Take what has come in, waiting for the first of it if asked to; False on stop."""
        while True:
            try:
                command = self._await_next() if wait else self._inbox.get(block=False)
            except queue.Empty:
                return True
            wait = False
            if isinstance(command, _Stop):
                return False
            self._handle(command)

    def _await_next(self) -> _Submit | _Abort | _Stop:
        """What comes in next; while nothing does, memory that nobody needs goes."""
        for pause, forget in ((IDLE, False), (FORGET, True)):
            try:
                return self._inbox.get(timeout=pause)
            except queue.Empty:
                pages = self.scheduler.pool.give_back(forget=forget)
                if pages:
                    self._executor.give_back(pages)
        return self._inbox.get()

    def _handle(self, command: _Submit | _Abort) -> None:
        if isinstance(command, _Submit):
            self._by_id[command.sequence.request.id] = command.sequence
            self.scheduler.add(command.sequence)
        elif command.request_id in self._by_id:
            self.scheduler.remove(self._by_id.pop(command.request_id))

    def _drop_all(self, farewell: Delta | BaseException) -> None:
        events: list[Event] = [(request_id, farewell) for request_id in self._by_id]
        for sequence in self._by_id.values():
            self.scheduler.remove(sequence)
        self._by_id.clear()
        if events:
            self._deliver(events)

    def step(self) -> None:
        """Compute one step and hand out what it gave."""
        chunks = self.scheduler.step()
        if not chunks:
            if self._by_id:  # all of them wait for their grammars
                time.sleep(GRAMMAR_PAUSE)
            return
        self._embed([chunk for chunk in chunks if chunk.sequence.request.embedding])
        chunks = [chunk for chunk in chunks if not chunk.sequence.request.embedding]
        if chunks:
            self._generate(chunks)

    def _generate(self, chunks: list[Chunk]) -> None:
        """Compute the chunks of answers, and hand out the tokens that it gave."""
        chunks, computed = self._compute(chunks, self._executor.run)
        chunks, parts = self._on_time(chunks, computed)
        chunks, parts = self._score(chunks, parts)
        lasts = [last_row(*each) for each in zip(chunks, parts, strict=True) if samples(each[0])]
        chosen = iter(self._choose(chunks, lasts))
        rows = {id(chunk): part for chunk, part in zip(chunks, parts, strict=True)}
        chunks = [chunk for chunk in chunks if chunk.sequence.request.id in self._by_id]
        events: list[Event] = []
        for chunk in chunks:
            done, sampled = chunk.last, samples(chunk)
            self.scheduler.computed(chunk)
            if done:
                answer = next(chosen) if sampled else None
                events.append((chunk.sequence.request.id, self._advance(chunk.sequence, answer)))
            if chunk.draft:
                events += self._verify(chunk, rows[id(chunk)])
        self._deliver(events)

    def _verify(self, chunk: Chunk, logits: Tensor) -> list[Event]:
        """The tokens after the first, as far as the guesses were right: row by row what steps of
        their own would have given."""
        events: list[Event] = []
        sequence, one = chunk.sequence, Chunk(chunk.sequence, 1)
        for row, guess in enumerate(chunk.draft, 1):
            if sequence.request.id not in self._by_id or sequence.tokens[-1] != guess:
                break
            chosen = self._choose([one], [logits[row : row + 1]])
            if not chosen:
                break
            self.scheduler.computed(one)
            events.append((sequence.request.id, self._advance(sequence, chosen[0])))
        sequence.lookup.judge(len(chunk.draft), len(events), len(sequence.tokens))
        self.scheduler.speculation.judged(len(chunk.draft), len(events))
        return events

    def _embed(self, chunks: list[Chunk]) -> None:
        """Compute the chunks of texts that become vectors, and hand out the vectors."""
        if not chunks:
            return
        events: list[Event] = []
        for chunk, hidden in zip(*self._compute(chunks, self._executor.hidden), strict=True):
            sequence, done = chunk.sequence, chunk.last
            part = hidden.sum(0, dtype=torch.float64)
            total = part if sequence.hidden_sum is None else sequence.hidden_sum + part
            sequence.hidden_sum = total
            self.scheduler.computed(chunk)
            if done:
                self.scheduler.remove(sequence)
                del self._by_id[sequence.request.id]
                queued, vector = sequence.queued or 0.0, float32_bytes(total / total.norm())
                delta = Delta(finish_reason="stop", queued=queued, embedding=vector)
                events.append((sequence.request.id, delta))
        if events:
            self._deliver(events)

    def _compute(
        self, chunks: list[Chunk], run: Callable[[Rows[Piece]], Tensor]
    ) -> tuple[list[Chunk], list[Tensor]]:
        """Each chunk's rows of what ``run`` gives; without the chunks for which memory is short.

        A step that does not fit is computed in halves: nobody loses an answer to another's prompt.
        """
        try:
            rows = run([_piece(chunk) for chunk in chunks])
            return chunks, list(torch.split(rows, [chunk.wanted for chunk in chunks]))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Here the traceback, which holds the tensors of the step, is gone.
        release_unused()
        if len(chunks) == 1:
            self._fail(chunks[0].sequence)
            return [], []
        half = len(chunks) // 2
        first, first_parts = self._compute(chunks[:half], run)
        second, second_parts = self._compute(chunks[half:], run)
        return first + second, first_parts + second_parts

    def _fail(self, sequence: Sequence) -> None:
        """End one answer for want of memory."""
        logger.warning("no memory for a step of %d tokens: its request fails", sequence.missing)
        self.scheduler.remove(sequence)
        del self._by_id[sequence.request.id]
        error = DeviceMemoryError(
            "the device has too little memory for this request at this moment",
            hint="try again later, or serve with a smaller --max-batch or --context",
        )
        self._deliver([(sequence.request.id, error)])

    def _on_time(
        self, chunks: list[Chunk], parts: Rows[Tensor]
    ) -> tuple[list[Chunk], list[Tensor]]:
        """The chunks whose grammars, if any, know what may follow.

        One that is late counts as not computed and is repeated: nobody waits for it longer than
        ``GRAMMAR_WAIT``. One that failed ends its own answer.
        """
        deadline = time.monotonic() + GRAMMAR_WAIT
        kept: list[tuple[Chunk, Tensor]] = []
        for chunk, part in zip(chunks, parts, strict=True):
            sequence = chunk.sequence
            grammar = sequence.grammar if samples(chunk) else None
            if grammar is not None and not grammar.wait(deadline - time.monotonic()):
                sequence.held = True
            elif grammar is not None and (failure := grammar.failure()) is not None:
                self.scheduler.remove(sequence)
                del self._by_id[sequence.request.id]
                self._deliver([(sequence.request.id, failure)])
            else:
                kept.append((chunk, part))
        return [chunk for chunk, _ in kept], [part for _, part in kept]

    def _score(self, chunks: list[Chunk], parts: list[Tensor]) -> tuple[list[Chunk], list[Tensor]]:
        """Log-probabilities of the prompt's own tokens, where a request asks for them.

        The chunks for which there was memory.
        """
        kept: list[tuple[Chunk, Tensor]] = []
        for chunk, part in zip(chunks, parts, strict=True):
            if self._scored(chunk, part):
                kept.append((chunk, part))
            else:
                self._fail(chunk.sequence)
        return [chunk for chunk, _ in kept], [part for _, part in kept]

    def _scored(self, chunk: Chunk, part: Tensor) -> bool:
        if not chunk.scored:
            return True
        try:
            score_prompt(chunk, part)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def _choose(self, chunks: Rows[Chunk], lasts: Rows[Tensor]) -> list[Chosen]:
        """A token for each chunk that ends with one."""
        sequences = [chunk.sequence for chunk in chunks if samples(chunk)]
        if not sequences:
            return []
        try:
            logits = _stacked(lasts)
            return choose(logits, [self._row(each) for each in sequences], self._banned(logits))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            for sequence in sequences:
                self._fail(sequence)
            return []

    def _banned(self, logits: Tensor) -> Tensor | None:
        """The tokens that are never sampled, on the device of ``logits``."""
        if self._nameless and self._never is None:
            self._never = torch.tensor(self._nameless, device=logits.device)
        return self._never

    def _row(self, sequence: Sequence) -> Row:
        early = sequence.answered < sequence.request.sampling.min_tokens
        return Row(
            sequence.choice,
            held_back=sequence.stops(self._ends) if early else frozenset(),
            mask=None if sequence.grammar is None else sequence.grammar.mask(),
        )

    def _advance(self, sequence: Sequence, answer: Chosen | None) -> Delta:
        """Take the chosen token into the sequence; what to tell the reader."""
        first = sequence.answered == 0
        if answer is None:
            return self._delta(sequence, None, "length", first=True)
        if answer.token in sequence.stops(self._ends):
            return self._delta(sequence, None, "stop", first=first)
        sequence.append(answer.token)
        self.scheduler.counters.generated_tokens += 1
        return self._delta(sequence, answer, sequence.finish_reason(self._context), first=first)

    def _delta(
        self,
        sequence: Sequence,
        answer: Chosen | None,
        reason: FinishReason | None,
        *,
        first: bool,
    ) -> Delta:
        if reason is not None:
            self.scheduler.remove(sequence)
            del self._by_id[sequence.request.id]
        asked = sequence.request.sampling
        scores = first and asked.prompt_logprobs is not None
        return Delta(
            tokens=() if answer is None else (answer.token,),
            logprobs=() if answer is None or answer.logprob is None else (answer.logprob,),
            prompt_logprobs=tuple(sequence.scores) if scores else None,
            finish_reason=reason,
            cached_tokens=(sequence.cached or 0) if first else 0,
            queued=(sequence.queued or 0.0) if first else 0.0,
        )


def _stacked(rows: Rows[Tensor]) -> Tensor:
    """Rows ``[1, vocab]`` as one matrix; without a copy where they are neighbours already."""
    first = rows[0]
    size = first.numel() * first.element_size()
    storage = first.untyped_storage().data_ptr()
    neighbours = all(
        row.data_ptr() == first.data_ptr() + index * size
        and row.untyped_storage().data_ptr() == storage
        for index, row in enumerate(rows)
    )
    if neighbours and first.is_contiguous():
        return first.as_strided((len(rows), first.shape[1]), (first.shape[1], 1))
    return torch.cat(list(rows))


def _piece(chunk: Chunk) -> Piece:
    sequence = chunk.sequence
    return Piece(
        chunk.tokens,
        sequence.computed,
        tuple(sequence.pages),
        wanted=chunk.wanted,
        prompt=max(0, min(chunk.count, sequence.prompt_length - sequence.computed)),
    )
