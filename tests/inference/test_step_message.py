"""A step's pieces on their way to the other processes."""

from __future__ import annotations

import io
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llama_hub.inference.batch import Piece
from llama_hub.inference.step_message import (
    Message,
    decode,
    encode,
    encode_give_back,
    frames,
    write_frame,
)

NUMBERS = st.integers(0, 2**31 - 1)
LISTS = st.lists(NUMBERS, max_size=20).map(tuple)
PIECES = st.builds(Piece, LISTS, NUMBERS, LISTS, wanted=NUMBERS, prompt=NUMBERS)


@given(st.lists(PIECES, max_size=6), st.booleans())
def test_what_arrives_is_what_was_sent(pieces: list[Piece], hidden: bool) -> None:
    assert decode(encode(pieces, hidden=hidden)) == Message(pieces, hidden=hidden)


@given(LISTS.filter(bool))
def test_pages_to_give_back_arrive(pages: tuple[int, ...]) -> None:
    message = decode(encode_give_back(pages))
    assert (message.pieces, tuple(message.give_back)) == ([], pages)


@given(st.lists(st.binary(max_size=40)), st.integers(0, 3))
def test_frames_end_with_the_stream(payloads: list[bytes], cut: int) -> None:
    stream = io.BytesIO()
    for payload in payloads:
        write_frame(stream, payload)
    whole = stream.getvalue()
    assert list(frames(io.BytesIO(whole))) == payloads
    if payloads and cut:
        assert list(frames(io.BytesIO(whole[:-cut]))) == payloads[:-1]


def test_a_step_of_long_sequences_is_small() -> None:
    """16 sequences of 4000 tokens: their pages are four bytes each."""
    pieces: list[Any] = [Piece((1,), 4000, tuple(range(250))) for _ in range(16)]
    assert len(encode(pieces)) <= 16 * (250 + 8) * 4
