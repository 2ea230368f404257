"""OpenAI's answer documents, whole and in chunks."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from llama_hub.inference.engine import TokenLogprob
from llama_hub.inference.service.generation import Answer, Ask
from llama_hub.inference.service.state import Service
from llama_hub.inference.service.streaming import Document
from llama_hub.inference.service.text_stream import Piece
from llama_hub.inference.service.tool_calls import (
    Call,
    CallDelta,
    CallStream,
    new_id,
    read_calls,
)
from llama_hub.inference.service.tools import Toolbox
from llama_hub.inference.tokenizer import Detokenizer


def usage(prompt_tokens: int, generated: int, cached: int) -> Document:
    """Token counts."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": generated,
        "total_tokens": prompt_tokens + generated,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


class _Call(ABC):
    """What every document of one call repeats."""

    object_whole: str
    object_chunk: str

    def __init__(self, service: Service, call_id: str) -> None:
        self.service = service
        self.id = call_id
        self.created = int(time.time())
        self.limit: int | None = None  # of tokens, where fewer fit than were asked for

    def clamp(self, wanted: int | None, asks: Sequence[Ask]) -> None:
        """Note where one of ``asks`` has less room than ``wanted``, so that usage reports it."""
        least = min(ask.sampling.max_tokens for ask in asks)
        self.limit = least if wanted is not None and wanted > least else None

    def usage(self, prompt_tokens: int, generated: int, cached: int) -> Document:
        """Token counts, with ``max_tokens`` where it had to be lowered."""
        counts = usage(prompt_tokens, generated, cached)
        return counts if self.limit is None else counts | {"max_tokens": self.limit}

    def envelope(self, kind: str, choices: Sequence[Document]) -> Document:
        """A document of ``kind`` around ``choices``."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.service.served.name,
            "system_fingerprint": self.service.fingerprint,
            "choices": list(choices),
        }

    def usage_chunk(self, prompt_tokens: int, generated: int, cached: int) -> Document:
        """The last chunk of a stream that was asked for usage."""
        counts = self.usage(prompt_tokens, generated, cached)
        return self.envelope(self.object_chunk, []) | {"usage": counts}

    def whole(self, answers: Sequence[Answer], prompt_tokens: int) -> Document:
        """The answer of a request that is not streamed."""
        generated = sum(answer.generated for answer in answers)
        cached = sum(answer.cached for answer in answers)
        choices = [self.choice(index, answer) for index, answer in enumerate(answers)]
        counts = self.usage(prompt_tokens, generated, cached)
        return self.envelope(self.object_whole, choices) | {"usage": counts}

    @abstractmethod
    def choice(self, index: int, answer: Answer) -> Document:
        """One whole choice."""

    @abstractmethod
    def chunks(self, piece: Piece) -> Iterator[Document]:
        """The chunks that ``piece`` makes."""


class Chat(_Call):
    """``chat.completion`` and its chunks."""

    object_whole = "chat.completion"
    object_chunk = "chat.completion.chunk"

    def __init__(
        self, service: Service, call_id: str, *, logprobs: bool, box: Toolbox | None = None
    ) -> None:
        """``box``: the tools that the answer may call."""
        super().__init__(service, call_id)
        self._logprobs = logprobs
        self._box = box
        self._opened: set[int] = set()
        self._streams: dict[int, CallStream] = {}

    def choice(self, index: int, answer: Answer) -> Document:
        """One whole choice."""
        text, calls = (answer.text, []) if self._box is None else self._read(answer.text)
        message: Document = {"role": "assistant", "content": text, "refusal": None}
        if calls:
            message |= {"content": text or None, "tool_calls": [_call(call) for call in calls]}
        return {
            "index": index,
            "message": message,
            "logprobs": self._content(answer.tokens),
            "finish_reason": self._reason(answer.finish, called=bool(calls)),
        }

    def _read(self, text: str) -> tuple[str, list[Call]]:
        return read_calls(text, self._box.names if self._box else ())

    def _reason(self, finish: str | None, *, called: bool) -> str | None:
        """OpenAI's: a call that was chosen by name ends as a text does."""
        free = self._box is not None and self._box.mode != "named"
        return "tool_calls" if called and free and finish == "stop" else finish

    def chunks(self, piece: Piece) -> Iterator[Document]:
        """The role first, then content or calls, then the reason of the end."""
        if piece.index not in self._opened:
            self._opened.add(piece.index)
            yield self._chunk(piece.index, {"role": "assistant", "content": ""})
        text = piece.text
        deltas: list[CallDelta] = []
        stream = None
        if self._box is not None:
            stream = self._streams.setdefault(piece.index, CallStream(self._box.names))
            text, deltas = stream.push(piece.text, last=piece.finish is not None)
        if text or piece.tokens:
            yield self._chunk(piece.index, {"content": text}, self._content(piece.tokens))
        for delta in deltas:
            yield self._chunk(piece.index, {"tool_calls": [_call_delta(delta)]})
        if piece.finish:
            reason = self._reason(piece.finish, called=stream is not None and stream.called)
            yield self._chunk(piece.index, {}, finish=reason)

    def _chunk(
        self, index: int, delta: Document, logprobs: Document | None = None, finish: Any = None
    ) -> Document:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return self.envelope(self.object_chunk, [choice])

    def _content(self, tokens: Sequence[TokenLogprob]) -> Document | None:
        if not self._logprobs:
            return None
        return {"content": [self._token(token) for token in tokens], "refusal": None}

    def _token(self, token: TokenLogprob) -> Document:
        alternatives = [self._likelihood(*pair) for pair in token.top]
        return self._likelihood(token.token, token.logprob) | {"top_logprobs": alternatives}

    def _likelihood(self, token: int, logprob: float) -> Document:
        raw = self.service.token_bytes(token)
        text = raw.decode(errors="replace")
        return {"token": text, "logprob": finite(logprob), "bytes": list(raw)}


def _call(call: Call) -> Document:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _call_delta(delta: CallDelta) -> Document:
    if delta.name is None:
        return {"index": delta.index, "function": {"arguments": delta.arguments}}
    function = {"name": delta.name, "arguments": delta.arguments}
    return {"index": delta.index, "id": new_id(), "type": "function", "function": function}


class Completion(_Call):
    """``text_completion``, whole and in chunks, with the prompt echoed where asked."""

    object_whole = object_chunk = "text_completion"

    def __init__(
        self,
        service: Service,
        call_id: str,
        *,
        prompts: Sequence[tuple[int, ...]],
        echo: Sequence[str] | None,
        n: int,
        logprobs: bool,
        prompt_only: bool,
    ) -> None:
        """``echo``: the prompts' texts if they are to lead the answers; ``prompt_only``: the
        answers themselves are not wanted."""
        super().__init__(service, call_id)
        self._prompts = prompts
        self._echo = echo
        self._n = n
        self._logprobs = logprobs
        self._prompt_only = prompt_only
        self._opened: set[int] = set()

    def whole(self, answers: Sequence[Answer], prompt_tokens: int) -> Document:
        """The answer of a request that is not streamed."""
        if self._prompt_only:
            for answer in answers:
                answer.text, answer.generated, answer.finish = "", 0, "length"
                answer.tokens, answer.offsets = [], []
        return super().whole(answers, prompt_tokens)

    def choice(self, index: int, answer: Answer) -> Document:
        """One whole choice."""
        lead, prompt_part = self._lead(index, answer.prompt_logprobs)
        own = self._part(answer.tokens, [len(lead) + offset for offset in answer.offsets])
        return _choice(index, lead + answer.text, _joined(prompt_part, own), answer.finish)

    def chunks(self, piece: Piece) -> Iterator[Document]:
        """One chunk for each piece that says anything; the prompt leads the first one."""
        lead, prompt_part = "", None
        if piece.index not in self._opened:
            self._opened.add(piece.index)
            lead, prompt_part = self._lead(piece.index, piece.prompt_logprobs)
        start = len(self._echo[piece.index // self._n]) if self._echo else 0
        text, tokens, finish = piece.text, piece.tokens, piece.finish
        if self._prompt_only:
            text, tokens, finish = "", (), "length" if finish else None
        own = self._part(tokens, [start + offset for offset in piece.offsets])
        if lead or text or tokens or finish:
            choice = _choice(piece.index, lead + text, _joined(prompt_part, own), finish)
            yield self.envelope(self.object_chunk, [choice])

    def _lead(
        self, index: int, logprobs: Sequence[TokenLogprob | None] | None
    ) -> tuple[str, Document | None]:
        """The echoed prompt of choice ``index`` and what is reported of its tokens."""
        if self._echo is None:
            return "", None
        prompt = self._prompts[index // self._n]
        text = self._echo[index // self._n]
        if logprobs is None:
            return text, None
        filled = [
            entry or TokenLogprob(token, float("nan"))
            for token, entry in zip(prompt, logprobs, strict=True)
        ]
        return text, self._part(filled, self._offsets(prompt))

    def _offsets(self, prompt: Sequence[int]) -> list[int]:
        detokenizer = Detokenizer(self.service.tokenizer)
        offsets, length = [], 0
        for token in prompt:
            offsets.append(length)
            length += len(detokenizer.push([token]))
        return offsets

    def _part(self, tokens: Sequence[TokenLogprob], offsets: Sequence[int]) -> Document | None:
        if not self._logprobs:
            return None
        return {
            "tokens": [self._name(token.token) for token in tokens],
            "token_logprobs": [_or_none(token.logprob) for token in tokens],
            "top_logprobs": [self._alternatives(token) for token in tokens],
            "text_offset": list(offsets[: len(tokens)]),
        }

    def _alternatives(self, token: TokenLogprob) -> dict[str, float] | None:
        if token.logprob != token.logprob:  # NaN: the first token of a prompt has no probability
            return None
        pairs = [*token.top, (token.token, token.logprob)]
        return {self._name(other): finite(logprob) for other, logprob in reversed(pairs)}

    def _name(self, token: int) -> str:
        """A token as text; bytes that are no text on their own as OpenAI writes them."""
        raw = self.service.token_bytes(token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _choice(index: int, text: str, logprobs: Document | None, finish: str | None) -> Document:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


def _joined(first: Document | None, second: Document | None) -> Document | None:
    if first is None or second is None:
        return first or second
    return {key: first[key] + second[key] for key in first}


def finite(logprob: float) -> float:
    """A value that JSON can hold; what was impossible is OpenAI's -9999."""
    return max(logprob, -9999.0)


def _or_none(logprob: float) -> float | None:
    return None if logprob != logprob else finite(logprob)
