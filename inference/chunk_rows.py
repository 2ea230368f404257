"""The rows of a chunk: what a worker does with its logits or hidden states."""

from __future__ import annotations

import sys
from array import array

from torch import Tensor

from llama_hub.inference.sampling import logprobs
from llama_hub.inference.scheduler import Chunk


def last_row(chunk: Chunk, rows: Tensor) -> Tensor:
    """The row after the chunk's last token that is not guessed."""
    at = len(rows) - 1 - len(chunk.draft)
    return rows[at : at + 1]


def samples(chunk: Chunk) -> bool:
    """Whether a token is chosen after the chunk (``max_tokens`` 0 only reads the prompt)."""
    return chunk.last and chunk.sequence.request.sampling.max_tokens > 0


def float32_bytes(vector: Tensor) -> bytes:
    """``vector`` as little-endian float32."""
    numbers = array("f", vector.tolist())
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def score_prompt(chunk: Chunk, logits: Tensor) -> None:
    """Row i of the chunk predicts the token after position ``computed + i``."""
    sequence = chunk.sequence
    if not sequence.scores:
        sequence.scores.append(None)  # nothing predicts the first token
    start = sequence.computed + 1
    following = sequence.tokens[start : min(start + chunk.count, sequence.prompt_length)]
    if following:
        alternatives = sequence.request.sampling.prompt_logprobs or 0
        sequence.scores += logprobs(logits[: len(following)], following, alternatives)
