"""The tokenizer of a GGUF file's own keys; SentencePiece and transformers are the judges."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
import sentencepiece

import llama_hub.hub
from llama_hub.errors import IntegrityError
from llama_hub.hub.checkpoints import gguf_tokenizer
from llama_hub.hub.checkpoints.gguf import read_header
from llama_hub.hub.conversion.convert import convert
from llama_hub.hub.conversion.sentencepiece_model import CONTROL, USER_DEFINED
from llama_hub.hub.tokenizer.reading import folder_files, read_vocabulary
from llama_hub.hub.tokenizer.vocabulary import ModelVocabulary
from tests.support import gguf_files
from tests.support.lazy import transformers
from tests.support.make_checkpoint import tokenizer

DEMO = Path(llama_hub.hub.__file__).parent / "sources/demo/tokenizer.model"
LICENSE = "other-open"
TEXTS = (
    "Hello world",
    "  two  spaces ",
    "the cat sat",
    "12 fish; ñandú 🦙\n\ttab",
    "",
    " ",
    "</s>x",
)
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
)


@pytest.fixture(scope="module")
def fine_tune(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ChatML fine-tune as people publish them: padded rows, two end tokens, no BOS."""
    folder = tmp_path_factory.mktemp("in") / "acme-chat"
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=1288, max_position_embeddings=256, rms_norm_eps=1e-6,
        eos_token_id=[1280, 2], rope_parameters={"rope_type": "default", "rope_theta": 5e5},
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).half().save_pretrained(folder)
    shutil.copy(DEMO, folder)
    added = {
        1280: {"content": "<|im_end|>", "special": True},
        1281: {"content": "<|im_start|>", "special": True, "lstrip": True},
        1282: {"content": "<think>", "special": False, "normalized": False, "single_word": True},
        1283: {"content": "<pad>", "special": True},
    }
    settings = {
        "tokenizer_class": "LlamaTokenizer", "add_bos_token": False, "bos_token": "<s>",
        "eos_token": "<|im_end|>", "pad_token": "<pad>", "unk_token": "<unk>",
        "added_tokens_decoder": {str(token): entry for token, entry in added.items()},
        "chat_template": TEMPLATE,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    generation = {"eos_token_id": [1280, 2], "pad_token_id": 1283}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


@pytest.fixture(scope="module")
def way_back(fine_tune: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same from a GGUF file that has nothing beside it."""
    work = tmp_path_factory.mktemp("back")
    made = convert(fine_tune, work / "m.gguf", to="gguf", license=LICENSE).path
    alone = work / "alone" / "m.gguf"
    alone.parent.mkdir()
    made.replace(alone)
    return convert(alone, work / "hf", to="hf", license=LICENSE).path


def test_nothing_of_a_fine_tune_is_lost_on_the_way_back(fine_tune: Path, way_back: Path) -> None:
    before = read_vocabulary(folder_files(fine_tune), 1288)
    after = read_vocabulary(folder_files(way_back), 1288)
    files = {"sentencepiece": None, "tokenizer_json": None, "prefix_rule": "first"}
    assert replace(after, **files) == replace(before, **files)  # type: ignore[arg-type]
    assert after.end_ids == {1280, 2}
    assert after.nameless == frozenset(range(1284, 1288))
    configs = [json.loads((folder / "config.json").read_text()) for folder in (fine_tune, way_back)]
    for key in ("vocab_size", "rms_norm_eps", "max_position_embeddings", "num_key_value_heads"):
        assert configs[0][key] == configs[1][key]
    assert configs[1]["eos_token_id"] == [1280, 2]
    assert configs[1]["pad_token_id"] == 1283
    assert configs[1]["rope_theta"] == 5e5


def test_transformers_cuts_texts_and_chats_alike(fine_tune: Path, way_back: Path) -> None:
    before = transformers.AutoTokenizer.from_pretrained(fine_tune)
    after = transformers.AutoTokenizer.from_pretrained(way_back)
    # A text that begins with a space loses it where transformers reads a bare tokenizer.model.
    plain = [text for text in TEXTS if not text.startswith(" ")]
    for text in (*plain, "<|im_start|>user\nhi<|im_end|>"):
        assert after(text)["input_ids"] == before(text)["input_ids"], text
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]
    rendered = [one.apply_chat_template(messages, tokenize=False) for one in (before, after)]
    assert rendered[0] == rendered[1]
    assert "<|im_start|>user" in rendered[0]


def test_transformers_reads_the_tokenizer_of_the_file_itself(
    fine_tune: Path, tmp_path: Path
) -> None:
    convert(fine_tune, tmp_path / "m.gguf", to="gguf", license=LICENSE)
    before = transformers.AutoTokenizer.from_pretrained(fine_tune)
    after = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    for text in (*TEXTS, "<|im_start|>user\nhi<|im_end|>"):
        assert after(text)["input_ids"] == before(text)["input_ids"], text
    assert (after.eos_token, after.pad_token) == ("<|im_end|>", "<pad>")
    assert after.chat_template == TEMPLATE


def test_a_stranger_s_file_gives_sentencepiece_s_tokenizer(tmp_path: Path) -> None:
    gguf_files.write(tmp_path / "m.gguf")
    convert(tmp_path / "m.gguf", tmp_path / "hf", to="hf", license=LICENSE)
    ours = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "hf/tokenizer.model"))
    original = sentencepiece.SentencePieceProcessor(model_proto=tokenizer())
    for text in TEXTS:
        assert ours.encode(text) == original.encode(text), text
    assert (ours.bos_id(), ours.eos_id(), ours.unk_id()) == (1, 2, 0)


def test_what_lies_beside_a_lone_file_is_another_s(tmp_path: Path) -> None:
    gguf_files.write(tmp_path / "m.gguf")
    shutil.copy(DEMO, tmp_path)  # of a model with 1280 pieces
    (tmp_path / "LICENSE").write_text("MIT\n")
    (tmp_path / "README.md").write_text("# Some program\n")
    convert(tmp_path / "m.gguf", tmp_path / "hf", to="hf", license=LICENSE)
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "hf/tokenizer.model"))
    assert model.vocab_size() == 288
    assert not (tmp_path / "hf/LICENSE").exists()
    assert "Some program" not in (tmp_path / "hf/README.md").read_text()


def test_a_fine_tune_in_meta_s_layout_keeps_its_tokens(fine_tune: Path, tmp_path: Path) -> None:
    made = convert(fine_tune, tmp_path / "m.gguf", to="gguf", license=LICENSE).path
    meta = convert(made, tmp_path / "meta", to="meta").path
    found = read_vocabulary(folder_files(meta), 1288)
    assert found.id("<|im_start|>") == 1281
    assert found.end_ids == {1280, 2}
    assert found.chat_template == TEMPLATE


# ------------------------------------------------------------------ the keys themselves


def values(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "<0x41>", "a", "<|x|>"],
        "tokenizer.ggml.scores": [0.0, 0.0, 0.0, 0.0, -1.0, -1000.0],
        "tokenizer.ggml.token_type": [2, 3, 3, 6, 1, 3],
    }
    return base | {f"tokenizer.{key.replace('__', '.')}": value for key, value in changes.items()}


def read(given: dict[str, Any], rows: int = 8) -> ModelVocabulary:
    found = gguf_tokenizer.read(given, rows)
    assert found is not None
    return found


def test_defaults_are_llama_cpp_s() -> None:
    found = read(values())
    assert (found.bos_id, found.eos_id, found.unk_id, found.pad_id) == (1, 2, 0, -1)
    assert (found.add_bos, found.add_eos, found.add_dummy_prefix) == (True, False, True)
    assert found.end_ids == {2}
    assert found.added[5].text == "<|x|>"
    assert found.nameless == {6, 7}
    assert len(found.pieces) == 5


def test_the_end_of_a_turn_is_an_end() -> None:
    assert read(values(ggml__eot_token_id=5)).end_ids == {2, 5}
    infill = values(ggml__eot_token_id=5)
    infill["tokenizer.ggml.tokens"][5] = "▁<EOT>"
    assert read(infill).end_ids == {2}


def test_a_number_for_nothing_is_nothing() -> None:
    assert read(values(ggml__padding_token_id=(1 << 32) - 1)).pad_id == -1


def test_types_are_guessed_where_none_are_listed() -> None:
    given = values()
    del given["tokenizer.ggml.token_type"]
    assert [piece.type for piece in read(given).pieces] == [2, 3, 3, 6, 1, 1]


def test_templates_have_names() -> None:
    found = read(
        values(chat_template="A", chat_templates=["tool_use"], **{"chat_template.tool_use": "B"})
    )
    assert found.chat_templates == {"default": "A", "tool_use": "B"}
    assert found.chat_template == "A"


def test_a_file_without_tokenizer_says_so() -> None:
    assert gguf_tokenizer.read({}, 8) is None
    assert gguf_tokenizer.read({"tokenizer.ggml.model": "no_vocab"}, 8) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"ggml__model": "gpt2"},
        {"ggml__tokens": "text"},
        {"ggml__tokens": ["a"] * 9},
        {"ggml__tokens": ["a"] * 5},
        {"ggml__tokens": [1, 2, 3, 4, 5, 6]},
        {"ggml__tokens": ["a"] * 5 + ["b" * 5000]},
        {"ggml__scores": [0.0] * 5 + [float("nan")]},
        {"ggml__scores": None},
        {"ggml__token_type": [1, 1, 1, 1, 1, 9]},
        {"ggml__token_type": [3, 3, 3, 3, 3, 3]},
        {"ggml__bos_token_id": 8},
        {"ggml__eos_token_id": -1},
        {"ggml__eos_token_id": True},
        {"ggml__eot_token_id": "2"},
        {"ggml__add_bos_token": 1},
        {"chat_template": 5},
        {"chat_template": "x" * (1 << 20 | 1)},
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError):
        gguf_tokenizer.read(values(**changes), 8)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (gguf_tokenizer.PIECES, 7),
        (gguf_tokenizer.PIECES, 0),
        (gguf_tokenizer.END_TOKENS, [8]),
        (gguf_tokenizer.END_TOKENS, 2),
        (gguf_tokenizer.PREFIX_RULE, "sometimes"),
        (gguf_tokenizer.FLAG + "lstrip", "all"),
    ],
)
def test_our_own_keys_are_not_believed_either(key: str, value: Any) -> None:
    with pytest.raises(IntegrityError, match="llama_hub|ordinary"):
        gguf_tokenizer.read(values() | {key: value}, 8)


def test_added_words_and_control_tokens_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    gguf_files.add_tokenizer(writer, {"<|im_start|>": CONTROL, "word": USER_DEFINED})
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read(dict(read_header(path).values), 290)
    assert found.added[288].special
    assert not found.added[289].special
