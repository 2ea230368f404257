"""Small random models as Hugging Face's own library writes and runs them: the independent judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llama_hub.inference.batch import Piece
from llama_hub.inference.config import PAGE, EngineOptions
from llama_hub.inference.engine import (
    Delta,
    Engine,
    GenerationRequest,
    SamplingParams,
    TokenLogprob,
)
from llama_hub.inference.loading import load_shard, make_plan
from tests.support.lazy import transformers
from tests.support.make_checkpoint import tokenizer

VOCABULARY = 288  # of the tokenizer that lies beside the weights
CONTEXT = 256


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; the default suits our kernels (widths are multiples of 16)."""

    dim: int = 128
    layers: int = 3
    heads: int = 8
    kv_heads: int = 8
    ffn: int = 320
    seed: int = 0
    spread: float = 0.2  # of the weights: so wide that the next token is rarely a close call


PLAIN = Shape()
GROUPED = Shape(heads=8, kv_heads=2, seed=1)
CALM = Shape(kv_heads=4, spread=0.06, seed=3)  # rounding errors do not grow through the layers
ODD = Shape(dim=72, heads=6, kv_heads=3, ffn=189, seed=2)  # nothing is a multiple of 16


def save(folder: Path, shape: Shape = PLAIN, dtype: torch.dtype = torch.float32) -> Path:
    """Write a random model of ``shape`` with its tokenizer; returns ``folder``."""
    torch.manual_seed(shape.seed)
    config = transformers.LlamaConfig(
        hidden_size=shape.dim,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        vocab_size=VOCABULARY,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        initializer_range=shape.spread,
        tie_word_embeddings=False,
        torch_dtype=str(dtype).removeprefix("torch."),
    )
    transformers.LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(tokenizer())
    return folder


@cache
def judge(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The folder in transformers, computing in ``dtype``."""
    return transformers.LlamaForCausalLM.from_pretrained(folder, dtype=dtype).eval()


@torch.inference_mode()
def judged_logits(
    folder: Path, tokens: Sequence[int], dtype: torch.dtype = torch.float32
) -> Tensor:
    """transformers' logits of every position ``[T, vocab]``, in float32."""
    logits: Tensor = judge(folder, dtype)(torch.tensor([list(tokens)])).logits
    return logits[0].float()


@torch.inference_mode()
def judged_embedding(folder: Path, tokens: Sequence[int]) -> Tensor:
    """Mean of transformers' last hidden states over all positions, of length 1 ``[dim]``."""
    states = judge(folder)(torch.tensor([list(tokens)]), output_hidden_states=True).hidden_states
    mean = states[-1][0].double().mean(0)
    return mean / mean.norm()


def judged_greedy(folder: Path, prompt: Sequence[int], count: int) -> list[int]:
    """transformers' greedy continuation in float32, without an end token."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(judged_logits(folder, tokens)[-1].argmax()))
    return tokens[len(prompt) :]


def our_logits(folder: Path, tokens: Sequence[int], **options: Any) -> Tensor:
    """Our logits of every position, computed as one prompt."""
    plan = make_plan(folder, EngineOptions(**{"threads": 1, **options}))
    pages = tuple(range(-(-len(tokens) // PAGE)))
    piece = Piece(tuple(tokens), 0, pages, wanted=len(tokens), prompt=len(tokens))
    return load_shard(plan).executor.run([piece])


def prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    """BOS and random ordinary tokens."""
    generator = torch.Generator().manual_seed(seed)
    numbers: list[int] = torch.randint(3, VOCABULARY, (length - 1,), generator=generator).tolist()
    return (1, *numbers)


@dataclass(frozen=True)
class Answer:
    """All deltas of a request put together."""

    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None
    finish_reason: str | None
    cached_tokens: int


def put_together(deltas: Sequence[Delta]) -> Answer:
    """One answer from its deltas."""
    return Answer(
        tokens=tuple(token for delta in deltas for token in delta.tokens),
        logprobs=tuple(each for delta in deltas for each in delta.logprobs),
        prompt_logprobs=deltas[0].prompt_logprobs,
        finish_reason=deltas[-1].finish_reason,
        cached_tokens=deltas[0].cached_tokens,
    )


async def embed(engine: Engine, tokens: Sequence[int], name: str = "e") -> Tensor:
    """The vector of a text ``[dim]``."""
    request = GenerationRequest(name, tuple(tokens), SamplingParams(max_tokens=0), embedding=True)
    (delta,) = [delta async for delta in engine.generate(request)]
    assert delta.finish_reason == "stop"
    assert delta.embedding is not None
    return torch.frombuffer(bytearray(delta.embedding), dtype=torch.float32)


async def ask(engine: Engine, tokens: Sequence[int], name: str = "a", **sampling: Any) -> Answer:
    """One request, greedy and without an end token unless said otherwise."""
    known = {"temperature": 0.0, "max_tokens": 8, "ignore_eos": True, **sampling}
    request = GenerationRequest(name, tuple(tokens), SamplingParams(**known))
    return put_together([delta async for delta in engine.generate(request)])
