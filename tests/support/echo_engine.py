"""An engine without weights: it answers with the prompt's own tokens, in order, over and over.

For tests of the service: deterministic, as fast or slow as wanted, and it counts
what it holds, so that a leak shows. It cannot prove anything about models,
numbers, memory, batching or the cost of a token; those tests run on the real
engine with the demo model.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator

from llama_hub.errors import NotEnoughError, UsageError
from llama_hub.inference.engine import (
    Delta,
    EngineInfo,
    EngineStats,
    GenerationRequest,
    TokenLogprob,
)

EOS = 2
EMBEDDING_SIZE = 8


class EchoEngine:
    """``pace``: seconds per token; ``load``: an event that ``start`` waits for."""

    def __init__(
        self,
        *,
        vocab_size: int,
        context: int = 256,
        max_batch: int = 8,
        pace: float = 0.0,
        load: asyncio.Event | None = None,
        fail: Exception | None = None,
    ) -> None:
        self.info = EngineInfo(
            "echo", "cpu", "float32", None, context, vocab_size, max_batch,
            embedding_size=EMBEDDING_SIZE,
        )  # fmt: skip
        self.pace = pace
        self.load = load
        self.fail = fail
        self.gate: asyncio.Event | None = None  # if set, tokens after the first wait for it
        self.running: dict[str, GenerationRequest] = {}
        self.seen: list[GenerationRequest] = []
        self.aborted: set[str] = set()
        self.trouble: str | None = None
        self.down = False
        self._slots = asyncio.Semaphore(max_batch)
        self._waiting = 0
        self._prompt_tokens = self._generated = 0

    async def start(self) -> None:
        """Be ready at once, or when ``load`` is set, or never, with ``fail``."""
        if self.load is not None:
            await self.load.wait()
        if self.fail is not None:
            raise self.fail

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """The prompt without its BOS, repeated; it ends after ``max_tokens``."""
        if len(request.prompt) + request.sampling.max_tokens > self.info.context:
            raise UsageError("prompt and max_tokens do not fit the context")
        if request.id in self.running:
            raise NotEnoughError(f"the id {request.id} is in use")
        self.seen.append(request)
        self.running[request.id] = request
        self._waiting += 1
        try:
            async with self._slots:
                self._waiting -= 1
                if request.embedding:
                    yield await self._embedding(request)
                    return
                async for delta in self._answer(request):
                    yield delta
        finally:
            self.running.pop(request.id, None)

    async def _embedding(self, request: GenerationRequest) -> Delta:
        """The one of the axes that the prompt's last token names."""
        self._prompt_tokens += len(request.prompt)
        await asyncio.sleep(self.pace)
        if self.gate is not None:
            await self.gate.wait()
        if request.id in self.aborted:
            return Delta(finish_reason="abort")
        axis = request.prompt[-1] % EMBEDDING_SIZE
        numbers = [float(axis == each) for each in range(EMBEDDING_SIZE)]
        return Delta(finish_reason="stop", embedding=struct.pack(f"<{EMBEDDING_SIZE}f", *numbers))

    async def _answer(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        self._prompt_tokens += len(request.prompt)
        echo = [token for token in request.prompt if token != 1] or [EOS]
        sampling = request.sampling
        prompt_logprobs = None
        if sampling.prompt_logprobs is not None:
            scored = [self._scored(token, sampling.prompt_logprobs) for token in request.prompt]
            prompt_logprobs = (None, *scored[1:])
        for count in range(sampling.max_tokens):
            await asyncio.sleep(self.pace)
            if count and self.gate is not None:
                await self.gate.wait()
            if request.id in self.aborted:
                yield Delta(finish_reason="abort")
                return
            token = echo[(count + (sampling.seed or 0)) % len(echo)]
            if token == EOS and not sampling.ignore_eos:
                yield Delta(prompt_logprobs=prompt_logprobs, finish_reason="stop")
                return
            self._generated += 1
            last = count == sampling.max_tokens - 1
            wanted = sampling.logprobs
            yield Delta(
                (token,),
                () if wanted is None else (self._scored(token, wanted),),
                prompt_logprobs,
                "length" if last else None,
            )
            prompt_logprobs = None

    def _scored(self, token: int, alternatives: int) -> TokenLogprob:
        others = tuple(((token + k) % self.info.vocab_size, -0.5 - k) for k in range(alternatives))
        return TokenLogprob(token, -0.5, others)

    async def abort(self, request_id: str) -> None:
        """End the request at its next token."""
        self.aborted.add(request_id)

    def health(self) -> str | None:
        """What a test put into ``trouble``."""
        return self.trouble

    def stats(self) -> EngineStats:
        """Counts of what is held now and of what was made."""
        running = len(self.running) - self._waiting
        return EngineStats(
            running=running,
            waiting=self._waiting,
            kv_usage=running / self.info.max_batch,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated,
            prefix_queries=0,
            prefix_hits=0,
            preemptions=0,
            memory_bytes=0,
        )

    async def shutdown(self) -> None:
        """Remember that it was called."""
        self.down = True
