"""The scheduler: which tokens of which sequences the next step computes.

One rule for prompts and answers: a sequence has ``tokens``, of which
``computed`` are in the cache; each step gives every running sequence some of
the rest, within one budget. Sequences that decode (one token missing) come
first, so that a long prompt never holds up an answer; prompts get what is
left, in pieces, a part of it kept for short ones. Clients and their calls
have equal shares (``shares``). When the cache is full, the latest sequence of
whoever holds most gives its pages back and is computed again later: nothing
fails.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field, replace

from torch import Tensor

from llama_hub.inference.config import PAGE
from llama_hub.inference.engine import FinishReason, GenerationRequest, TokenLogprob
from llama_hub.inference.grammar import Grammar
from llama_hub.inference.kv_cache import PagePool, page_names
from llama_hub.inference.sampling import Choice
from llama_hub.inference.shares import Shares
from llama_hub.inference.speculation import PromptLookup, Speculation

KEPT = 0.25  # of a step's prompt tokens: for prompts that need no more than that


@dataclass(eq=False)
class Sequence:
    """One request on its way through the engine."""

    request: GenerationRequest
    grammar: Grammar | None = None
    tokens: list[int] = field(init=False)  # prompt and answer
    arrival: int = 0  # number in the order of arrival
    computed: int = 0  # tokens whose keys and values are in the cache
    pages: list[int] = field(default_factory=list)
    names: list[bytes] = field(default_factory=list)  # of the full pages
    scores: list[TokenLogprob | None] = field(default_factory=list)  # of the prompt, if asked for
    cached: int | None = None  # prompt tokens that the prefix cache supplied, once known
    hidden_sum: Tensor | None = None  # [dim], of the tokens computed, where a vector is wanted
    choice: Choice = field(init=False)
    submitted: float = field(default_factory=time.monotonic)
    queued: float | None = None  # seconds until it was first admitted
    held: bool = False  # its grammar was late: no step before it is ready
    lookup: PromptLookup = field(default_factory=PromptLookup)

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt)
        self.choice = Choice(self.request.sampling, Counter(self.request.prompt))

    @property
    def client(self) -> str:
        """Who asks."""
        return self.request.client

    @property
    def call(self) -> str:
        """In which call."""
        return self.request.call

    @property
    def prompt_length(self) -> int:
        """Tokens that the user gave."""
        return len(self.request.prompt)

    @property
    def answered(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.prompt_length

    @property
    def missing(self) -> int:
        """Tokens to compute before the next one can be chosen."""
        return len(self.tokens) - self.computed

    def append(self, token: int) -> None:
        """Add a token of the answer."""
        self.tokens.append(token)
        self.choice.accept(token)
        if self.grammar is not None:
            self.grammar.accept(token)

    def waits_for_grammar(self) -> bool:
        """Whether its grammar was late for a step and still is."""
        self.held = self.held and self.grammar is not None and not self.grammar.ready
        return self.held

    def finish_reason(self, context: int) -> FinishReason | None:
        """Whether the answer, as it is now, is complete."""
        if self.grammar is not None and self.grammar.finished:
            return "stop"
        full = self.answered >= self.request.sampling.max_tokens or len(self.tokens) >= context
        return "length" if full else None

    def stops(self, ends: frozenset[int]) -> frozenset[int]:
        """Tokens that end the answer; ``ends``: the model's own."""
        params = self.request.sampling
        return params.stop_token_ids | (frozenset() if params.ignore_eos else ends)


@dataclass(frozen=True)
class Chunk:
    """A sequence's share of a step: ``count`` tokens after those computed."""

    sequence: Sequence
    count: int
    draft: tuple[int, ...] = ()  # guessed tokens after them, computed as well

    @property
    def scored(self) -> bool:
        """Whether the log-probabilities of prompt tokens are to be taken from it."""
        sequence = self.sequence
        asked = sequence.request.sampling.prompt_logprobs is not None
        return asked and len(sequence.scores) < sequence.prompt_length

    @property
    def wanted(self) -> int:
        """How many of its rows need logits, or hidden states."""
        if self.scored or self.sequence.request.embedding:
            return self.count
        return int(self.last) + len(self.draft)

    @property
    def tokens(self) -> tuple[int, ...]:
        """The ids to compute."""
        start = self.sequence.computed
        return (*self.sequence.tokens[start : start + self.count], *self.draft)

    @property
    def last(self) -> bool:
        """Whether the step computes everything that is missing, so that a token follows."""
        return self.count == self.sequence.missing


@dataclass
class Counters:
    """Totals since start."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0


class Scheduler:
    """Queue, running set and pages; not thread-safe (only the engine's thread uses it)."""

    def __init__(
        self,
        pool: PagePool,
        *,
        max_batch: int,
        step_tokens: int,
        prefix_caching: bool,
        speculation: Speculation | None = None,
    ) -> None:
        self.pool = pool
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []  # in order of arrival
        self.counters = Counters()
        self._shares = Shares()
        self._arrivals = 0
        self._max_batch = max_batch
        self._step_tokens = step_tokens
        self._prefix_caching = prefix_caching
        self.speculation = speculation or Speculation(0, 0)

    def add(self, sequence: Sequence) -> None:
        """Let a new sequence wait for its turn."""
        self._arrivals += 1
        sequence.arrival = self._arrivals
        self._shares.arrive(sequence)
        self.waiting.append(sequence)

    def step(self) -> list[Chunk]:
        """The next step's chunks; empty if there is nothing to do. Allocates their pages."""
        chunks: list[Chunk] = []
        while self._admit():
            pass
        ready = [each for each in self.running if not each.waits_for_grammar()]
        self._give([each for each in ready if each.missing == 1], chunks)
        prompts = [each for each in ready if each.missing > 1 and each in self.running]
        self._give(self._in_turn(prompts, chunks), chunks)
        return chunks if prompts or not self.speculation.most else self._guess(chunks)

    def _guess(self, chunks: list[Chunk]) -> list[Chunk]:
        """The same chunks of answers with guesses, as far as few rows and free pages go."""
        if not chunks:
            return chunks
        rows = min(self.speculation.rows, self._step_tokens)
        most = min(self.speculation.most, rows // len(chunks) - 1)
        return [self._guessed(chunk, most) for chunk in chunks]

    def _guessed(self, chunk: Chunk, most: int) -> Chunk:
        sequence = chunk.sequence
        if sequence.grammar is not None or not sequence.answered:
            return chunk
        # The step gives one token more than are right, and no row lies beyond the context.
        left = sequence.request.sampling.max_tokens - sequence.answered - 1
        left = min(left, self.speculation.context - len(sequence.tokens))
        draft = sequence.lookup.propose(sequence.tokens, min(most, left))
        growth = self._growth(sequence, chunk.count + len(draft))
        if not draft or growth > self.pool.free:
            return chunk
        self._grow(sequence, chunk.count + len(draft))
        return replace(chunk, draft=draft)

    def _give(self, sequences: list[Sequence], chunks: list[Chunk]) -> None:
        """Add to ``chunks`` what the step's budget has left for ``sequences``, in their order."""
        budget = self._step_tokens - sum(chunk.count for chunk in chunks)
        for sequence in sequences:
            count = min(sequence.missing, budget)
            if count and self._make_room(sequence, count, chunks):
                chunks.append(Chunk(sequence, count))
                budget -= count

    def _in_turn(self, prompts: list[Sequence], chunks: list[Chunk]) -> list[Sequence]:
        """``prompts`` in the order in which they get parts of what ``chunks`` leave of the step.

        If it is not enough for all, short prompts have ``KEPT`` of it; of the others the first of
        each client comes before the second of any.
        """
        budget = self._step_tokens - len(chunks)
        if sum(each.missing for each in prompts) <= budget:
            return prompts
        kept = int(budget * KEPT)
        short: list[Sequence] = []
        for sequence in sorted(prompts, key=lambda each: each.missing):
            if sequence.missing > kept:
                break
            kept -= sequence.missing
            short.append(sequence)
        ahead = self._shares.without_places()
        for chunk in chunks:
            ahead.take(chunk.sequence)
        turns: dict[int, tuple[int, ...]] = {}
        for sequence in prompts:
            turns[id(sequence)] = ahead.turn(sequence)
            ahead.take(sequence)
        rest = [each for each in prompts if each not in short]
        return short + sorted(rest, key=lambda each: turns[id(each)])

    def computed(self, chunk: Chunk) -> None:
        """Record that a chunk is in the cache; names the pages that it filled."""
        sequence = chunk.sequence
        sequence.computed += chunk.count
        self._shares.serve(sequence, chunk.count)
        known = len(sequence.names)
        if not self._shares_pages(sequence) or sequence.computed < (known + 1) * PAGE:
            return
        sequence.names = page_names(sequence.tokens[: sequence.computed], known=sequence.names)
        for index in range(known, len(sequence.names)):
            self.pool.name(sequence.pages[index], sequence.names[index])

    def remove(self, sequence: Sequence) -> None:
        """Forget a finished or aborted sequence and free its pages."""
        if sequence in self.running:
            self._stop(sequence)
        else:
            self.waiting.remove(sequence)
        self._shares.leave(sequence)

    def all(self) -> list[Sequence]:
        """Every sequence that is not finished."""
        return [*self.running, *self.waiting]

    def _admit(self) -> bool:
        """Move who is next to the running set, with the pages it finds in the cache.

        False if nobody waits or there is no room. Who holds more gives way, if that is enough.
        """
        if not self.waiting:
            return False
        sequence = min(self.waiting, key=self._shares.turn)
        cached = self._look_up(sequence)
        yielding = self._yielding(sequence, cached)
        if yielding is None:
            return False
        for each in yielding:
            self._preempt(each)
        self.pool.share(cached)
        self.waiting.remove(sequence)
        self._start(sequence, cached)
        return True

    def _yielding(self, sequence: Sequence, found: list[int]) -> list[Sequence] | None:
        """Who gives way so that ``sequence`` fits, mostly nobody; ``None`` if it does not fit."""
        needed = self._pages_for(len(sequence.tokens)) - len(found)
        left, shares = list(self.running), self._shares.copy()
        yielding: list[Sequence] = []
        freed: set[int] = set()
        while True:
            held = sum(1 for page in found if self.pool.is_free(page) or page in freed)
            promised = sum(self._growth(each, each.missing) for each in left)
            enough = needed + held + promised <= self.pool.free + len(freed)
            if enough and len(left) < min(self._max_batch, self._step_tokens):
                return yielding
            richer = [each for each in left if shares.yields(each, sequence)]
            if not richer:
                return None
            yielding.append(max(richer, key=shares.wealth))
            left.remove(yielding[-1])
            shares.give_back(yielding[-1])
            freed |= {page for page in yielding[-1].pages if self.pool.is_sole(page)}

    def _start(self, sequence: Sequence, found: list[int]) -> None:
        sequence.pages = found
        sequence.computed = len(found) * PAGE
        if sequence.cached is None:
            sequence.queued = time.monotonic() - sequence.submitted
            sequence.cached = sequence.computed
            self.counters.prefix_queries += sequence.prompt_length
            self.counters.prefix_hits += sequence.computed
            self.counters.prompt_tokens += sequence.prompt_length
        self._shares.take(sequence)
        self.running.append(sequence)
        self.running.sort(key=lambda each: each.arrival)

    def _look_up(self, sequence: Sequence) -> list[int]:
        """Cached pages of the sequence's beginning; at least one token is left to compute."""
        asks_of_all = sequence.request.sampling.prompt_logprobs is not None
        if asks_of_all or not self._shares_pages(sequence):
            return []
        names = page_names(sequence.tokens[: len(sequence.tokens) - 1])
        cached = self.pool.find(names)
        sequence.names = names[: len(cached)]
        return cached

    def _shares_pages(self, sequence: Sequence) -> bool:
        """Whether its pages are found and named. Those of a text that becomes a vector are not:
        all of it has to be computed, and nobody will continue it."""
        return self._prefix_caching and not sequence.request.embedding

    def _make_room(self, sequence: Sequence, count: int, chunks: list[Chunk]) -> bool:
        """Pages for ``count`` more tokens, taken from who holds most if need be.

        False if the sequence itself had to give way.
        """
        if sequence not in self.running:
            return False
        while self._growth(sequence, count) > self.pool.free:
            victim = self._victim(chunks)
            self._preempt(victim)
            if victim is sequence:
                return False
        self._grow(sequence, count)
        return True

    def _victim(self, chunks: list[Chunk]) -> Sequence:
        """The latest of who holds most, if it is not part of the step already.

        The oldest of all is never it while another is left, so something always ends.
        """
        busy = {id(chunk.sequence) for chunk in chunks}
        idle = (each for each in self.running if id(each) not in busy)
        return max(idle, key=self._shares.wealth)

    def _preempt(self, sequence: Sequence) -> None:
        self._stop(sequence)
        if len(sequence.scores) < sequence.prompt_length:
            sequence.scores.clear()  # the prompt is read again from its beginning
        sequence.hidden_sum = None
        self.waiting.append(sequence)
        self.counters.preemptions += 1

    def _stop(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._shares.give_back(sequence)
        self.pool.release(sequence.pages)
        sequence.pages, sequence.names, sequence.computed = [], [], 0

    def _grow(self, sequence: Sequence, count: int) -> None:
        needed = self._growth(sequence, count)
        if needed > 0:
            sequence.pages += self.pool.allocate(needed)

    def _growth(self, sequence: Sequence, count: int) -> int:
        """How many pages more ``count`` tokens more need."""
        return max(0, self._pages_for(sequence.computed + count) - len(sequence.pages))

    @staticmethod
    def _pages_for(tokens: int) -> int:
        return -(-tokens // PAGE)
