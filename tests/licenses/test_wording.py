"""Which texts count as the same, and what is no licence text at all."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_hub.errors import IntegrityError, LlamaHubError
from llama_hub.licenses.wording import MAX_BYTES, decode, normalised_sha256, read

words = st.lists(st.text("abcü“§.,", min_size=1, max_size=6), min_size=1, max_size=8)
gaps = st.sampled_from([" ", "\n", "\r\n", "\t", "  \n\n ", "\u00a0"])


@given(words, st.data())
def test_layout_does_not_change_the_wording(text: list[str], data: st.DataObject) -> None:
    laid_out = "\ufeff" + "".join(word + data.draw(gaps) for word in text)
    assert normalised_sha256(laid_out) == hashlib.sha256(" ".join(text).encode()).hexdigest()


@given(words, words)
def test_other_words_are_another_wording(one: list[str], other: list[str]) -> None:
    same = normalised_sha256(" ".join(one)) == normalised_sha256("\n".join(other))
    assert same == (one == other)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b" \n\t", "empty"),
        (b"\xff\xfe\x00L", "not UTF-8"),
        (b"PK\0\x03", "binary"),
        (b"\n <!DOCTYPE html><html>", "web page"),
        (b"a" * (MAX_BYTES + 1), "larger"),
    ],
)
def test_what_is_no_licence_text_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(IntegrityError, match=why):
        decode(data, "LICENSE")


@given(st.binary(max_size=64))
def test_any_bytes_are_a_text_or_refused(data: bytes) -> None:
    with contextlib.suppress(IntegrityError):
        assert decode(data, "LICENSE").strip()


def test_files_are_read_with_a_clear_refusal(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_bytes(b"\xef\xbb\xbfWords.\r\n")
    assert read(tmp_path / "LICENSE") == "Words.\r\n"
    for wrong in (tmp_path / "none", tmp_path):
        with pytest.raises(LlamaHubError) as found:
            read(wrong)
        assert str(wrong) in found.value.message
