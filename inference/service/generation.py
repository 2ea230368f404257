"""Generation from prompts to text: all that lies between reading a body and writing an answer.

A route makes ``Ask``s; ``pieces`` runs their sequences on the engine and yields
text as it becomes certain: incomplete UTF-8 and what may be the beginning of a
stop string are held back. Closing the iterator frees everything it held.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from llama_hub.inference.engine import Delta, GenerationRequest, SamplingParams, TokenLogprob
from llama_hub.inference.service.client import CLIENT
from llama_hub.inference.service.metrics import Course
from llama_hub.inference.service.moderation import PROMPT, JudgedPrompt, Passage, last_sentence_end
from llama_hub.inference.service.problems import Problem, invalid, unavailable
from llama_hub.inference.service.state import Service, refuse_prompt
from llama_hub.inference.service.text_stream import Piece, Writer
from llama_hub.inference.tokenizer import Detokenizer

T = TypeVar("T")
MAX_LOGPROBS = 1 << 21  # log-probabilities in one request, alternatives included


@dataclass(frozen=True)
class Ask:
    """One prompt and how to continue it, ``n`` times."""

    prompt: tuple[int, ...]
    sampling: SamplingParams
    stops: tuple[str, ...] = ()
    n: int = 1
    best_of: int = 1  # sequences that run; the n likeliest are answered
    fresh: bool = False  # the answer is a text of its own, not the prompt's continuation


@dataclass
class Answer:
    """All pieces of one answer."""

    text: str = ""
    tokens: list[TokenLogprob] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    generated: int = 0
    finish: str | None = None
    stopped_by: str | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    cached: int = 0

    def add(self, piece: Piece) -> None:
        """Append ``piece``."""
        self.text += piece.text
        self.tokens += piece.tokens
        self.offsets += piece.offsets
        self.generated = piece.generated
        self.finish = piece.finish or self.finish
        self.stopped_by = piece.stopped_by or self.stopped_by
        self.prompt_logprobs = piece.prompt_logprobs or self.prompt_logprobs
        self.cached += piece.cached

    @property
    def mean_logprob(self) -> float:
        """Mean natural-log probability per token; what ``best_of`` ranks by."""
        if not self.tokens:
            return float("-inf")
        return sum(token.logprob for token in self.tokens) / len(self.tokens)


async def pieces(
    service: Service, asks: Sequence[Ask], request_id: str
) -> AsyncGenerator[Piece, None]:
    """Run all sequences of ``asks`` and yield what each step adds to any of them.

    Raises ``Problem``: 429 and 503 where there is no room, 504 when the request's time is up.
    """
    _check_logprobs(asks)
    sequences = [
        _sequence(service, ask, number * ask.n + copy, copy, request_id)
        for number, ask in enumerate(asks)
        for copy in range(ask.n)
    ]
    deadline = asyncio.get_running_loop().time() + service.settings.request_timeout
    with service.admission.admit(len(sequences)), _judging_ends():
        source = sequences[0] if len(sequences) == 1 else _merged(sequences)
        async with aclosing(source):
            while True:
                try:
                    piece = await before(deadline, anext(source))
                except StopAsyncIteration:
                    return
                yield piece


@contextmanager
def _judging_ends() -> Iterator[None]:
    """A verdict on the prompt that nobody waits for any more is not worth its call."""
    prompt = PROMPT.get()
    try:
        yield
    finally:
        if prompt is not None and prompt.verdict is not None:
            prompt.verdict.cancel()


def _check_logprobs(asks: Sequence[Ask]) -> None:
    """400 if the log-probabilities that were asked for would fill the memory."""
    count = 0
    for ask in asks:
        chosen, read = ask.sampling.logprobs, ask.sampling.prompt_logprobs
        count += 0 if chosen is None else ask.n * ask.sampling.max_tokens * (chosen + 1)
        count += 0 if read is None else ask.n * len(ask.prompt) * (read + 1)
    if count > MAX_LOGPROBS:
        raise invalid(
            f"the answers could have {count} log-probabilities; at most {MAX_LOGPROBS} in one "
            "request: set max_tokens, or ask for fewer answers or alternatives",
            "logprobs",
        )


async def answers(service: Service, asks: Sequence[Ask], request_id: str) -> list[Answer]:
    """Run ``asks`` to their ends: ``n`` answers for each, in order, the likeliest first."""
    wide = [dataclasses.replace(_with_logprobs(ask), n=max(ask.n, ask.best_of)) for ask in asks]
    gathered = [Answer() for ask in wide for _ in range(ask.n)]
    async with aclosing(pieces(service, wide, request_id)) as stream:
        async for piece in stream:
            gathered[piece.index].add(piece)
    likeliest: list[Answer] = []
    for ask in asks:
        width = max(ask.n, ask.best_of)
        group, gathered = gathered[:width], gathered[width:]
        if width > ask.n:
            group.sort(key=lambda answer: answer.mean_logprob, reverse=True)
        likeliest += group[: ask.n]
    return likeliest


def _with_logprobs(ask: Ask) -> Ask:
    if ask.best_of <= ask.n or ask.sampling.logprobs is not None:
        return ask
    return dataclasses.replace(ask, sampling=dataclasses.replace(ask.sampling, logprobs=0))


async def before(deadline: float, awaitable: Awaitable[T]) -> T:
    """``awaitable``'s result; ``Problem`` 504 if it comes after ``deadline`` (loop time)."""
    try:
        async with asyncio.timeout_at(deadline):
            return await awaitable
    except TimeoutError:
        raise Problem(
            504, "the request took longer than this server allows", kind="timeout", code="timeout"
        ) from None


async def _merged(
    sequences: Sequence[AsyncGenerator[Piece, None]],
) -> AsyncGenerator[Piece, None]:
    """The pieces of several sequences as they come; the first error ends them all."""
    queue: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()

    async def pump(sequence: AsyncGenerator[Piece, None]) -> None:
        try:
            async with aclosing(sequence):
                async for piece in sequence:
                    queue.put_nowait(piece)
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    tasks = [asyncio.create_task(pump(sequence)) for sequence in sequences]
    try:
        left = len(tasks)
        while left:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _sequence(
    service: Service, ask: Ask, index: int, copy: int, call: str
) -> AsyncGenerator[Piece, None]:
    """One sequence's pieces, measured and, where hooks are installed, moderated."""
    course = Course(len(ask.prompt), ask.sampling.max_tokens, ask.n)
    request_id, sampling = f"{call}-{index}", _seeded(ask.sampling, copy)
    request = GenerationRequest(request_id, ask.prompt, sampling, client=CLIENT.get(), call=call)
    deltas = service.engine.generate(request)
    text = _text(service, ask, index, _timed(service, deltas, course))
    if service.settings.moderators:
        text = _moderated(service, text, index, request_id)
    end = "abort"
    service.active.add(request_id)
    try:
        async with aclosing(deltas), aclosing(text):
            async for piece in text:
                end = piece.finish or end
                yield piece
    finally:
        service.active.discard(request_id)
        service.metrics.finished(end, course)


def _seeded(sampling: SamplingParams, copy: int) -> SamplingParams:
    """Copies of one request differ, in a reproducible way where a seed was given."""
    if sampling.seed is None or copy == 0:
        return sampling
    return dataclasses.replace(sampling, seed=(sampling.seed + copy) & (2**63 - 1))


async def _timed(
    service: Service, deltas: AsyncGenerator[Delta, None], course: Course
) -> AsyncGenerator[Delta, None]:
    """Pass deltas on and record when they came."""
    last = course.begun
    async with aclosing(deltas):
        async for delta in deltas:
            course.queued += delta.queued
            if delta.tokens:
                now = time.monotonic()
                service.metrics.step(now - last, len(delta.tokens), first=course.first is None)
                course.generated += len(delta.tokens)
                course.first = course.first or now
                last = now
            yield delta


async def _text(
    service: Service, ask: Ask, index: int, deltas: AsyncGenerator[Delta, None]
) -> AsyncGenerator[Piece, None]:
    """Turn one sequence's tokens into text, up to the first stop string."""
    writer = Writer(Detokenizer(service.tokenizer, continuation=not ask.fresh), ask.stops, index)
    async with aclosing(deltas):
        async for delta in deltas:
            if delta.finish_reason == "abort":
                raise unavailable("the answer was cut off: the server is shutting down")
            piece = writer.write(delta)
            yield piece
            if piece.finish:
                return


async def _moderated(
    service: Service, source: AsyncIterator[Piece], index: int, request_id: str
) -> AsyncGenerator[Piece, None]:
    """Hold pieces back until the hooks have seen the sentence that they belong to.

    In parallel mode nothing leaves before the prompt has passed: else it is refused as it would
    have been before generation, and generation ends.
    """
    prompt = PROMPT.get() or JudgedPrompt("")
    held: list[Piece] = []
    text, shown, judged = "", 0, 0
    async for piece in source:
        held.append(piece)
        text += piece.text
        if prompt.verdict is not None and prompt.verdict.done():
            refuse_prompt(prompt.verdict.result())
        end = len(text) if piece.finish else last_sentence_end(text)
        if end <= shown and not piece.finish:
            continue
        if prompt.verdict is not None:
            refuse_prompt(await asyncio.shield(prompt.verdict))
        passage = Passage("output", text[:end], request_id, prompt.text, judged)
        if await service.judge(passage) is not None:
            yield Piece(index, generated=piece.generated, finish="content_filter")
            return
        judged = end
        ready = held if piece.finish else _within(held, end - shown)
        if ready:
            yield _joined(ready)
        held = held[len(ready) :]
        shown += sum(len(part.text) for part in ready)


def _within(held: Sequence[Piece], length: int) -> list[Piece]:
    """The first pieces of ``held`` that have at most ``length`` characters together."""
    ready: list[Piece] = []
    for piece in held:
        length -= len(piece.text)
        if length < 0:
            break
        ready.append(piece)
    return ready


def _joined(parts: Sequence[Piece]) -> Piece:
    return dataclasses.replace(
        parts[-1],
        text="".join(part.text for part in parts),
        tokens=tuple(token for part in parts for token in part.tokens),
        offsets=tuple(offset for part in parts for offset in part.offsets),
        prompt_logprobs=next((p.prompt_logprobs for p in parts if p.prompt_logprobs), None),
        cached=sum(part.cached for part in parts),
    )
