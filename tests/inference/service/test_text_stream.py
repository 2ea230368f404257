"""One answer's text: pieces join to the whole, stop strings never show, tokens keep their place."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llama_hub.inference.engine import Delta, TokenLogprob
from llama_hub.inference.service.text_stream import Piece, Writer
from llama_hub.inference.tokenizer import Detokenizer
from tests.support.serving import demo_tokenizer

TOKENIZER = demo_tokenizer()
TEXT = st.text(alphabet="ab cdé🙂\n", min_size=1, max_size=40)


def written(text: str, stops: list[str], sizes: list[int]) -> list[Piece]:
    """All pieces of ``text``'s tokens, fed in deltas of the given sizes."""
    tokens = TOKENIZER.encode(text)
    writer = Writer(Detokenizer(TOKENIZER), stops, 0)
    pieces = []
    at = 0
    for size in [*sizes, len(tokens)]:
        part = tuple(tokens[at : at + size])
        at += len(part)
        last = at >= len(tokens)
        delta = Delta(
            part, tuple(TokenLogprob(token, -1.0) for token in part), None, "stop" if last else None
        )
        pieces.append(writer.write(delta))
        if pieces[-1].finish:
            break
    return pieces


def end_of(text: str, stops: list[str]) -> tuple[int | None, int]:
    """Where ``text`` is cut (at the earliest stop string that is whole when the first one is), and
    how many tokens that takes."""
    detokenizer = Detokenizer(TOKENIZER)
    shown = ""
    tokens = TOKENIZER.encode(text)
    for count, token in enumerate(tokens, 1):
        shown += detokenizer.push([token])
        found = [shown.find(stop) for stop in stops if stop in shown]
        if found:
            return min(found), count
    return None, len(tokens)


@given(TEXT, st.lists(TEXT, max_size=3), st.lists(st.integers(1, 4), max_size=30))
def test_text_ends_before_the_first_stop_string(
    text: str, stops: list[str], sizes: list[int]
) -> None:
    pieces = written(text, stops, sizes)
    shown = "".join(piece.text for piece in pieces)
    end, tokens = end_of(text, stops)
    assert pieces[-1].generated == tokens
    assert shown == text[:end]
    assert pieces[-1].finish == "stop"
    assert (pieces[-1].stopped_by is not None) == (end is not None)
    if end is not None:
        assert text.startswith(str(pieces[-1].stopped_by), end)


@given(TEXT, st.lists(st.integers(1, 4), max_size=30))
def test_every_token_is_given_once_at_its_place(text: str, sizes: list[int]) -> None:
    pieces = written(text, ["zzz"], sizes)
    tokens = [token.token for piece in pieces for token in piece.tokens]
    offsets = [offset for piece in pieces for offset in piece.offsets]
    assert tokens == TOKENIZER.encode(text)
    assert offsets == sorted(offsets)
    assert offsets[0] == 0
    assert pieces[-1].generated == len(tokens)


@given(TEXT, TEXT, st.lists(st.integers(1, 4), max_size=30))
def test_tokens_after_a_stop_string_are_not_given(text: str, stop: str, sizes: list[int]) -> None:
    pieces = written(text, [stop], sizes)
    shown = "".join(piece.text for piece in pieces)
    offsets = [offset for piece in pieces for offset in piece.offsets]
    assert all(offset < len(shown) for offset in offsets) or pieces[-1].stopped_by is None
