"""From logits to the next token.

Order: logit bias, penalties, grammar mask, held-back stop tokens, temperature,
top-k, top-p, min-p, draw. Everything is done row by row or with row-wise
operations, so that a sequence's choice does not depend on its neighbours. A
draw uses one number of the sequence's own generator.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llama_hub.errors import UsageError
from llama_hub.inference.engine import SamplingParams, TokenLogprob

SHORTLIST = 512  # most likely tokens that are sorted first; rarely are more needed


def check(params: SamplingParams, vocab_size: int) -> None:
    """``UsageError`` for a value that makes no sense."""
    rules = (
        ("max_tokens", params.max_tokens >= 0, "0 or more"),
        ("min_tokens", params.min_tokens >= 0, "0 or more"),
        ("temperature", _between(params.temperature, 0, 100), "from 0 to 100"),
        ("top_p", 0 < params.top_p <= 1, "above 0 and at most 1"),
        ("top_k", params.top_k >= 0, "0 (all) or more"),
        ("min_p", 0 <= params.min_p <= 1, "from 0 to 1"),
        ("repetition_penalty", _between(params.repetition_penalty, 0.01, 100), "0.01 to 100"),
        ("presence_penalty", _between(params.presence_penalty, -2, 2), "from -2 to 2"),
        ("frequency_penalty", _between(params.frequency_penalty, -2, 2), "from -2 to 2"),
        ("logprobs", _between(params.logprobs or 0, 0, vocab_size), f"from 0 to {vocab_size}"),
        ("prompt_logprobs", _between(params.prompt_logprobs or 0, 0, vocab_size), "not negative"),
    )
    for name, fine, wanted in rules:
        if not fine:
            raise UsageError(f"{name} is {getattr(params, name)}; it must be {wanted}")
    for token, bias in params.logit_bias.items():
        if not 0 <= token < vocab_size or not _between(bias, -100, 100):
            raise UsageError(
                f"logit_bias {{{token}: {bias}}}: tokens are 0 to {vocab_size - 1}, "
                "biases -100 to 100"
            )


def _between(value: float, low: float, high: float) -> bool:
    return low <= value <= high  # False for NaN


@dataclass
class Choice:
    """What a sequence carries from one choice to the next."""

    params: SamplingParams
    prompt: Counter[int]  # how often each token is in the prompt
    answer: Counter[int] = field(default_factory=Counter)
    generator: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.generator = random.Random(self.params.seed)

    def accept(self, token: int) -> None:
        """Count a token of the answer."""
        self.answer[token] += 1


@dataclass(frozen=True)
class Row:
    """One sequence's logits in a step, with what limits its choice."""

    choice: Choice
    held_back: frozenset[int] = frozenset()  # stop tokens before min_tokens
    mask: Tensor | None = None  # bool [vocab], True where the grammar allows


def sample(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    """One token for each row of ``logits`` ``[R, vocab]`` float32."""
    plain = [_is_plain(row) for row in rows]
    tokens: list[int] = []
    best = logits.argmax(-1).tolist() if any(plain) else []
    for index, row in enumerate(rows):
        tokens.append(best[index] if plain[index] else _sample_row(logits[index], row))
    return tokens


def _is_plain(row: Row) -> bool:
    """Whether the row's answer is simply the most likely token."""
    params = row.choice.params
    changed = params.logit_bias or row.held_back or row.mask is not None or _penalised(params)
    return params.temperature == 0 and not changed


def _penalised(params: SamplingParams) -> bool:
    return (
        params.repetition_penalty != 1
        or params.presence_penalty != 0
        or params.frequency_penalty != 0
    )


def _sample_row(logits: Tensor, row: Row) -> int:
    params = row.choice.params
    logits = _adjust(logits, row)
    if params.temperature == 0:
        return int(logits.argmax())
    return _draw(logits / params.temperature, params, row.choice.generator.random())


def _adjust(logits: Tensor, row: Row) -> Tensor:
    """A copy with bias, penalties and forbidden tokens applied."""
    params = row.choice.params
    logits = logits.clone()
    if params.logit_bias:
        logits[list(params.logit_bias)] += torch.tensor(
            list(params.logit_bias.values()), device=logits.device
        )
    if _penalised(params):
        _penalise(logits, row.choice)
    if row.mask is not None:
        logits[~row.mask] = -math.inf
    if row.held_back:
        without = logits.clone()
        without[list(row.held_back)] = -math.inf
        if float(without.max()) > -math.inf:  # a finished grammar allows nothing but the end
            return without
    return logits


def _penalise(logits: Tensor, choice: Choice) -> None:
    """Repetition (prompt and answer; CTRL's rule), then presence and frequency (answer only)."""
    params = choice.params
    if params.repetition_penalty != 1:
        seen = list(choice.prompt.keys() | choice.answer.keys())
        old = logits[seen]
        factor = params.repetition_penalty
        logits[seen] = torch.where(old > 0, old / factor, old * factor)
    if choice.answer:
        tokens, counts = zip(*choice.answer.items(), strict=True)
        times = torch.tensor(counts, dtype=logits.dtype, device=logits.device)
        logits[list(tokens)] -= params.presence_penalty + params.frequency_penalty * times


def _draw(logits: Tensor, params: SamplingParams, fraction: float) -> int:
    """The token at ``fraction`` (0 to 1) of the mass that top-k, top-p and min-p leave."""
    probabilities = logits.softmax(-1)
    values, tokens = _most_likely(probabilities, params)
    if params.top_k:
        values, tokens = values[: params.top_k], tokens[: params.top_k]
        values = values / values.sum()
    keep = _nucleus(values, params)
    cumulative = (values * keep).double().cumsum(-1)
    index = int(torch.searchsorted(cumulative, fraction * float(cumulative[-1]), right=True))
    return int(tokens[min(index, int(keep.nonzero()[-1]))])


def _most_likely(probabilities: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """The tokens that can be drawn at all, likeliest first: a shortlist where that is enough."""
    size = probabilities.shape[-1]
    if 0 < params.top_k <= SHORTLIST:
        return probabilities.topk(min(params.top_k, size))
    if (params.top_p < 1 or params.min_p > 0) and size > SHORTLIST and not params.top_k:
        values, tokens = probabilities.topk(SHORTLIST)
        enough = float(values.sum()) > params.top_p
        if enough or float(values[-1]) < params.min_p * float(values[0]):
            return values, tokens
    return probabilities.sort(descending=True)


def _nucleus(values: Tensor, params: SamplingParams) -> Tensor:
    """Which of the sorted probabilities stay; always the first.

    top-p as Meta's: a token stays while the mass before it is at most ``top_p``.
    """
    keep = values >= params.min_p * values[0]
    if params.top_p < 1:
        keep &= values.cumsum(-1) - values <= params.top_p
    keep[0] = True
    return keep


def logprobs(logits: Tensor, tokens: Sequence[int], alternatives: int) -> list[TokenLogprob]:
    """Log-probabilities under the model itself (before penalties and temperature).

    ``logits`` ``[R, vocab]``; one token and the best ``alternatives`` for each row.
    """
    table = logits.log_softmax(-1)
    chosen = table.gather(1, torch.tensor(tokens, device=table.device).unsqueeze(1)).squeeze(1)
    if not alternatives:
        return [TokenLogprob(t, value) for t, value in zip(tokens, chosen.tolist(), strict=True)]
    values, ids = table.topk(alternatives, dim=-1)
    tops = [
        tuple(zip(i, v, strict=True)) for i, v in zip(ids.tolist(), values.tolist(), strict=True)
    ]
    return [
        TokenLogprob(token, value, top)
        for token, value, top in zip(tokens, chosen.tolist(), tops, strict=True)
    ]
