"""Perplexity of a model on a text: how much a change of the weights costs, in one number."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llama_hub.errors import UsageError
from llama_hub.inference.config import EngineOptions
from llama_hub.inference.engine import Engine, GenerationRequest, SamplingParams
from llama_hub.inference.tokenizer import tokenizer_of
from llama_hub.inference.torch_engine import TorchEngine
from llama_hub.progress import NO_PROGRESS, Progress

WINDOW = 512  # tokens that see one another; the usual choice, so numbers can be compared


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log-likelihood of the tokens."""

    value: float
    tokens: int  # that were predicted


def measure(
    folder: Path,
    text: str,
    *,
    options: EngineOptions | None = None,
    progress: Progress = NO_PROGRESS,
    task: str = "perplexity",
) -> Perplexity:
    """Perplexity of the Hugging Face folder's model on ``text``, in windows that begin with BOS.

    ``UsageError`` for an empty text.
    """
    tokenizer = tokenizer_of(folder)
    tokens = tokenizer.encode(text)
    if not tokens:
        raise UsageError("the text is empty, so it has no perplexity")
    return asyncio.run(_measure(folder, tokens, tokenizer.bos_id, options, progress, task))


async def _measure(
    folder: Path,
    tokens: Sequence[int],
    bos: int,
    options: EngineOptions | None,
    progress: Progress,
    task: str,
) -> Perplexity:
    engine = TorchEngine(folder, options)
    await engine.start()
    try:
        size = min(WINDOW, engine.info.context) - 2  # BOS, and the one token that is generated
        progress.start(task, len(tokens), unit="tokens")
        total = 0.0
        for number, window in enumerate(windows(tokens, size)):
            total += await _log_likelihood(engine, f"window-{number}", (bos, *window))
            progress.advance(task, len(window))
        progress.finish(task)
    finally:
        await engine.shutdown()
    return Perplexity(math.exp(-total / len(tokens)), len(tokens))


def windows(tokens: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """The tokens in order, ``size`` at a time."""
    return (tokens[start : start + size] for start in range(0, len(tokens), size))


async def _log_likelihood(engine: Engine, request_id: str, prompt: tuple[int, ...]) -> float:
    """Sum of the log-probabilities of the prompt's tokens after the first."""
    sampling = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
    total = 0.0
    async for delta in engine.generate(GenerationRequest(request_id, prompt, sampling)):
        for one in delta.prompt_logprobs or ():
            total += one.logprob if one is not None else 0.0
    return total
