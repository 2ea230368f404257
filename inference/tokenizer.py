"""Text to token ids and back, with SentencePiece as the only truth.

Special tokens cannot be written as text: ``encode("</s>")`` gives the pieces of
those four characters, never id 2. Decoding a growing answer needs state, since
one character may be spread over several byte pieces: ``Detokenizer``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llama_hub.errors import IntegrityError, MissingExtraError, NotFoundError, UsageError
from llama_hub.hub.checkpoints import diagnosis
from llama_hub.strict import FileKind, read_bytes

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece writes a space as this
KIND = FileKind("the tokenizer", max_bytes=64 << 20, hint="download tokenizer.model again")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Tokenizer:
    """The model's ``tokenizer.model``; safe to share between threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            diagnosis.refuse_lfs_pointer(path, diagnosis.beginning(path))
            self._take(_load(path))
        except (RuntimeError, ValueError, IndexError) as error:
            # SentencePiece loads what it cannot use: text that is no UTF-8, ids of no piece.
            raise IntegrityError(
                f"{path} is not a SentencePiece model: {error}",
                hint="download tokenizer.model again",
            ) from error

    def _take(self, model: Any) -> None:
        self._model = model
        self.vocab_size: int = self._model.vocab_size()
        self.bos_id: int = self._model.bos_id()
        self.eos_id: int = self._model.eos_id()
        self.unk_id: int = self._model.unk_id()
        ids = range(self.vocab_size)
        self._pieces: list[str] = self._model.id_to_piece(list(ids))
        self._control = frozenset(token for token in ids if self._model.is_control(token))
        self._bytes = {t: int(self._pieces[t][3:5], 16) for t in ids if self._model.is_byte(t)}
        self.unknown_text: str = self._model.decode([self.unk_id])

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        """Ids of ``text``, begun with BOS and ended with EOS where asked."""
        try:
            ids: list[int] = self._model.encode(text.encode())
        except UnicodeEncodeError as error:
            raise UsageError(f"the text has a lone surrogate at {error.start}") from error
        return [self.bos_id] * bos + ids + [self.eos_id] * eos

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids`` as SentencePiece decodes it (its leading dummy space removed)."""
        for token in ids:
            self.check(token)
        text: str = self._model.decode(list(ids))
        return text

    def piece(self, token: int) -> str:
        """The vocabulary entry itself: ``▁Hello``, ``<0x0A>``, ``</s>``."""
        self.check(token)
        return self._pieces[token]

    def check(self, token: int) -> None:
        """``UsageError`` unless ``token`` is in the vocabulary."""
        if not 0 <= token < self.vocab_size:
            raise UsageError(f"token {token} is not in the vocabulary of {self.vocab_size}")

    def is_control(self, token: int) -> bool:
        """Whether the token stands for nothing in a text: BOS, EOS, padding."""
        return token in self._control

    def byte(self, token: int) -> int | None:
        """The value of a byte piece, else ``None``."""
        return self._bytes.get(token)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that the token adds to a text (which may be part of a character)."""
        value = self.byte(token)
        if value is not None:
            return bytes([value])
        return self.surface(token).encode()

    def surface(self, token: int) -> str:
        """The text of one token that is not a byte piece, its leading space kept."""
        if token in self._control:
            return ""
        if token == self.unk_id:
            return self.unknown_text
        return self.piece(token).replace(SPACE, " ")


class Detokenizer:
    """Text of a growing sequence of ids; the pieces joined equal ``Tokenizer.decode``.

    ``continuation``: the ids continue a text, so that the first space is kept; else it is the
    dummy space that SentencePiece puts before every text, and is dropped.
    """

    def __init__(self, tokenizer: Tokenizer, *, continuation: bool = False) -> None:
        self._tokenizer = tokenizer
        self._pending = bytearray()  # bytes that do not make a whole character yet
        self._at_start = not continuation

    def push(self, tokens: Iterable[int]) -> str:
        """The text that ``tokens`` complete; may be empty."""
        return "".join(self._push(token) for token in tokens)

    def finish(self) -> str:
        """What is left at the end: each byte of an unfinished character becomes U+FFFD."""
        return self._whole_characters(final=True)

    def _push(self, token: int) -> str:
        value = self._tokenizer.byte(token)
        if value is not None:
            self._at_start = False
            self._pending.append(value)
            return self._whole_characters(final=False)
        if self._tokenizer.is_control(token):
            return self._whole_characters(final=True)
        return self._whole_characters(final=True) + self._surface(token)

    def _surface(self, token: int) -> str:
        text = self._tokenizer.surface(token)
        if self._at_start and token != self._tokenizer.unk_id:
            text = text.removeprefix(" ")
        self._at_start = False
        return text

    def _whole_characters(self, *, final: bool) -> str:
        """Take from the pending bytes what can be decoded; a bad byte is one U+FFFD."""
        out: list[str] = []
        while self._pending:
            length = _character_length(self._pending)
            if length == 0 and not final:
                break
            whole = max(length, 1)
            out.append(self._pending[:whole].decode(errors="ignore") or REPLACEMENT)
            del self._pending[:whole]
        return "".join(out)


def _character_length(data: bytearray) -> int:
    """Bytes of the UTF-8 character at the start: 0 if more are needed, 1 if it is no character."""
    for length in range(1, min(len(data), 4) + 1):
        try:
            data[:length].decode()
            return length
        except UnicodeDecodeError as error:
            if error.reason != "unexpected end of data":
                return 1
    return 0


def _load(path: Path) -> Any:
    try:
        from sentencepiece import SentencePieceProcessor
    except ModuleNotFoundError as error:
        raise MissingExtraError("sentencepiece", "serve") from error
    if not path.is_file():
        raise NotFoundError(f"there is no tokenizer at {path}")
    return SentencePieceProcessor(model_proto=read_bytes(path, KIND))
