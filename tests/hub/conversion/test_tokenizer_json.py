"""tokenizer.json and the tokenizer.model reader: SentencePiece is the truth."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer

import llama_hub.hub
from llama_hub.errors import IntegrityError
from llama_hub.hub.conversion import sentencepiece_model
from llama_hub.hub.conversion.tokenizer_json import faithful_json, tokenizer_json
from tests.support.tiers import examples

DEMO = Path(llama_hub.hub.__file__).parent / "sources/demo/tokenizer.model"


@cache
def spaces() -> bytes:
    """A model of source code, with runs of spaces that all have Llama's score of -1e9."""
    lines = [line for line in Path(__file__).read_text().split("\n") if line.strip()] * 3
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines + ["def f(x):", "        return  x" + " " * 12 + "# x"] * 40),
        model_writer=model, model_type="bpe", vocab_size=700, byte_fallback=True,
        split_digits=True, add_dummy_prefix=True, remove_extra_whitespaces=False,
        normalization_rule_name="identity", allow_whitespace_only_pieces=True,
        unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2,
    )  # fmt: skip
    parsed = sentencepiece_model_pb2.ModelProto()
    parsed.ParseFromString(model.getvalue())
    runs = [piece for piece in parsed.pieces if len(piece.piece) > 1 and set(piece.piece) == {"▁"}]
    assert len(runs) > 2
    for piece in runs:
        piece.score = -1e9
    data: bytes = parsed.SerializeToString()
    return data


@cache
def pair(name: str) -> tuple[Tokenizer, sentencepiece.SentencePieceProcessor]:
    data = DEMO.read_bytes() if name == "demo" else spaces()
    made = tokenizer_json(sentencepiece_model.parse(data))
    assert made is not None
    return (
        Tokenizer.from_str(made.decode()),
        sentencepiece.SentencePieceProcessor(model_proto=data),
    )


texts = st.one_of(
    st.text(alphabet="the cat  sat\n\t(x)=12aé😀_", max_size=60),
    st.text(max_size=30).filter(lambda text: "<" not in text and "▁" not in text),
    st.lists(st.sampled_from([" ", "  ", " " * 7, "x", "return", "\n"]), max_size=20).map("".join),
)


@settings(max_examples=examples(40, 1000), deadline=None)
@given(texts)
@pytest.mark.parametrize("name", ["demo", "spaces"])
def test_tokens_and_texts_are_sentencepiece_s(name: str, text: str) -> None:
    fast, model = pair(name)
    if "\0" in text:
        return
    tokens = fast.encode(text).ids
    assert tokens == [1, *model.encode(text)]
    assert fast.decode(tokens) == model.decode(tokens)


@pytest.mark.parametrize("name", ["demo", "spaces"])
def test_the_vocabulary_is_read_as_sentencepiece_reads_it(name: str, tmp_path: Path) -> None:
    data = DEMO.read_bytes() if name == "demo" else spaces()
    (tmp_path / "t.model").write_bytes(data)
    found = sentencepiece_model.read(tmp_path / "t.model")
    model = sentencepiece.SentencePieceProcessor(model_proto=data)
    size = model.get_piece_size()
    assert [piece.text for piece in found.pieces] == [model.id_to_piece(i) for i in range(size)]
    assert [piece.score for piece in found.pieces] == [model.get_score(i) for i in range(size)]
    assert (found.unk_id, found.bos_id, found.eos_id, found.pad_id) == (0, 1, 2, -1)
    assert found.is_bpe
    assert found.add_dummy_prefix
    assert not found.remove_extra_whitespaces
    assert found.text(1) == "<s>"
    assert found.text(-1) is None


def test_a_model_that_cannot_be_expressed_gets_no_tokenizer_json() -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on the mat and did not move at all"] * 10),
        model_writer=model, model_type="unigram", vocab_size=20, minloglevel=2,
    )  # fmt: skip
    assert faithful_json(sentencepiece_model.parse(model.getvalue()), model.getvalue()) is None


def extended(*texts: str, kind: int = 1, score: float = 0.0) -> bytes:
    """The demo's model with more pieces, as a fine-tune for another language extends it."""
    parsed = sentencepiece_model_pb2.ModelProto()
    parsed.ParseFromString(DEMO.read_bytes())
    for text in texts:
        parsed.pieces.add(piece=text, score=score, type=kind)
    data: bytes = parsed.SerializeToString()
    return data


def changed(**settings: object) -> bytes:
    """The demo's model with other settings of its normaliser or trainer."""
    parsed = sentencepiece_model_pb2.ModelProto()
    parsed.ParseFromString(DEMO.read_bytes())
    for key, value in settings.items():
        part = parsed.normalizer_spec if hasattr(parsed.normalizer_spec, key) else None
        setattr(part or parsed.trainer_spec, key, value)
    data: bytes = parsed.SerializeToString()
    return data


@pytest.mark.parametrize(
    "data",
    [
        extended("一", "丁", "一丁", "丁一", "一丁一"),
        extended("一", "一丁", "丁一", score=-1e9),
        extended("<|user|>", kind=4),
        changed(precompiled_charsmap=b"\x01\x00\x00\x00"),
        changed(escape_whitespaces=False),
        changed(treat_whitespace_as_suffix=True),
        changed(remove_extra_whitespaces=True),
    ],
    ids=["score 0", "one score", "user defined", "normaliser", "spaces", "suffix", "extra spaces"],
)
def test_traps_of_extended_vocabularies_get_none_either(data: bytes) -> None:
    assert faithful_json(sentencepiece_model.parse(data), data) is None


@pytest.mark.parametrize("name", ["demo", "spaces"])
def test_what_is_faithful_is_written(name: str) -> None:
    data = DEMO.read_bytes() if name == "demo" else spaces()
    assert faithful_json(sentencepiece_model.parse(data), data) is not None


@pytest.mark.parametrize("name", ["demo", "spaces"])
def test_a_model_comes_back_from_its_vocabulary(name: str) -> None:
    data = DEMO.read_bytes() if name == "demo" else spaces()
    known = sentencepiece_model.parse(data)
    built = sentencepiece_model.build(known)
    assert sentencepiece_model.parse(built) == known
    ours, theirs = (
        sentencepiece.SentencePieceProcessor(model_proto=each) for each in (built, data)
    )
    for text in ("Hello world", "  a\tb é🦙", "the cat sat", ""):
        assert ours.encode(text) == theirs.encode(text)
    bare = sentencepiece.SentencePieceProcessor(
        model_proto=sentencepiece_model.without_dummy_prefix(data)
    )
    assert bare.encode("the") != ours.encode("the")
    assert bare.encode(" Hello") == ours.encode("Hello")


@pytest.mark.parametrize(
    "data",
    [b"", b"\x0a", b"\x0a\xff\xff\xff\xff\x0f", b"\x0f", b"\x0a\x02\x18\x09", b"\x80" * 12],
)
def test_what_is_no_model_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t.model").write_bytes(data)
    with pytest.raises(IntegrityError, match="SentencePiece"):
        sentencepiece_model.read(tmp_path / "t.model")


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_no_bytes_crash_the_reader(data: bytes) -> None:
    try:
        sentencepiece_model.parse(data)
    except (ValueError, IntegrityError):  # the latter: a Git LFS pointer
        pass
