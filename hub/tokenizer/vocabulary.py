"""One model's whole vocabulary, whatever files it was read from.

A vocabulary is pieces (``tokenizer.model``, or the model of ``tokenizer.json``), tokens that a
fine-tune added behind or over them, and rows of the embedding that nothing names. Those nameless
rows are padding: they may be read as ids, but they are never sampled and stand for no text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from llama_hub.hub.conversion.sentencepiece_model import (
    CONTROL,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    Piece,
)

# Before which runs of text a space is put, where no added token stands:
# each run; each that does not begin with one; only a run at the beginning of the text; none.
PrefixRule = Literal["each", "always", "first", "never"]
DEFAULT_TEMPLATE = "default"


@dataclass(frozen=True)
class AddedToken:
    """A text that is one token wherever it stands; the flags are those of ``tokenizers``."""

    text: str
    special: bool = True  # left out of decoded text
    normalized: bool = False  # looked for after normalising
    lstrip: bool = False  # takes the spaces before it
    rstrip: bool = False  # takes the spaces behind it
    single_word: bool = False  # only between word boundaries

    @property
    def piece(self) -> Piece:
        """The token as GGUF and SentencePiece list it."""
        return Piece(self.text, 0.0, CONTROL if self.special else USER_DEFINED)


@dataclass(frozen=True, kw_only=True)
class ModelVocabulary:
    """All that is known of a model's tokens; -1: there is no such token."""

    pieces: tuple[Piece, ...]  # by id, without what was added behind them
    rows: int  # of the embedding
    added: Mapping[int, AddedToken] = field(default_factory=dict)  # some may name pieces again
    bos_id: int = 1
    eos_id: int = 2  # the one that formats with room for one token take
    unk_id: int = 0
    pad_id: int = -1
    end_ids: frozenset[int] = frozenset({2})  # each of them ends an answer
    add_bos: bool = True  # whether a text begins with BOS
    add_eos: bool = False
    add_dummy_prefix: bool = True  # whether a text begins with a space
    prefix_rule: PrefixRule = "first"
    chat_templates: Mapping[str, str] = field(default_factory=dict)  # by name
    sentencepiece: bytes | None = None  # tokenizer.model, where the model has one
    tokenizer_json: bytes | None = None  # the same of tokenizer.json

    @property
    def chat_template(self) -> str | None:
        """The template that a conversation is written with; ``None`` if there is none."""
        if len(self.chat_templates) == 1:
            return next(iter(self.chat_templates.values()))
        return self.chat_templates.get(DEFAULT_TEMPLATE)

    def name(self, token: int) -> str | None:
        """The text of a token; ``None`` for a nameless row and for an id outside."""
        if token in self.added:
            return self.added[token].text
        return self.pieces[token].text if 0 <= token < len(self.pieces) else None

    def id(self, text: str) -> int:
        """The token of that name, -1 without one; an added token hides a piece."""
        return self._ids.get(text, -1)

    @cached_property
    def _ids(self) -> dict[str, int]:
        ids: dict[str, int] = {}
        for token, piece in enumerate(self.pieces):
            ids.setdefault(piece.text, token)
        return ids | {known.text: token for token, known in self.added.items()}

    @property
    def nameless(self) -> frozenset[int]:
        """The rows that no token names."""
        return frozenset(range(len(self.pieces), self.rows)) - set(self.added)

    def padded(self) -> list[Piece]:
        """A piece for every row of the embedding, as GGUF wants it; nameless rows are UNUSED."""
        listed = list(self.pieces)
        for token in range(len(listed), self.rows):
            known = self.added.get(token)
            listed.append(known.piece if known else Piece(unused_name(token), 0.0, UNUSED))
        for token, known in self.added.items():
            if token < len(self.pieces) and known.special and listed[token].type == NORMAL:
                listed[token] = known.piece
        return listed


def unused_name(token: int) -> str:
    """What a nameless row is called where every row needs a name of its own."""
    return f"<unused_{token}>"


def split_added(pieces: Sequence[Piece]) -> tuple[tuple[Piece, ...], dict[int, AddedToken]]:
    """The pieces of the tokenizer itself, and what was added behind them, of a list for every row.

    What stands behind the last ordinary piece or byte was added; nameless rows are left out.
    """
    last = max((n for n, piece in enumerate(pieces) if piece.type not in _ADDED_TYPES), default=-1)
    added = {
        token: AddedToken(piece.text, special=piece.type == CONTROL)
        for token, piece in enumerate(pieces)
        if token > last and piece.type in (CONTROL, USER_DEFINED)
    }
    return tuple(pieces[: last + 1]), added


_ADDED_TYPES = (CONTROL, USER_DEFINED, UNUSED)
