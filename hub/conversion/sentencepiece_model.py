"""A reader of SentencePiece's ``tokenizer.model`` that does not need SentencePiece.

The file is a protobuf message ``ModelProto`` (google/sentencepiece, ``sentencepiece_model.proto``):
field 1 repeats the pieces (1 text, 2 score, 3 type), field 2 is the trainer's settings (3 model
type, 24 whitespace as suffix, 35 byte fallback, 40 to 43 the ids of unk, bos, eos, pad, 45 to 47
their pieces), field 3 the normaliser's (2 a table of characters, 3 dummy prefix, 4 extra
whitespace, 5 spaces written as U+2581). Converting needs no more than that.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llama_hub.errors import IntegrityError
from llama_hub.hub.checkpoints import diagnosis
from llama_hub.strict import FileKind, read_bytes

KIND = FileKind(
    "the tokenizer", max_bytes=8 << 20, hint="download tokenizer.model again"
)  # Llama 2's has 500 kB
MAX_PIECES = 1 << 18  # Llama 2: 32,000
MAX_LETTERS = 1 << 10  # of a piece; SentencePiece trains up to 16
# Fields of one message: of the model, of the trainer's and the normaliser's settings, of a piece.
MAX_FIELDS, MAX_SETTINGS, MAX_PARTS = MAX_PIECES + 64, 1 << 14, 6

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


@dataclass(frozen=True)
class Piece:
    """One token; ``type`` is one of NORMAL … BYTE (GGUF uses the same numbers)."""

    text: str
    score: float
    type: int


@dataclass(frozen=True)
class Vocabulary:
    """The pieces by id, and the settings that matter to other tokenizers; -1: no such token."""

    pieces: tuple[Piece, ...]
    unk_id: int = 0
    bos_id: int = 1
    eos_id: int = 2
    pad_id: int = -1
    is_bpe: bool = False
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    byte_fallback: bool = True
    is_plain: bool = True  # no table of characters, spaces written as U+2581 and before words

    def text(self, token: int) -> str | None:
        """The piece of a token id; ``None`` for -1."""
        return self.pieces[token].text if 0 <= token < len(self.pieces) else None


def read(path: Path) -> Vocabulary:
    """The vocabulary; ``IntegrityError`` if the file is none."""
    try:
        return parse(read_bytes(path, KIND))
    except ValueError as error:
        raise IntegrityError(
            f"{path} is no SentencePiece model: {error}",
            hint="download tokenizer.model again",
        ) from error


def parse(data: bytes) -> Vocabulary:
    """A vocabulary from the file's bytes; ``ValueError`` if they are no such message."""
    diagnosis.refuse_lfs_pointer(Path("tokenizer.model"), data)
    pieces: list[Piece] = []
    settings: dict[int, dict[int, int]] = {}
    has_table = False
    for number, value in fields(data, MAX_FIELDS):
        if number == 1 and isinstance(value, bytes):
            pieces.append(_piece(value))
        elif number in (2, 3) and isinstance(value, bytes):
            if number in settings:
                raise ValueError(f"the settings {number} stand twice")
            settings[number] = _numbers(value)
            has_table |= number == 3 and _has_table(value)
    if not pieces:
        raise ValueError("it holds no pieces")
    trainer, normaliser = settings.get(2, {}), settings.get(3, {})
    ids = [trainer.get(key, -1) for key in (41, 42, 43)] + [max(0, trainer.get(40, 0))]
    if min(ids) < -1 or max(ids) >= len(pieces):
        raise ValueError(f"the id of a special token is not one of {len(pieces)} pieces")
    return Vocabulary(
        pieces=tuple(pieces),
        unk_id=trainer.get(40, 0),
        bos_id=trainer.get(41, 1),
        eos_id=trainer.get(42, 2),
        pad_id=trainer.get(43, -1),
        is_bpe=trainer.get(3, 1) == 2,
        add_dummy_prefix=bool(normaliser.get(3, 1)),
        remove_extra_whitespaces=bool(normaliser.get(4, 1)),
        byte_fallback=bool(trainer.get(35, 0)),
        is_plain=not has_table and bool(normaliser.get(5, 1)) and not trainer.get(24, 0),
    )


def _has_table(normaliser: bytes) -> bool:
    """Whether characters are replaced before anything else (``precompiled_charsmap``)."""
    return any(number == 2 and value for number, value in fields(normaliser, MAX_SETTINGS))


def build(vocabulary: Vocabulary) -> bytes:
    """The file of a vocabulary; ``parse`` gives it back."""
    names = {45: vocabulary.unk_id, 46: vocabulary.bos_id, 47: vocabulary.eos_id}
    names[48] = vocabulary.pad_id
    trainer = _number(3, 2 if vocabulary.is_bpe else 1)
    trainer += _number(4, len(vocabulary.pieces)) + _number(35, vocabulary.byte_fallback)
    ids = (vocabulary.unk_id, vocabulary.bos_id, vocabulary.eos_id, vocabulary.pad_id)
    trainer += b"".join(_number(40 + place, token) for place, token in enumerate(ids))
    for field, token in names.items():
        text = vocabulary.text(token)
        trainer += b"" if text is None else _block(field, text.encode())
    normaliser = _block(1, b"identity") + _number(3, vocabulary.add_dummy_prefix)
    normaliser += _number(4, vocabulary.remove_extra_whitespaces) + _number(5, 1)
    listed = b"".join(_block(1, _piece_bytes(piece)) for piece in vocabulary.pieces)
    return listed + _block(2, trainer) + _block(3, normaliser)


def without_dummy_prefix(data: bytes) -> bytes:
    """The same model, which puts no space before a text; a message may be given in parts."""
    return data + _block(3, _number(3, 0))


def _piece_bytes(piece: Piece) -> bytes:
    return (
        _block(1, piece.text.encode())
        + b"\x15"
        + struct.pack("<f", piece.score)
        + (_number(3, piece.type))
    )


def _number(field: int, value: int) -> bytes:
    return _packed(field << 3) + _packed(value & 0xFFFFFFFFFFFFFFFF)


def _block(field: int, data: bytes) -> bytes:
    return _packed(field << 3 | 2) + _packed(len(data)) + data


def _packed(value: int) -> bytes:
    """A varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _piece(data: bytes) -> Piece:
    text, score, kind = "", 0.0, NORMAL
    for number, value in fields(data, MAX_PARTS):
        if number == 1 and isinstance(value, bytes):
            text = value.decode("utf-8")
        elif number == 2 and isinstance(value, float):
            score = value
        elif number == 3 and isinstance(value, int):
            kind = value
    if not NORMAL <= kind <= BYTE or not math.isfinite(score):
        raise ValueError(f"a piece of type {kind} and score {score}")
    if len(text) > MAX_LETTERS:
        raise ValueError(f"a piece of {len(text)} letters")
    return Piece(text, score, kind)


def _numbers(data: bytes) -> dict[int, int]:
    """The whole-number fields, as signed 32-bit values."""
    parts = fields(data, MAX_SETTINGS)
    values = {number: value for number, value in parts if isinstance(value, int)}
    return {
        number: (value & 0xFFFFFFFF) - (1 << 32 if value & 0x80000000 else 0)
        for number, value in values.items()
    }


def fields(data: bytes, most: int) -> Iterator[tuple[int, int | float | bytes]]:
    """(field number, value) of a protobuf message: varint, fixed 32 as float, or bytes.

    ``ValueError`` for more than ``most`` fields or an unknown wire type.
    """
    at = count = 0
    while at < len(data):
        count += 1
        if count > most:
            raise ValueError(f"more than {most} fields")
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            whole, at = _varint(data, at)
            yield number, whole
        elif wire == 5:
            value, at = _bytes(data, at, 4)
            yield number, struct.unpack("<f", value)[0]
        elif wire in (1, 2):
            size, at = (8, at) if wire == 1 else _varint(data, at)
            value, at = _bytes(data, at, size)
            yield number, value
        else:
            raise ValueError(f"wire type {wire}")


def _bytes(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    if at + size > len(data):
        raise ValueError("a field reaches beyond the end")
    return data[at : at + size], at + size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("a number is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number without an end")
