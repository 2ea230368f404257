"""Drawing a token for each row of a step's logits: numbers to the device in one copy, then all
rows together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llama_hub.inference.engine import SamplingParams

SHORTLIST = 512  # most likely tokens that are sorted first; rarely are more needed
LOW = (1 << 31) - 1

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sent:
    """The numbers of a step on the device, in three types."""

    exact: Tensor  # float64
    ints: Tensor
    floats: Tensor


class Upload:
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

    def send(self, device: torch.device) -> Sent:
        """All of them on ``device``; does not wait."""
        exact = torch.from_numpy(np.concatenate(self._parts))
        if device.type != "cpu":
            exact = exact.pin_memory().to(device, non_blocking=True)
        return Sent(exact, exact.long(), exact.float())


class Draws:
    """The rows whose token is drawn, and their parameters."""

    def __init__(self, asked: Mapping[int, tuple[SamplingParams, float]], upload: Upload) -> None:
        """``asked``: of each row the parameters and the number, 0 to 1, that decides."""
        self.asked = asked
        self.rows = list(asked)
        params = [each for each, _ in asked.values()]
        self._index = upload.add(self.rows)
        self._temperature = upload.add(p.temperature for p in params)
        # In the order in which ``kernels.draw`` reads them.
        self._fraction = upload.add(number for _, number in asked.values())
        self._limit = upload.add(p.top_k or LOW for p in params)
        self._whole = upload.add(p.top_k == 0 for p in params)
        self._top_p = upload.add(p.top_p if p.top_p < 1 else math.inf for p in params)
        self._min_p = upload.add(p.min_p for p in params)
        self._open = upload.add(map(_open, params))

    def index(self, sent: Sent) -> Tensor:
        """The rows, int64 on the device."""
        return sent.ints[self._index]

    def draw(self, logits: Tensor, sent: Sent, shortlist: int) -> list[Tensor]:
        """For each row the token at its ``fraction`` (0 to 1) of the mass that top-k, top-p and
        min-p leave, found among the ``shortlist`` most likely; then what ``missed`` reads.
        """
        temperature = sent.floats[self._temperature].unsqueeze(1)
        probabilities = (logits[self.index(sent)] / temperature).softmax(-1)
        count = min(shortlist, probabilities.shape[1])
        if logits.device.type == "cuda" and count <= SHORTLIST and find_spec("triton"):
            return self._draw_in_one_launch(probabilities, sent, count)
        return self._draw(probabilities, sent, count)

    def _draw_in_one_launch(self, probabilities: Tensor, sent: Sent, count: int) -> list[Tensor]:
        from llama_hub.inference.kernels.draw import draw

        numbers = sent.exact[self._fraction.start : self._open.stop].view(6, -1)
        everything = probabilities.sum(-1, dtype=torch.float64)
        drawn, found = draw(_keys(probabilities, count), everything, numbers)
        return [drawn, found]

    def _draw(self, probabilities: Tensor, sent: Sent, count: int) -> list[Tensor]:
        values, tokens = _most_likely(probabilities, count)
        listed = values.sum(-1)
        place = torch.arange(values.shape[1], device=values.device)
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
        params = [each for each, _ in self.asked.values()]
        columns = [answer[n * count : (n + 1) * count] for n in range(5)]
        missed = [] if complete else [
            n
            for n, params, *numbers in zip(self.rows, params, *columns, strict=True)
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
    best = _keys(probabilities, count)
    return (best >> 32).int().view(torch.float32), LOW - (best & LOW)


def _keys(probabilities: Tensor, count: int) -> Tensor:
    """The ``count`` likeliest as integers: bits of the value above, ``LOW`` minus token below."""
    size = probabilities.shape[1]
    token = torch.arange(LOW, LOW - size, -1, device=probabilities.device)
    keys = (probabilities.view(torch.int32).long() << 32) | token
    return keys.topk(count).values if count < size else keys.sort(descending=True).values
