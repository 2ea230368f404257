"""The tokenizer, both ways: SentencePiece where the model has it, else ``tokenizers``.

``encode`` never makes a special token: ``encode("</s>")`` gives the pieces of those four
characters, never id 2. ``encode_special`` parses them, as raw prompts want it. Decoding a growing
answer needs state, since one character may be spread over several byte pieces: ``Detokenizer``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from llama_hub.errors import IntegrityError, NotFoundError, UsageError
from llama_hub.hub.checkpoints import diagnosis
from llama_hub.hub.conversion.sentencepiece_model import BYTE, USER_DEFINED
from llama_hub.hub.model_config import read_config
from llama_hub.hub.tokenizer import compare, reading, token_files
from llama_hub.hub.tokenizer.token_files import TokenizerSettings
from llama_hub.hub.tokenizer.vocabulary import ModelVocabulary, unused_name
from llama_hub.inference.piece_models import (
    JsonModel,
    PieceModel,
    SentencePieceModel,
    byte_level_table,
)
from llama_hub.inference.special_tokens import Run, Span, SpecialTokens
from llama_hub.strict import FileKind, read_bytes

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece writes a space as this
KIND = FileKind("the tokenizer", max_bytes=64 << 20, hint="download tokenizer.model again")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_log = logging.getLogger(__name__)


def tokenizer_of(folder: Path) -> Tokenizer:
    """The tokenizer of a Hugging Face folder, with all its added tokens and nameless rows."""
    find = reading.folder_files(folder)
    rows = read_config(folder).vocab_size
    vocabulary = reading.read_vocabulary(find, rows, where=str(folder))
    return Tokenizer(folder / "tokenizer.model", vocabulary, token_files.settings(find))


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a folder, or of a ``tokenizer.model`` by itself."""
    return tokenizer_of(path) if path.is_dir() else Tokenizer(path)


class Tokenizer:
    """A model's tokenizer; safe to share between threads."""

    def __init__(
        self,
        path: Path,
        vocabulary: ModelVocabulary | None = None,
        settings: TokenizerSettings | None = None,
    ) -> None:
        """``path``: ``tokenizer.model``, which is all there is without a ``vocabulary``."""
        self.path = path
        try:
            if vocabulary is None:
                vocabulary = _of_file(path)
            self._take(vocabulary, settings or TokenizerSettings())
        except (RuntimeError, ValueError, IndexError) as error:
            # SentencePiece loads what it cannot use: text that is no UTF-8, ids of no piece.
            raise IntegrityError(
                f"{path} is not a SentencePiece model: {error}",
                hint="download tokenizer.model again",
            ) from error

    def _take(self, vocabulary: ModelVocabulary, settings: TokenizerSettings) -> None:
        self.vocabulary = vocabulary
        self.vocab_size = vocabulary.rows
        self.bos_id, self.eos_id = vocabulary.bos_id, vocabulary.eos_id
        self.unk_id = vocabulary.unk_id
        self.end_ids = vocabulary.end_ids
        self._json = _json_model(vocabulary, settings)
        self._special = SpecialTokens(vocabulary.added)
        self._silent = vocabulary.nameless | {
            token for token, known in vocabulary.added.items() if known.special
        }
        self._silent -= {self.unk_id} if self._json is None else set()
        self._bytes: dict[int, bytes] = {}
        self.unknown_text = ""
        self.strips_space = True
        if self._json is None:
            assert vocabulary.sentencepiece is not None
            model = SentencePieceModel(vocabulary.sentencepiece)
            self._model: PieceModel = model
            self._library = model.library
            self.unknown_text = self._library.decode([self.unk_id]) if self.unk_id >= 0 else ""
        else:
            self._model, self._library = self._json, None
            self.strips_space = self._json.strips_space
            if self._json.byte_level:
                self._bytes = _byte_level(vocabulary)
        self._bytes |= {
            token: bytes([int(piece.text[3:5], 16)])
            for token, piece in enumerate(vocabulary.pieces)
            if piece.type == BYTE
        }

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        """Ids of ``text``, begun with BOS and ended with EOS where asked."""
        _check_text(text)
        ids = self._model.encode(text)
        return [self.bos_id] * (bos and self.bos_id >= 0) + ids + [self.eos_id] * eos

    def encode_raw(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Ids of a raw prompt, as the model's own tokenizer cuts it.

        ``add_special``: BOS and EOS around it, as its settings say; ``parse_special``: names of
        special tokens in it are those tokens.
        """
        ids = self.encode_special(text) if parse_special else self.encode(text)
        known = self.vocabulary
        first = [self.bos_id] if add_special and known.add_bos and self.bos_id >= 0 else []
        last = [self.eos_id] if add_special and known.add_eos and self.eos_id >= 0 else []
        return [*first, *ids, *last]

    def encode_special(
        self, text: str, literal: Sequence[Span] = (), *, rendered: bool = False
    ) -> list[int]:
        """Ids of a text in which names of added tokens are those tokens.

        ``literal``: spans of characters that are text whatever stands there. ``rendered``: a text
        of a chat template, to which transformers adds no space if it begins with one.
        ``UsageError`` if a literal text cannot be told from a token.
        """
        _check_text(text)
        if self._json is not None and not literal:
            return self._json.encode_special(text)
        ids: list[int] = []
        for run in self._special.runs(text, literal):
            if run.token is not None:
                ids.append(run.token)
            else:
                ids += self._checked(self._run(run, rendered), run.text)
        return ids

    def _run(self, run: Run, rendered: bool) -> list[int]:
        """Ids of the text between two tokens."""
        rule = self.vocabulary.prefix_rule
        at_start = run.start == 0
        spaced = run.text.startswith((" ", SPACE))
        if rule == "each" or (at_start and not rendered and rule != "never"):
            return self._model.encode(run.text)
        if not spaced and (rule == "always" or (rule == "first" and at_start)):
            return self._model.encode(run.text)
        return self._model.encode_inside(run.text)

    def _checked(self, ids: list[int], text: str) -> list[int]:
        """``ids`` of plain text, in which no special token may be."""
        if self._json is not None:
            for token in self._silent.intersection(ids):
                raise UsageError(
                    f"{self.piece(token)!r} cannot be written as text in {text[:40]!r}"
                )
        return ids

    @property
    def user_defined(self) -> list[str]:
        """Pieces that SentencePiece takes for themselves wherever their text stands."""
        if self._json is not None:
            return []
        pieces = self.vocabulary.pieces
        return [piece.text for piece in pieces if piece.type == USER_DEFINED]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids`` (a leading dummy space removed); special tokens are left out."""
        for token in ids:
            self.check(token)
        if self._library is not None and max(ids, default=0) < len(self.vocabulary.pieces):
            text: str = self._library.decode(list(ids))
            return text
        whole = Detokenizer(self)
        return whole.push(ids) + whole.finish()

    def piece(self, token: int) -> str:
        """The vocabulary entry itself: ``▁Hello``, ``<0x0A>``, ``</s>``."""
        self.check(token)
        return self.vocabulary.name(token) or unused_name(token)

    def check(self, token: int) -> None:
        """``UsageError`` unless ``token`` is in the vocabulary."""
        if not 0 <= token < self.vocab_size:
            raise UsageError(f"token {token} is not in the vocabulary of {self.vocab_size}")

    def is_control(self, token: int) -> bool:
        """Whether the token stands for nothing in a text: BOS, EOS, padding."""
        return token in self._silent

    def raw_bytes(self, token: int) -> bytes | None:
        """The value of a byte piece (or of a byte-level one), else ``None``."""
        return self._bytes.get(token)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that the token adds to a text (which may be part of a character)."""
        value = self.raw_bytes(token)
        return self.surface(token).encode() if value is None else value

    def surface(self, token: int) -> str:
        """The text of one token that is not a byte piece, its leading space kept."""
        if token in self._silent:
            return ""
        if token == self.unk_id:
            return self.unknown_text
        if token >= len(self.vocabulary.pieces):
            return self.piece(token)
        return self.piece(token).replace(SPACE, " ")


def _of_file(path: Path) -> ModelVocabulary:
    """What ``tokenizer.model`` says by itself."""
    if not path.is_file():
        raise NotFoundError(f"there is no tokenizer at {path}")
    diagnosis.refuse_lfs_pointer(path, diagnosis.beginning(path))
    data = read_bytes(path, KIND)
    size = compare.sentencepiece_processor(data).vocab_size()
    return reading.read_vocabulary({"tokenizer.model": data}.get, size)


def _json_model(vocabulary: ModelVocabulary, settings: TokenizerSettings) -> JsonModel | None:
    """``tokenizer.json``, where it is all there is or cuts texts in another way.

    transformers takes it before ``tokenizer.model``; where both cut alike, so does it not matter.
    """
    if vocabulary.tokenizer_json is None:
        return None
    if vocabulary.sentencepiece is None:
        return JsonModel(vocabulary, settings)
    leading = vocabulary.prefix_rule == "each"
    differs = compare.difference(
        vocabulary.sentencepiece, vocabulary.tokenizer_json, vocabulary.pieces, leading=leading
    )
    if differs is None:
        return None
    _log.warning(
        "tokenizer.json cuts %r otherwise than tokenizer.model: tokenizer.json is taken, as "
        "transformers does",
        differs[:60],
    )
    return JsonModel(vocabulary, settings)


def _byte_level(vocabulary: ModelVocabulary) -> dict[int, bytes]:
    table = byte_level_table()
    return {
        token: bytes(table[letter] for letter in piece.text)
        for token, piece in enumerate(vocabulary.pieces)
        if piece.text and all(letter in table for letter in piece.text)
        and token not in vocabulary.added
    }  # fmt: skip


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"the text has a lone surrogate at {error.start}") from error


class Detokenizer:
    """Text of a growing sequence of ids; the pieces joined equal ``Tokenizer.decode``.

    ``continuation``: the ids continue a text, so that the first space is kept; else it is the
    dummy space that SentencePiece puts before every text, and is dropped.
    """

    def __init__(self, tokenizer: Tokenizer, *, continuation: bool = False) -> None:
        self._tokenizer = tokenizer
        self._pending = bytearray()  # bytes that do not make a whole character yet
        self._at_start = not continuation and tokenizer.strips_space

    def push(self, tokens: Iterable[int]) -> str:
        """The text that ``tokens`` complete; may be empty."""
        return "".join(self._push(token) for token in tokens)

    def finish(self) -> str:
        """What is left at the end: each byte of an unfinished character becomes U+FFFD."""
        return self._whole_characters(final=True)

    def _push(self, token: int) -> str:
        value = self._tokenizer.raw_bytes(token)
        if value is not None:
            self._at_start = False
            self._pending += value
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
