"""Structured output: which tokens a JSON schema allows next (through llguidance).

Nothing here makes others wait. A schema is tried in a process that can be ended
(``schema_trial``), then compiled on a thread; masks are computed on threads too, while the model
computes the next logits. A sequence whose mask is late sits out a step; one whose masks take too
much altogether ends with an error of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, local
from typing import Any

import torch
from torch import Tensor

from llama_hub.errors import NotEnoughError
from llama_hub.inference.schema_compiler import SchemaCompiler
from llama_hub.inference.schema_limits import SchemaError
from llama_hub.inference.schema_trial import Trial
from llama_hub.inference.tokenizer import open_tokenizer

COMPILERS = 2  # schemas that are compiled at once
WAITING = 32  # schemas that may wait for that
REMEMBERED = 32  # schemas kept compiled, or known not to be usable
REMEMBERED_BYTES = 256 << 20  # that they take together
MASK_THREADS = 2
ALLOWANCE = 1.0  # seconds of a core that an answer's masks may take, and besides
PER_TOKEN = 0.01  # seconds of a core for each of its tokens


@dataclass(frozen=True)
class Compiled:
    """A compiled schema."""

    matcher: Any  # llguidance's; copied for each answer
    bytes: int  # that it takes, about


class Grammar:
    """The state of one answer under a schema; ``mask`` is computed ahead on a thread."""

    def __init__(self, compiled: Any, vocab_size: int, threads: ThreadPoolExecutor) -> None:
        self._compiled = compiled  # shared; copied when the first mask is wanted
        self._matcher: Any = None
        self._vocab_size = vocab_size
        self._threads = threads
        self._next: Future[Tensor] | None = None
        self._seconds = 0.0  # of a core, for all masks so far
        self._tokens = 0
        self._finished = False

    @property
    def finished(self) -> bool:
        """Whether nothing but the end may follow."""
        return self._finished

    @property
    def ready(self) -> bool:
        """Whether ``mask`` has its answer, or its error; asking has it computed."""
        return self._ahead().done()

    def wait(self, seconds: float) -> bool:
        """Whether the mask is ready, at most ``seconds`` from now."""
        wait_for([self._ahead()], timeout=max(0.0, seconds))
        return self.ready

    def failure(self) -> BaseException | None:
        """Why the answer cannot be followed further; ``None`` while it can. Once ``ready``."""
        return self._ahead().exception()

    def accept(self, token: int) -> None:
        """Advance by a token that the mask allowed, and begin with the next mask."""
        self._matcher.consume_token(token)  # its failure is the next mask's
        self._finished = self._matcher.is_stopped() and not self._matcher.is_error()
        self._tokens += 1
        self._next = None
        if not self._finished:
            self._ahead()

    def mask(self) -> Tensor:
        """Bool ``[vocab_size]``: True where a token may follow; EOS included once complete.

        ``SchemaError`` where there is a ``failure``.
        """
        return self._ahead().result()

    def _ahead(self) -> Future[Tensor]:
        if self._next is None:
            self._next = self._threads.submit(self._compute)
        return self._next

    def _compute(self) -> Tensor:
        begun = time.thread_time()
        if self._matcher is None:
            self._matcher = self._compiled.deep_copy()
        packed = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        if self._matcher.is_error():
            raise SchemaError("the answer became too complex to be followed under it")
        self._seconds += time.thread_time() - begun
        if self._seconds > ALLOWANCE + PER_TOKEN * self._tokens:
            raise SchemaError("following it takes too much time")
        return _unpacked(packed, self._vocab_size)


def _unpacked(packed: Tensor, vocab_size: int) -> Tensor:
    bits = (packed.unsqueeze(1) >> torch.arange(8, dtype=torch.uint8)) & 1
    mask = torch.zeros(vocab_size, dtype=torch.bool)
    known = bits.flatten()[:vocab_size].bool()
    mask[: known.numel()] = known
    return mask


class GrammarCompiler:
    """Turns JSON schemas into grammars over one tokenizer's vocabulary; used on the event loop."""

    def __init__(self, tokenizer: Path, vocab_size: int) -> None:
        """``tokenizer``: the model's folder, which is read when the first schema comes."""
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._compiler: SchemaCompiler | None = None
        self._making = Lock()
        self._local = local()  # each compiling thread's own trial process
        self._trials: list[Trial] = []
        self._compilers = ThreadPoolExecutor(COMPILERS, "llama-hub-schema")
        self._masks = ThreadPoolExecutor(MASK_THREADS, "llama-hub-mask")
        self._known: OrderedDict[str, Future[Compiled]] = OrderedDict()

    async def compile(self, schema: str) -> Grammar:
        """A fresh state for ``schema`` (JSON text).

        ``SchemaError`` if it is not supported or asks for too much, ``NotEnoughError`` if too many
        others wait to be compiled. ``RuntimeError`` if the engine is shut down meanwhile.
        """
        compilation = self._compilation(schema)
        try:
            # Others may wait for the same: who leaves must not end it.
            compiled = await asyncio.shield(asyncio.wrap_future(compilation))
        except SchemaError as error:
            raise SchemaError(error.reason, error.path) from None
        except asyncio.CancelledError:
            if compilation.cancelled():
                raise RuntimeError("the engine was shut down") from None
            raise
        self._forget()  # its size is known now
        return Grammar(compiled.matcher, self._vocab_size, self._masks)

    def close(self) -> None:
        """End threads and processes; what still waits fails. Takes as long as a compilation."""
        for trial in self._trials:
            trial.stop()
        for threads in (self._compilers, self._masks):
            threads.shutdown(cancel_futures=True)
        for trial in self._trials:
            trial.close()

    def _compilation(self, schema: str) -> Future[Compiled]:
        """The one compilation of ``schema``: past, under way or begun now."""
        known = self._known.get(schema)
        if known is None or (known.done() and not _lasting(known)):
            if sum(not each.done() for each in self._known.values()) >= WAITING:
                raise NotEnoughError("too many JSON schemas wait to be compiled")
            known = self._known[schema] = self._compilers.submit(self._compile, schema)
        self._known.move_to_end(schema)
        self._forget()
        return known

    def _forget(self) -> None:
        """Drop what was not used for longest, except what is still being compiled."""
        for schema, compilation in list(self._known.items())[:-1]:
            sizes = [_size(each) for each in self._known.values()]
            if len(sizes) <= REMEMBERED and sum(sizes) <= REMEMBERED_BYTES:
                return
            if compilation.done():
                del self._known[schema]

    def _compile(self, schema: str) -> Compiled:
        """On a thread of its own: try elsewhere, then compile here."""
        if not hasattr(self._local, "trial"):
            self._local.trial = Trial(self._tokenizer)
            self._trials.append(self._local.trial)
        size = self._local.trial.check(schema)
        with self._making:
            if self._compiler is None:
                self._compiler = SchemaCompiler(open_tokenizer(self._tokenizer))
        return Compiled(self._compiler.compile(schema), size)


def _size(compilation: Future[Compiled]) -> int:
    """Bytes of what was compiled; 0 for what was not, or not yet."""
    if not compilation.done() or not _lasting(compilation) or compilation.exception():
        return 0
    return compilation.result().bytes


def _lasting(compilation: Future[Compiled]) -> bool:
    """Whether the result would be the same another time."""
    error = None if compilation.cancelled() else compilation.exception()
    return not compilation.cancelled() and (error is None or isinstance(error, SchemaError))
