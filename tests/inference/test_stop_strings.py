"""Stop strings against the simple way: cut the whole text at the first one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llama_hub.inference.stop_strings import StopStrings

letters = st.text("ab\n", max_size=20)


def cut(text: str, stops: list[str]) -> str:
    """The text up to the earliest stop string."""
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]


@given(
    st.lists(letters, max_size=12), st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3)
)
def test_a_stream_is_cut_where_the_whole_text_is(pieces: list[str], stops: list[str]) -> None:
    """Up to which piece decides: a stop string may end earlier than one that begins before it."""
    watch = StopStrings(stops)
    shown = ""
    for count, piece in enumerate(pieces, 1):
        shown += watch.push(piece)
        so_far = "".join(pieces[:count])
        if watch.found is not None:
            assert shown == cut(so_far, stops)
            assert so_far[len(shown) :].startswith(watch.found)
            assert watch.push("more") == watch.finish() == ""
            return
        assert cut(so_far, stops) == so_far
        assert so_far.startswith(shown)
    assert shown + watch.finish() == "".join(pieces)


def test_text_that_may_begin_a_stop_string_waits() -> None:
    watch = StopStrings(["\nUser:"])
    assert watch.push("Hello.\nUs") == "Hello."
    assert watch.push("ed") == "\nUsed"
    assert watch.push("\nUser") == ""
    assert watch.push(": hi") == ""
    assert watch.found == "\nUser:"


def test_no_stop_strings_hold_nothing_back() -> None:
    watch = StopStrings([])
    assert watch.push("abc") == "abc"
    assert watch.finish() == ""
