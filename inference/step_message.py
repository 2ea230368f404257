"""A step's pieces as bytes, for the other processes of a tensor-parallel model.

A frame is its length (uint32, little-endian) and int32 numbers: how many pieces, what is wanted
(logits, hidden states, or that the pages which follow are given back); for each piece its numbers
of tokens and pages, start, rows wanted and prompt tokens; then all tokens and all pages, piece by
piece.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from llama_hub.inference.batch import Piece

HEAD = 2  # numbers before those of the pieces
_LOGITS, _HIDDEN, _GIVE_BACK = range(3)  # what is wanted
FIELDS = 5  # numbers of a piece, besides its tokens and pages
_LENGTH = struct.Struct("<I")


def encode(pieces: Sequence[Piece], *, hidden: bool = False) -> bytes:
    """The pieces as one payload; ``hidden``: what is wanted of them."""
    numbers = array("i", [len(pieces), _HIDDEN if hidden else _LOGITS])
    for piece in pieces:
        sizes = (len(piece.tokens), len(piece.pages))
        numbers.extend((*sizes, piece.start, piece.wanted, piece.prompt))
    for piece in pieces:
        numbers.extend(piece.tokens)
        numbers.extend(piece.pages)
    return _little(numbers).tobytes()


def encode_give_back(pages: Sequence[int]) -> bytes:
    """Pages of the cache whose memory is to go, as one payload."""
    return _little(array("i", [0, _GIVE_BACK, *pages])).tobytes()


@dataclass(frozen=True)
class Message:
    """What one payload asks for: a step, or pages to give back."""

    pieces: list[Piece]
    hidden: bool = False
    give_back: Sequence[int] = ()


def decode(payload: bytes) -> Message:
    """What was encoded."""
    numbers = _little(array("i", payload))
    if numbers[1] == _GIVE_BACK:
        return Message([], give_back=numbers[HEAD:])
    count, at = numbers[0], HEAD + numbers[0] * FIELDS
    pieces: list[Piece] = []
    for index in range(count):
        head = numbers[HEAD + index * FIELDS : HEAD + (index + 1) * FIELDS]
        tokens, pages, start, wanted, prompt = head
        middle, end = at + tokens, at + tokens + pages
        own = (tuple(numbers[at:middle]), start, tuple(numbers[middle:end]))
        pieces.append(Piece(*own, wanted=wanted, prompt=prompt))
        at = end
    return Message(pieces, hidden=numbers[1] == _HIDDEN)


def write_frame(stream: IO[bytes], payload: bytes) -> None:
    """Send one payload."""
    stream.write(_LENGTH.pack(len(payload)) + payload)
    stream.flush()


def frames(stream: IO[bytes]) -> Iterator[bytes]:
    """All payloads until the stream ends; a frame that is cut off ends it too."""
    while len(head := stream.read(_LENGTH.size)) == _LENGTH.size:
        (length,) = _LENGTH.unpack(head)
        payload = stream.read(length)
        if len(payload) < length:
            return
        yield payload


def _little(numbers: array[int]) -> array[int]:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
