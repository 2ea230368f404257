"""The default engine: our own model on torch, CPU or CUDA, one or several devices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

from llama_hub.errors import NotEnoughError, UsageError
from llama_hub.inference import requests
from llama_hub.inference.config import SPECULATE, SPECULATIVE_ROWS, EngineOptions
from llama_hub.inference.engine import (
    Delta,
    EngineInfo,
    EngineStats,
    GenerationRequest,
)
from llama_hub.inference.executor import Executor
from llama_hub.inference.grammar import Grammar, GrammarCompiler
from llama_hub.inference.kv_cache import PagePool
from llama_hub.inference.loading import Plan, load_shard, make_plan, warm_up
from llama_hub.inference.scheduler import Scheduler, Sequence
from llama_hub.inference.speculation import Speculation
from llama_hub.inference.worker import Event, Worker


@dataclass(frozen=True)
class Loaded:
    """A model that is ready, and what the engine says of it."""

    executor: Executor
    info: EngineInfo
    plan: Plan
    memory_bytes: int
    pages: int  # of the KV cache


class TorchEngine:
    """Serves one Hugging Face folder; see ``engine.Engine`` for the methods' contract."""

    def __init__(self, folder: Path, options: EngineOptions | None = None) -> None:
        self._folder = folder
        self._options = options or EngineOptions()
        self._streams: dict[str, asyncio.Queue[Delta | BaseException]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loaded: Loaded | None = None
        self._worker: Worker | None = None
        self._grammars: GrammarCompiler | None = None
        self._closed = False

    @property
    def info(self) -> EngineInfo:
        return self._ready()[0].info

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loaded = await asyncio.to_thread(_load, self._folder, self._options)
        scheduler = Scheduler(
            PagePool(self._loaded.pages),
            max_batch=self._options.max_batch,
            step_tokens=self._loaded.plan.step_tokens,
            prefix_caching=self._options.prefix_caching,
            speculation=self._speculation(self._loaded),
        )
        self._worker = Worker(
            self._loaded.executor,
            scheduler,
            self._deliver_soon,
            ends=self._loaded.plan.ends,
            nameless=self._loaded.plan.nameless,
            context=self._loaded.info.context,
        )
        self._worker.start()

    def _speculation(self, loaded: Loaded) -> Speculation:
        """By default where a row's result does not depend on how many there are."""
        context = loaded.info.context
        if self._options.speculate is not None:
            most = self._options.speculate
            return Speculation(most, max(SPECULATIVE_ROWS, most + 1), context)
        native = loaded.info.step_modes.get("all", "").startswith("native")
        most = SPECULATE if native and loaded.plan.processes == 1 else 0
        return Speculation(most, SPECULATIVE_ROWS, context)

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """See ``Engine``.

        ``UsageError`` for an id that runs already, ``NotEnoughError`` if the queue is full.
        """
        loaded, _ = self._ready()
        requests.check(request, loaded.info)
        if request.id in self._streams:
            raise UsageError(f"a request with the id {request.id!r} is running already")
        if len(self._streams) >= self._options.max_batch + self._options.max_queue:
            raise NotEnoughError(
                f"the queue is full: {self._options.max_queue} requests are waiting",
                hint="try again later, or start the service with a larger queue",
            )
        return self._stream(request)

    async def _stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        _, worker = self._ready()
        inbox: asyncio.Queue[Delta | BaseException] = asyncio.Queue()
        self._streams[request.id] = inbox
        finished = False
        try:
            grammar = await self._grammar(request)
            if inbox.empty():  # not aborted meanwhile
                worker.submit(Sequence(request, grammar))
            if worker.ended:
                raise worker.failure or RuntimeError("the engine was shut down")
            while not finished:
                event = await inbox.get()
                finished = isinstance(event, BaseException) or event.finish_reason is not None
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            self._streams.pop(request.id, None)
            if not finished:
                worker.abort(request.id)

    async def abort(self, request_id: str) -> None:
        inbox = self._streams.get(request_id)
        if inbox is not None and self._worker is not None:
            self._worker.abort(request_id)
            inbox.put_nowait(Delta(finish_reason="abort"))

    def health(self) -> str | None:
        if self._worker is None:
            return "the engine has not been started"
        if self._worker.failure is not None:
            return f"the engine failed: {self._worker.failure!r}"
        return None if self._worker.is_alive() else "the engine was shut down"

    def stats(self) -> EngineStats:
        loaded, worker = self._ready()
        scheduler, counters = worker.scheduler, worker.scheduler.counters
        return EngineStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            kv_usage=scheduler.pool.usage,
            prompt_tokens=counters.prompt_tokens,
            generated_tokens=counters.generated_tokens,
            prefix_queries=counters.prefix_queries,
            prefix_hits=counters.prefix_hits,
            preemptions=counters.preemptions,
            memory_bytes=loaded.memory_bytes,
            drafts=scheduler.speculation.drafts,
            draft_tokens=scheduler.speculation.proposed,
            accepted_tokens=tuple(scheduler.speculation.accepted),
        )

    async def shutdown(self) -> None:
        worker, loaded = self._worker, self._loaded
        if worker is None or loaded is None or self._closed:
            return
        self._closed = True
        await asyncio.to_thread(worker.stop)
        if self._grammars is not None:
            await asyncio.to_thread(self._grammars.close)
        loaded.executor.close()  # also after a failure: other processes may hold parts

    def _ready(self) -> tuple[Loaded, Worker]:
        if self._loaded is None or self._worker is None:
            raise UsageError("the engine has not been started")
        return self._loaded, self._worker

    async def _grammar(self, request: GenerationRequest) -> Grammar | None:
        schema = request.sampling.grammar
        if schema is None:
            return None
        if self._grammars is None:
            self._grammars = GrammarCompiler(self._folder, self.info.vocab_size)
        return await self._grammars.compile(schema)

    def _deliver_soon(self, events: list[Event]) -> None:
        """From the engine's thread to the loop, one call for a whole step."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, events)

    def _deliver(self, events: list[Event]) -> None:
        for request_id, event in events:
            inbox = self._streams.get(request_id)
            if inbox is not None:
                inbox.put_nowait(event)


def _load(folder: Path, options: EngineOptions) -> Loaded:
    plan = make_plan(folder, options)
    executor: Executor
    if plan.processes == 1:
        shard = load_shard(plan)
        executor = shard.executor
    else:
        from llama_hub.inference import parallel

        executor, shard = parallel.start(plan, options)
    warm_up(executor)
    info = EngineInfo(
        engine="torch",
        device=_device_name(plan),
        dtype=plan.fit.dtype,
        quantization=plan.quantization,
        context=plan.context,
        vocab_size=plan.architecture.vocab_size,
        max_batch=options.max_batch,
        embedding_size=plan.architecture.dim,
        step_modes=shard.modes,
    )
    return Loaded(executor, info, plan, shard.bytes * plan.processes, shard.pages)


def _device_name(plan: Plan) -> str:
    if plan.device.type == "cpu" or plan.processes == 1:
        return str(plan.device)
    first = plan.device.index or 0
    return f"cuda:{first}-{first + plan.processes - 1}"
