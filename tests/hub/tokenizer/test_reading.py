"""What a folder's files say of tokens; transformers' AutoTokenizer is the judge."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import llama_hub.hub
from llama_hub.errors import IntegrityError, NotFoundError
from llama_hub.hub.tokenizer.reading import folder_files, read_vocabulary
from llama_hub.hub.tokenizer.vocabulary import ModelVocabulary, split_added
from tests.support.lazy import transformers

DEMO = Path(llama_hub.hub.__file__).parent / "sources/demo/tokenizer.model"
PIECES = 1280
ADDED = {"<|im_end|>": 1280, "<|im_start|>": 1281}
DECODER = {str(token): {"content": text, "special": True} for text, token in ADDED.items()}


def folder(path: Path, files: Mapping[str, Any], *, model: bool = True) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    if model:
        shutil.copy(DEMO, path)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (path / name).write_text(text)
    if "config.json" not in files:
        (path / "config.json").write_text('{"model_type": "llama"}')
    return path


def read(path: Path, rows: int = 1282) -> ModelVocabulary:
    return read_vocabulary(folder_files(path), rows)


SPELLINGS: dict[str, dict[str, Any]] = {
    "added_tokens.json": {
        "added_tokens.json": ADDED,
        "tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer"},
    },
    "added_tokens_decoder": {
        "tokenizer_config.json": {
            "tokenizer_class": "LlamaTokenizer",
            "added_tokens_decoder": DECODER,
        }
    },
    "named": {
        "tokenizer_config.json": {
            "tokenizer_class": "LlamaTokenizer",
            "pad_token": "<|im_end|>",
            "additional_special_tokens": ["<|im_start|>"],
        }
    },
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_each_spelling_of_added_tokens_is_read_as_transformers_reads_it(
    spelling: str, tmp_path: Path
) -> None:
    path = folder(tmp_path, SPELLINGS[spelling])
    found = read(path)
    judge = transformers.AutoTokenizer.from_pretrained(path)
    assert {token: each.text for token, each in found.added.items()} == {
        token: each.content for token, each in judge.added_tokens_decoder.items()
    }
    assert found.id("<|im_end|>") == judge.convert_tokens_to_ids("<|im_end|>") == 1280
    assert found.nameless == frozenset()


def test_tokenizer_json_alone_tells_pieces_and_added_tokens(tmp_path: Path) -> None:
    first = folder(tmp_path / "a", SPELLINGS["added_tokens_decoder"])
    transformers.AutoTokenizer.from_pretrained(first).save_pretrained(tmp_path / "b")
    found, known = read(folder(tmp_path / "b", {}, model=False)), read(first)
    assert [piece.text for piece in found.pieces] == [piece.text for piece in known.pieces]
    assert [piece.type for piece in found.pieces] == [piece.type for piece in known.pieces]
    assert dict(found.added) == dict(known.added)
    assert (found.bos_id, found.eos_id, found.unk_id) == (1, 2, 0)
    assert found.sentencepiece is None


def test_rows_without_a_name_and_tokens_beyond_the_rows(tmp_path: Path) -> None:
    path = folder(tmp_path, SPELLINGS["added_tokens_decoder"])
    assert read(path, 1344).nameless == frozenset(range(1282, 1344))
    assert read(path, 1344).padded()[1343].type == 5
    assert 1281 not in read(path, 1281).added
    with pytest.raises(IntegrityError, match="1280 pieces, the embedding 1200 rows"):
        read(path, 1200)


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (
            {
                "added_tokens.json": {"<|im_start|>": 1280, "<|im_end|>": 1281},
                "tokenizer_config.json": {"added_tokens_decoder": DECODER},
            },
            "<|im_start|>",
        ),
        ({"added_tokens.json": {"<|im_end|>": 300}}, "<|im_end|>"),
        ({"added_tokens.json": {"<s>": 1280}}, "<s>"),
        ({"added_tokens.json": {"a": 1280, "b": 1280}}, "same id"),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"x": {"content": "a"}}}}, "'x'"),
    ],
)
def test_files_that_contradict_each_other_are_refused_by_name(
    files: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(IntegrityError) as caught:
        read(folder(tmp_path, files))
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("config", "generation", "settings", "ends", "main"),
    [
        (None, None, {}, {2}, 2),
        (1280, None, {"eos_token": "<|im_end|>"}, {1280}, 1280),
        (2, None, {"eos_token": "<|im_end|>"}, {2, 1280}, 1280),
        ([2, 1281], [1280], {}, {2, 1280, 1281}, 2),
        (1280, None, {}, {1280}, 1280),
        (None, 1281, {"eos_token": "</s>"}, {2, 1281}, 2),
        (1, None, {"eos_token": "", "bos_token": ""}, {2}, 2),  # Llama 1 as first converted
        (99999, None, {}, {2}, 2),
    ],
)
def test_every_end_token_counts(
    config: Any, generation: Any, settings: Any, ends: set[int], main: int, tmp_path: Path
) -> None:
    files = {
        "config.json": {"eos_token_id": config, "bos_token_id": None, "pad_token_id": -1},
        "generation_config.json": {"eos_token_id": generation},
        "tokenizer_config.json": {"added_tokens_decoder": DECODER, **settings},
    }
    found = read(folder(tmp_path, files))
    assert (found.end_ids, found.eos_id, found.pad_id) == (ends, main, -1)


def test_prefix_rules_and_bos_are_as_the_files_say(tmp_path: Path) -> None:
    llama = {"tokenizer_class": "LlamaTokenizer"}
    rules = [
        read(folder(tmp_path / str(n), {"tokenizer_config.json": {**llama, **more}})).prefix_rule
        for n, more in enumerate(({}, {"legacy": True}, {"add_prefix_space": False}))
    ]
    assert rules == ["first", "always", "never"]
    chosen = {"add_bos_token": False, "add_eos_token": True}
    found = read(folder(tmp_path / "bos", {"tokenizer_config.json": chosen}))
    assert (found.add_bos, found.add_eos) == (False, True)


@pytest.mark.parametrize(
    ("settings", "file", "chosen"),
    [
        ("A", None, "A"),
        ([{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}], None, "A"),
        ([{"name": "x", "template": "A"}, {"name": "y", "template": "B"}], None, None),
        ([{"name": "x", "template": "A"}], None, "A"),
        ("A", "FILE", "FILE"),
        (None, "FILE", "FILE"),
        (None, None, None),
    ],
)
def test_chat_templates_by_name_and_the_file_before_the_setting(
    settings: Any, file: str | None, chosen: str | None, tmp_path: Path
) -> None:
    files: dict[str, Any] = {"tokenizer_config.json": {"chat_template": settings}}
    if file is not None:
        files["chat_template.jinja"] = file
    assert read(folder(tmp_path, files)).chat_template == chosen


@pytest.mark.parametrize(
    ("key", "part"),
    [
        ("model", {"type": "Unigram", "vocab": [], "unk_id": 0}),
        ("normalizer", {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}),
        ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(a+)+$"}}),
        ("decoder", {"type": "WordPiece"}),
    ],
)
def test_components_that_are_not_run_are_named(
    key: str, part: dict[str, Any], tmp_path: Path
) -> None:
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3}
    document = {"model": {"type": "BPE", "vocab": vocab, "merges": []}, key: part}
    path = folder(tmp_path, {"tokenizer.json": document}, model=False)
    with pytest.raises(IntegrityError) as caught:
        read(path, 4)
    assert str(part["type"]) in str(caught.value)


def test_a_folder_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="neither tokenizer.model nor tokenizer.json"):
        read(folder(tmp_path, {}, model=False))


def test_a_list_for_every_row_is_taken_apart_again(tmp_path: Path) -> None:
    known = read(folder(tmp_path, SPELLINGS["added_tokens_decoder"]), 1344)
    pieces, added = split_added(known.padded())
    assert pieces == known.pieces
    assert added == {token: known.added[token] for token in (1280, 1281)}


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"model": {"type": "BPE"}}', b'{"model": 3}', b"\xff"]
)
def test_what_is_no_tokenizer_json_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(data)
    with pytest.raises(IntegrityError):
        read(folder(tmp_path, {}, model=False), 4)
