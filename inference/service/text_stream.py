"""One answer's text as it grows: tokens in, certain text out.

Text that may be the beginning of a stop string waits until it is clear whether
it is; a stop string itself and what follows it are never given out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from llama_hub.inference.engine import Delta, TokenLogprob
from llama_hub.inference.stop_strings import StopStrings
from llama_hub.inference.tokenizer import Detokenizer


@dataclass(frozen=True)
class Piece:
    """What one step added to one answer; the last of each answer carries ``finish``."""

    index: int  # of the answer: prompt number × n + number among its n
    text: str = ""
    tokens: tuple[TokenLogprob, ...] = ()  # those whose text is out, if logprobs were asked for
    offsets: tuple[int, ...] = ()  # where each token's text begins in the answer, in characters
    generated: int = 0  # tokens so far, those of a stop string included
    finish: str | None = None  # stop, length or content_filter
    stopped_by: str | None = None  # the stop string, None for the end-of-sequence token
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    cached: int = 0  # prompt tokens that the prefix cache supplied


class Writer:
    """Feed it every delta of one sequence, up to the piece that carries ``finish``."""

    def __init__(self, detokenizer: Detokenizer, stops: Sequence[str], index: int) -> None:
        self._detokenizer = detokenizer
        self._stops = StopStrings(stops)
        self._index = index
        self._made = 0  # characters
        self._shown = 0  # characters; the rest may begin a stop string
        self._tokens: deque[tuple[TokenLogprob, int]] = deque()  # with offsets, not shown yet
        self._generated = 0

    def write(self, delta: Delta) -> Piece:
        """What ``delta`` makes certain; the last delta, or a stop string, brings all the rest."""
        text = ""
        for position, token in enumerate(delta.tokens):
            self._generated += 1
            if delta.logprobs:
                self._tokens.append((delta.logprobs[position], self._made))
            text += self._through_stops(self._detokenizer.push([token]))
            if self._stops.found is not None:
                break
        ended = delta.finish_reason is not None
        if ended and self._stops.found is None:
            text += self._through_stops(self._detokenizer.finish())
        if ended and self._stops.found is None:
            text += self._stops.finish()
        return self._piece(text, delta)

    def _through_stops(self, text: str) -> str:
        self._made += len(text)
        return self._stops.push(text)

    def _piece(self, text: str, delta: Delta) -> Piece:
        self._shown += len(text)
        stopped_by = self._stops.found
        finish = delta.finish_reason if stopped_by is None else "stop"
        whole = finish is not None and stopped_by is None
        given: list[tuple[TokenLogprob, int]] = []
        while self._tokens and (whole or self._tokens[0][1] < self._shown):
            given.append(self._tokens.popleft())
        return Piece(
            self._index,
            text,
            tuple(token for token, _ in given),
            tuple(offset for _, offset in given),
            self._generated,
            finish,
            stopped_by,
            delta.prompt_logprobs,
            delta.cached_tokens,
        )
