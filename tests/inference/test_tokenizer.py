"""SentencePiece itself is the judge; the model has Llama 2's settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from llama_hub.errors import IntegrityError, NotFoundError, UsageError
from llama_hub.inference.tokenizer import Detokenizer, Tokenizer
from tests.support.make_checkpoint import tokenizer as model_bytes

JUDGE = sentencepiece.SentencePieceProcessor(model_proto=model_bytes())
token_lists = st.lists(st.integers(0, 287), max_size=30)
texts = st.text(max_size=40) | st.lists(
    st.sampled_from(["the cat ", "<s>", "</s>", "[INST]", "  ", "é", "🦙", "\n", "12"]), max_size=12
).map("".join)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(model_bytes())
    return Tokenizer(path)


@given(texts)
def test_encoding_equals_sentencepiece(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.encode(text) == JUDGE.encode(text)
    assert tokenizer.encode(text, bos=True, eos=True) == [1, *JUDGE.encode(text), 2]


@given(texts)
def test_special_tokens_cannot_be_written_as_text(tokenizer: Tokenizer, text: str) -> None:
    assert not {1, 2} & set(tokenizer.encode(text))


@given(token_lists)
def test_decoding_equals_sentencepiece(tokenizer: Tokenizer, tokens: list[int]) -> None:
    assert tokenizer.decode(tokens) == JUDGE.decode(tokens)


@given(texts.filter(lambda text: "\x00" not in text))
def test_a_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(token_lists)
def test_pieces_of_a_stream_join_to_the_whole_text(tokenizer: Tokenizer, tokens: list[int]) -> None:
    stream = Detokenizer(tokenizer)
    shown = "".join(stream.push([token]) for token in tokens) + stream.finish()
    assert shown == JUDGE.decode(tokens)


@given(texts.filter(lambda text: "\x00" not in text), token_lists)
def test_a_continuation_joins_to_its_prompt(
    tokenizer: Tokenizer, prompt: str, tokens: list[int]
) -> None:
    """For a prompt that is a whole text, the answer's own first space is kept."""
    start = tokenizer.encode(prompt + "x")
    stream = Detokenizer(tokenizer, continuation=True)
    assert prompt + "x" + stream.push(tokens) + stream.finish() == JUDGE.decode(start + tokens)


def test_an_emoji_waits_for_its_last_byte(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("a🦙b")
    stream = Detokenizer(tokenizer)
    shown = [stream.push([token]) for token in tokens]
    assert "".join(shown) == "a🦙b"
    assert [piece for piece in shown if piece] == ["a", "🦙", "b"]


def test_every_token_has_the_bytes_that_it_adds(tokenizer: Tokenizer) -> None:
    text = "the cat ate 12 🦙"
    joined = b"".join(tokenizer.token_bytes(token) for token in tokenizer.encode(text))
    assert joined.decode() == " " + text


@pytest.mark.parametrize("token", [-1, 288])
def test_a_token_outside_the_vocabulary_is_refused(tokenizer: Tokenizer, token: int) -> None:
    with pytest.raises(UsageError, match="not in the vocabulary of 288"):
        tokenizer.decode([5, token])
    with pytest.raises(UsageError):
        tokenizer.piece(token)


def test_a_lone_surrogate_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match="surrogate"):
        tokenizer.encode("a\ud800")


def test_a_missing_and_a_damaged_model(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        Tokenizer(tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer.model").write_bytes(b"<html>not found</html>")
    with pytest.raises(IntegrityError):
        Tokenizer(tmp_path / "tokenizer.model")
