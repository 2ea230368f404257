"""Sampling row by row, as plainly as it can be said: the oracle of ``inference.sampling``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from llama_hub.inference.engine import SamplingParams
from llama_hub.inference.sampling import SHORTLIST, Choice, Row


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
