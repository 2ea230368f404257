"""Sampling: from logits to the next token.

Order: logit bias, penalties, grammar mask, held-back stop tokens, temperature,
top-k, top-p, min-p, draw. All rows are computed together by row-wise operations,
so that a sequence's choice does not depend on its neighbours: one copy brings
their parameters to the device, one brings the tokens back. A draw uses one
number of the sequence's own generator.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llama_hub.errors import UsageError
from llama_hub.inference.draws import SHORTLIST, Draws, Sent, Upload
from llama_hub.inference.engine import SamplingParams, TokenLogprob


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
    _prompt_tokens: npt.NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.generator = random.Random(self.params.seed)
        self._prompt_tokens = np.fromiter(self.prompt, np.int64, len(self.prompt))

    @property
    def seen(self) -> npt.NDArray[np.int64]:
        """Tokens of prompt and answer; one that is in both comes twice."""
        answer = np.fromiter(self.answer, np.int64, len(self.answer))
        return np.concatenate([self._prompt_tokens, answer])

    def accept(self, token: int) -> None:
        """Count a token of the answer."""
        self.answer[token] += 1


@dataclass(frozen=True)
class Row:
    """One sequence's logits in a step, with what limits its choice."""

    choice: Choice
    held_back: frozenset[int] = frozenset()  # stop tokens before min_tokens
    mask: Tensor | None = None  # bool [vocab], True where the grammar allows


@dataclass(frozen=True)
class Chosen:
    """A token, and its log-probability where the request asks for it."""

    token: int
    logprob: TokenLogprob | None = None


def sample(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    """One token for each row of ``logits`` ``[R, vocab]`` float32."""
    return [chosen.token for chosen in choose(logits, rows)]


def choose(logits: Tensor, rows: Sequence[Row], banned: Tensor | None = None) -> list[Chosen]:
    """One token for each row of ``logits`` ``[R, vocab]`` float32, with its log-probability.

    ``banned``: tokens that are never chosen and never listed as alternatives, int64.

    Waits for the device once; a second time only if a draw falls on a token that is not among
    the ``SHORTLIST`` most likely.
    """
    if not rows:
        return []
    upload = Upload()
    edits = _Edits(rows, logits.shape[1], upload)
    hot = [n for n, row in enumerate(rows) if row.choice.params.temperature > 0]
    draws = Draws(
        {n: (rows[n].choice.params, rows[n].choice.generator.random()) for n in hot}, upload
    )
    asked = _Asked(rows, upload, banned)
    allowed = logits if banned is None else logits.index_fill(1, banned, -math.inf)
    if not upload.size:
        return [Chosen(token) for token in allowed.argmax(-1).tolist()]
    sent = upload.send(logits.device)
    changed = edits.apply(allowed, sent)
    tokens = changed.argmax(-1)
    found = draws.draw(changed, sent, SHORTLIST) if draws.rows else []
    if draws.rows:
        tokens = tokens.index_copy(0, draws.index(sent), found[0])
    parts = [tokens, *found[1:], *asked.scores(logits, tokens, sent)]
    answer = torch.cat([part.flatten() for part in parts]).tolist()
    chosen = [int(token) for token in answer[: len(rows)]]
    rest = answer[len(rows) :]
    missed, rest = draws.missed(rest, min(SHORTLIST, logits.shape[1]) == logits.shape[1])
    if missed:
        return _choose_among_all(logits, changed, rows, chosen, draws, missed, banned)
    return asked.results(chosen, rest)


def _choose_among_all(
    logits: Tensor,
    changed: Tensor,
    rows: Sequence[Row],
    chosen: list[int],
    draws: Draws,
    missed: list[int],
    banned: Tensor | None,
) -> list[Chosen]:
    """The second pass: ``missed`` rows are drawn from all tokens, with the same number."""
    upload = Upload()
    again = Draws({n: draws.asked[n] for n in missed}, upload)
    asked = _Asked(rows, upload, banned)
    kept = upload.add(chosen)
    sent = upload.send(logits.device)
    found = again.draw(changed, sent, logits.shape[1])
    tokens = sent.ints[kept].index_copy(0, again.index(sent), found[0])
    parts = [tokens, *asked.scores(logits, tokens, sent)]
    answer = torch.cat([part.flatten() for part in parts]).tolist()
    return asked.results([int(token) for token in answer[: len(rows)]], answer[len(rows) :])


class _Edits:
    """What bias, penalties, grammars and held-back tokens change in the logits of a step."""

    def __init__(self, rows: Sequence[Row], vocab: int, upload: Upload) -> None:
        params = [row.choice.params for row in rows]
        biased = [(n, t, b) for n, p in enumerate(params) for t, b in p.logit_bias.items()]
        self._bias_at = upload.add(n * vocab + token for n, token, _ in biased)
        self._bias = upload.add(bias for *_, bias in biased)
        seen = [
            (n * vocab + row.choice.seen, row.choice.params.repetition_penalty)
            for n, row in enumerate(rows)
            if row.choice.params.repetition_penalty != 1
        ]
        self._seen_at = upload.add(np.concatenate([np.empty(0, np.int64), *(at for at, _ in seen)]))
        repeated = [np.full(len(at), factor) for at, factor in seen]
        self._factor = upload.add(np.concatenate([np.empty(0), *repeated]))
        answered = [
            (n * vocab + token, row.choice.params, times)
            for n, row in enumerate(rows)
            if row.choice.params.presence_penalty or row.choice.params.frequency_penalty
            for token, times in row.choice.answer.items()
        ]
        self._answer_at = upload.add(at for at, *_ in answered)
        self._presence = upload.add(p.presence_penalty for _, p, _ in answered)
        self._frequency = upload.add(p.frequency_penalty for _, p, _ in answered)
        self._times = upload.add(times for *_, times in answered)
        self._held_at = upload.add(n * vocab + t for n, r in enumerate(rows) for t in r.held_back)
        masked = [(n, row.mask) for n, row in enumerate(rows) if row.mask is not None]
        self._masked = upload.add(n for n, _ in masked)
        self._masks = [mask for _, mask in masked]

    def apply(self, logits: Tensor, sent: Sent) -> Tensor:
        """The logits as they are to be chosen from; a copy if anything changes."""
        spans = (self._bias_at, self._seen_at, self._answer_at, self._held_at, self._masked)
        if not any(map(_length, spans)):
            return logits
        changed = logits.clone()
        flat = changed.view(-1)
        if _length(self._bias_at):
            flat.index_add_(0, sent.ints[self._bias_at], sent.floats[self._bias])
        if _length(self._seen_at):
            # A token may be listed twice: both write the same.
            at, factor = sent.ints[self._seen_at], sent.floats[self._factor]
            old = flat[at]
            flat.index_copy_(0, at, torch.where(old > 0, old / factor, old * factor))
        if _length(self._answer_at):
            times = sent.floats[self._frequency] * sent.floats[self._times]
            penalty = times.add_(sent.floats[self._presence])
            flat.index_add_(0, sent.ints[self._answer_at], penalty, alpha=-1)
        if _length(self._masked):
            self._forbid(changed, sent.ints[self._masked])
        if _length(self._held_at):
            return _held_back(changed, sent.ints[self._held_at])
        return changed

    def _forbid(self, changed: Tensor, at: Tensor) -> None:
        allowed = torch.stack(self._masks)
        if allowed.device != changed.device:
            allowed = allowed.pin_memory().to(changed.device, non_blocking=True)
        changed.index_copy_(0, at, changed[at].masked_fill(~allowed, -math.inf))


def _held_back(changed: Tensor, at: Tensor) -> Tensor:
    """A finished grammar allows nothing but the end: there it is not held back."""
    without = changed.clone()
    without.view(-1).index_fill_(0, at, -math.inf)
    return torch.where(without.amax(-1, keepdim=True) > -math.inf, without, changed)


def _length(span: slice) -> int:
    return int(span.stop - span.start)


class _Asked:
    """The rows whose requests ask for log-probabilities, under the model itself."""

    def __init__(self, rows: Sequence[Row], upload: Upload, banned: Tensor | None) -> None:
        self._banned = banned
        counts = [row.choice.params.logprobs for row in rows]
        self.rows = {n: count for n, count in enumerate(counts) if count is not None}
        self._most = max(self.rows.values(), default=0)
        self._index = upload.add(self.rows)

    def scores(self, logits: Tensor, tokens: Tensor, sent: Sent) -> list[Tensor]:
        """Log-probabilities of the tokens, then of the best alternatives with their ids."""
        if not self.rows:
            return []
        index = sent.ints[self._index]
        table = logits[index].log_softmax(-1)
        chosen = table.gather(1, tokens[index].unsqueeze(1))
        if not self._most:
            return [chosen]
        if self._banned is not None:
            table = table.index_fill(1, self._banned, -math.inf)
        values, ids = table.topk(self._most, dim=-1)
        return [chosen, values, ids]

    def results(self, tokens: list[int], numbers: list[float]) -> list[Chosen]:
        """``numbers``: what ``scores`` gave, flat."""
        count, most = len(self.rows), self._most
        values, ids = numbers[count : count * (most + 1)], numbers[count * (most + 1) :]
        made = [Chosen(token) for token in tokens]
        for place, (n, alternatives) in enumerate(self.rows.items()):
            best = slice(place * most, place * most + alternatives)
            top = tuple(zip(map(int, ids[best]), values[best], strict=True))
            made[n] = Chosen(tokens[n], TokenLogprob(tokens[n], numbers[place], top))
        return made


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
