"""The engine behind the service: token ids in, an asynchronous stream of deltas out.

An engine knows nothing of text, chat or HTTP; the service knows nothing of
tensors. ``torch_engine`` and ``vllm_engine`` implement this protocol, and the
same tests run on both.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

# A key of a grammar's schema: true allows, besides what the schema says, a text that does not
# begin with "[". An engine that cannot bound an answer so leaves it free.
OR_TEXT = "x-or-text"
FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen; defaults are greedy-free and Meta's own.

    ``temperature`` 0 means greedy. ``top_k`` 0 and ``top_p`` 1 mean "all". Penalties follow
    OpenAI (presence, frequency: subtracted from logits) and CTRL (repetition: divides).
    """

    max_tokens: int = 16
    temperature: float = 0.6
    top_p: float = 0.9
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None  # None: drawn again for every request
    stop_token_ids: frozenset[int] = frozenset()  # besides EOS
    ignore_eos: bool = False
    min_tokens: int = 0  # EOS and stop tokens are held back until then
    logprobs: int | None = None  # number of alternatives reported per token; 0 = the chosen only
    prompt_logprobs: int | None = None  # the same for the prompt's own tokens
    grammar: str | None = None  # JSON schema (as JSON text) that the output must satisfy


@dataclass(frozen=True)
class GenerationRequest:
    """One sequence to continue; ``n`` answers are ``n`` requests."""

    id: str
    prompt: tuple[int, ...]  # token ids, BOS included where wanted
    sampling: SamplingParams
    client: str = ""  # who asks: clients share the engine evenly
    call: str = ""  # the sequences of one call have one share together
    embedding: bool = False  # the prompt is read and becomes one vector; nothing is generated


@dataclass(frozen=True)
class TokenLogprob:
    """Natural-log probability of one token and of its best alternatives, best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Delta:
    """What a step added: usually one token; the last delta carries ``finish_reason``.

    A token that ends generation (EOS, stop token) is not among ``tokens``.
    """

    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()  # one per token, if asked for
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None  # on the first delta only
    finish_reason: FinishReason | None = None
    cached_tokens: int = 0  # prompt tokens that the prefix cache supplied (first delta)
    queued: float = 0.0  # seconds before its first step (first delta)
    # Mean of the last hidden states over the prompt's tokens, of length 1: float32, little-endian.
    embedding: bytes | None = None


@dataclass(frozen=True)
class EngineInfo:
    """What runs, for ``/v1/models``, ``serve`` and ``attest``."""

    engine: str  # torch | vllm
    device: str  # cpu, cuda:0, cuda:0-3
    dtype: str  # bfloat16, float16, float32
    quantization: str | None  # int8, int4 or None
    context: int  # tokens that prompt and answer may have together
    vocab_size: int
    max_batch: int  # sequences that decode together
    # How each kind of step is computed: {"decode 8": "graph, triton", "mixed": "triton"}.
    step_modes: Mapping[str, str] = field(default_factory=dict)
    embedding_size: int = 0  # numbers of an embedding; 0: this engine makes none


@dataclass(frozen=True)
class EngineStats:
    """Counters since start and gauges of now."""

    running: int  # sequences
    waiting: int  # sequences
    kv_usage: float  # share of the KV cache in use, 0 to 1
    prompt_tokens: int
    generated_tokens: int
    prefix_queries: int  # tokens looked up in the prefix cache
    prefix_hits: int  # tokens found there
    preemptions: int
    memory_bytes: int  # weights and cache on the device
    drafts: int = 0  # steps of a sequence with guessed tokens
    draft_tokens: int = 0
    accepted_tokens: tuple[int, ...] = ()  # of the guessed, by their place
    extra: Mapping[str, Any] = field(default_factory=dict)


class Engine(Protocol):
    """Six methods; all coroutines run on the service's event loop."""

    @property
    def info(self) -> EngineInfo:
        """What runs; valid after ``start``."""
        ...

    async def start(self) -> None:
        """Load and warm up; returns when the first request will be answered at full speed."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """Continue ``request.prompt``; closing the iterator aborts the request.

        The call itself raises ``UsageError`` if prompt and ``max_tokens`` cannot fit the
        context or a parameter makes no sense, and ``NotEnoughError`` if the queue is full;
        what goes wrong later is raised by the iterator.
        """
        ...

    async def abort(self, request_id: str) -> None:
        """Stop a request and free what it holds; unknown ids are ignored."""

    def health(self) -> str | None:
        """``None`` if well, else what is wrong."""
        ...

    def stats(self) -> EngineStats:
        """Counters and gauges, cheap enough for every scrape."""
        ...

    async def shutdown(self) -> None:
        """Abort what runs and free the device; may be called twice."""
