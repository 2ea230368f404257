"""From logits to the next token.

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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llama_hub.errors import UsageError
from llama_hub.inference.engine import SamplingParams, TokenLogprob

SHORTLIST = 512  # most likely tokens that are sorted first; rarely are more needed
_LOW = (1 << 31) - 1

Numbers = npt.NDArray[np.float64]


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


def choose(logits: Tensor, rows: Sequence[Row]) -> list[Chosen]:
    """One token for each row of ``logits`` ``[R, vocab]`` float32, with its log-probability.

    Waits for the device once; a second time only if a draw falls on a token that is not among
    the ``SHORTLIST`` most likely.
    """
    if not rows:
        return []
    upload = _Upload()
    edits = _Edits(rows, logits.shape[1], upload)
    draws = _Draws(rows, upload)
    asked = _Asked(rows, upload)
    if not upload.size:
        return [Chosen(token) for token in logits.argmax(-1).tolist()]
    sent = upload.send(logits.device)
    changed = edits.apply(logits, sent)
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
        return _choose_among_all(logits, changed, rows, chosen, draws, missed)
    return asked.results(chosen, rest)


def _choose_among_all(
    logits: Tensor,
    changed: Tensor,
    rows: Sequence[Row],
    chosen: list[int],
    draws: _Draws,
    missed: list[int],
) -> list[Chosen]:
    """The second pass: ``missed`` rows are drawn from all tokens, with the same number."""
    upload = _Upload()
    again = _Draws(rows, upload, [(n, draws.fraction[n]) for n in missed])
    asked = _Asked(rows, upload)
    kept = upload.add(chosen)
    sent = upload.send(logits.device)
    found = again.draw(changed, sent, logits.shape[1])
    tokens = sent.ints[kept].index_copy(0, again.index(sent), found[0])
    parts = [tokens, *asked.scores(logits, tokens, sent)]
    answer = torch.cat([part.flatten() for part in parts]).tolist()
    return asked.results([int(token) for token in answer[: len(rows)]], answer[len(rows) :])


@dataclass(frozen=True)
class _Sent:
    """The numbers of a step on the device, in three types."""

    exact: Tensor  # float64
    ints: Tensor
    floats: Tensor


class _Upload:
    """Numbers for the device, gathered and sent in one copy; float64 holds every token id."""

    def __init__(self) -> None:
        self._parts: list[Numbers] = []
        self.size = 0

    def add(self, values: Iterable[float] | npt.NDArray[np.int64]) -> slice:
        """Where ``values`` will be among the numbers."""
        part = np.asarray(
            values if isinstance(values, np.ndarray) else list(values), dtype=np.float64
        )
        self._parts.append(part)
        start, self.size = self.size, self.size + len(part)
        return slice(start, self.size)

    def send(self, device: torch.device) -> _Sent:
        """All of them on ``device``; does not wait."""
        exact = torch.from_numpy(np.concatenate(self._parts))
        if device.type != "cpu":
            exact = exact.pin_memory().to(device, non_blocking=True)
        return _Sent(exact, exact.long(), exact.float())


class _Edits:
    """What bias, penalties, grammars and held-back tokens change in the logits of a step."""

    def __init__(self, rows: Sequence[Row], vocab: int, upload: _Upload) -> None:
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

    def apply(self, logits: Tensor, sent: _Sent) -> Tensor:
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


class _Draws:
    """The rows whose token is drawn, and their parameters."""

    def __init__(
        self,
        rows: Sequence[Row],
        upload: _Upload,
        again: Sequence[tuple[int, float]] | None = None,
    ) -> None:
        """``again``: rows with the numbers that were drawn for them already."""
        if again is None:
            hot = [n for n, row in enumerate(rows) if row.choice.params.temperature > 0]
            again = [(n, rows[n].choice.generator.random()) for n in hot]
        self.rows = [n for n, _ in again]
        self.fraction = dict(again)
        self._params = params = [rows[n].choice.params for n in self.rows]
        self._index = upload.add(self.rows)
        self._fraction = upload.add(self.fraction.values())
        self._temperature = upload.add(p.temperature for p in params)
        self._limit = upload.add(p.top_k or _LOW for p in params)
        self._whole = upload.add(p.top_k == 0 for p in params)
        self._top_p = upload.add(p.top_p if p.top_p < 1 else math.inf for p in params)
        self._min_p = upload.add(p.min_p for p in params)
        self._open = upload.add(map(_open, params))

    def index(self, sent: _Sent) -> Tensor:
        """The rows, int64 on the device."""
        return sent.ints[self._index]

    def draw(self, logits: Tensor, sent: _Sent, shortlist: int) -> list[Tensor]:
        """For each row the token at its ``fraction`` (0 to 1) of the mass that top-k, top-p and
        min-p leave, found among the ``shortlist`` most likely; then what ``missed`` reads.
        """
        temperature = sent.floats[self._temperature].unsqueeze(1)
        probabilities = (logits[self.index(sent)] / temperature).softmax(-1)
        values, tokens = _most_likely(probabilities, min(shortlist, probabilities.shape[1]))
        listed = values.sum(-1)
        place = torch.arange(values.shape[1], device=logits.device)
        within = place < sent.ints[self._limit].unsqueeze(1)
        values = values * within
        whole = sent.ints[self._whole].unsqueeze(1) > 0
        values = values / torch.where(whole, 1.0, values.sum(-1, keepdim=True))
        least = sent.floats[self._min_p].unsqueeze(1) * values[:, :1]
        # top-p as Meta's: a token stays while the mass before it is at most top_p.
        nucleus = values.cumsum(-1) - values <= sent.floats[self._top_p].unsqueeze(1)
        keep = nucleus & within & (values >= least)
        keep[:, 0] = True
        cumulative = (values * keep).double().cumsum(-1)
        kept = cumulative[:, -1]
        if values.shape[1] < probabilities.shape[1]:
            everything = probabilities.sum(-1, dtype=torch.float64)
            mass = torch.where(sent.ints[self._open] > 0, everything, kept)
        else:
            mass = kept
        wanted = (sent.exact[self._fraction] * mass).unsqueeze(1)
        index = torch.searchsorted(cumulative, wanted, right=True)
        index = torch.minimum(index, (keep * place).amax(-1, keepdim=True))
        drawn = tokens.gather(1, index).squeeze(1)
        return [drawn, listed, values[:, -1], least, wanted, kept]

    def missed(self, answer: list[float], complete: bool) -> tuple[list[int], list[float]]:
        """Rows for which the shortlist did not suffice, and the rest of ``answer``.

        ``answer`` begins with what ``draw`` gave besides the tokens; ``complete``: the shortlist
        held all tokens.
        """
        count = len(self.rows)
        columns = [answer[n * count : (n + 1) * count] for n in range(5)]
        missed = [] if complete else [
            n
            for n, params, *numbers in zip(self.rows, self._params, *columns, strict=True)
            if not _enough(params, *numbers)
        ]  # fmt: skip
        return missed, answer[5 * count :]


def _open(params: SamplingParams) -> bool:
    """Whether every token may be drawn."""
    return params.top_k == 0 and params.top_p >= 1 and params.min_p == 0


def _enough(
    params: SamplingParams, listed: float, last: float, least: float, wanted: float, kept: float
) -> bool:
    """Whether no token beyond the shortlist could have changed a draw.

    ``listed``: mass of the shortlist; ``last``: its least likely token's; ``least``: min-p's bound;
    ``wanted``: the mass at which the token lies; ``kept``: the mass of those that may be drawn.
    """
    if params.top_k:
        return params.top_k <= SHORTLIST
    nucleus = params.top_p < 1 and listed > params.top_p
    tail = params.min_p > 0 and last < least
    return nucleus or tail or (_open(params) and wanted < kept)


def _most_likely(probabilities: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest of each row, largest first, and their tokens.

    On a GPU values and tokens are sorted as one integer (probabilities are not negative, so their
    bits order them): no two are equal, so that equal values come in the same order in any batch,
    which torch's algorithms there, chosen by shape, do not promise.
    """
    size = probabilities.shape[1]
    if probabilities.device.type == "cpu":
        if count < size:
            return probabilities.topk(count)
        return probabilities.sort(descending=True, stable=True)
    token = torch.arange(_LOW, _LOW - size, -1, device=probabilities.device)
    keys = (probabilities.view(torch.int32).long() << 32) | token
    best = keys.topk(count).values if count < size else keys.sort(descending=True).values
    return (best >> 32).int().view(torch.float32), _LOW - (best & _LOW)


class _Asked:
    """The rows whose requests ask for log-probabilities, under the model itself."""

    def __init__(self, rows: Sequence[Row], upload: _Upload) -> None:
        counts = [row.choice.params.logprobs for row in rows]
        self.rows = {n: count for n, count in enumerate(counts) if count is not None}
        self._most = max(self.rows.values(), default=0)
        self._index = upload.add(self.rows)

    def scores(self, logits: Tensor, tokens: Tensor, sent: _Sent) -> list[Tensor]:
        """Log-probabilities of the tokens, then of the best alternatives with their ids."""
        if not self.rows:
            return []
        index = sent.ints[self._index]
        table = logits[index].log_softmax(-1)
        chosen = table.gather(1, tokens[index].unsqueeze(1))
        if not self._most:
            return [chosen]
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
