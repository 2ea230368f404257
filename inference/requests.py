"""Checks of a request that every engine makes before it takes one."""

from __future__ import annotations

from llama_hub.errors import UsageError
from llama_hub.inference import sampling
from llama_hub.inference.engine import EngineInfo, GenerationRequest
from llama_hub.inference.schema_limits import parse


def check(request: GenerationRequest, info: EngineInfo) -> None:
    """``UsageError`` for a senseless parameter, an unknown token, too long a request or too large
    a schema."""
    sampling.check(request.sampling, info.vocab_size)
    if request.sampling.grammar is not None:
        parse(request.sampling.grammar)
    if request.embedding and not info.embedding_size:
        raise UsageError(f"the {info.engine} engine makes no embeddings", hint="--engine torch")
    if not request.prompt:
        raise UsageError("the prompt is empty; begin it with BOS")
    wrong = [token for token in request.prompt if not 0 <= token < info.vocab_size]
    if wrong:
        raise UsageError(f"token {wrong[0]} is not in the vocabulary of {info.vocab_size}")
    asked = len(request.prompt) + request.sampling.max_tokens
    if asked > info.context:
        raise UsageError(
            f"the prompt has {len(request.prompt)} tokens and {request.sampling.max_tokens} are "
            f"asked for: together {asked}, and the context holds {info.context}",
            hint="shorten the prompt or lower max_tokens",
        )
