"""What popular fine-tunes say of their tokens survives each conversion and its way back."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader

from llama_hub.errors import IntegrityError
from llama_hub.hub.conversion import convert
from llama_hub.hub.tokenizer.reading import folder_files, read_vocabulary
from llama_hub.hub.tokenizer.vocabulary import ModelVocabulary
from tests.support.derivatives import DERIVATIVES, RELU, build
from tests.support.lazy import transformers

SOME = ("chatml", "nous-hermes-padded", "chatml-json-only")
UNSAYABLE = {("together-32k", "meta"), ("yarn", "meta")}  # params.json has no word for scaling
CASES = [
    pytest.param(name, to, marks=() if name in SOME else pytest.mark.exhaustive)
    for name in DERIVATIVES
    for to in ("hf", "meta", "gguf")
    if (name, to) not in UNSAYABLE
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def made(name: str) -> Path:
        return build(tmp_path_factory.mktemp("conversions") / name, DERIVATIVES[name])

    return made


def to_(source: Path, destination: Path, to: Any) -> Path:
    return convert.convert(source, destination, to=to, license="other-open", model="tuned").path


def facts(known: ModelVocabulary) -> dict[str, Any]:
    """All that must not be lost."""
    return {
        "texts": [piece.text for piece in known.padded()],
        "kinds": [piece.type for piece in known.padded()],
        "added": dict(known.added),
        "roles": (known.bos_id, known.eos_id, known.unk_id, known.pad_id),
        "ends": known.end_ids,
        "edges": (known.add_bos, known.add_eos, known.prefix_rule),
        "templates": dict(known.chat_templates),
    }


def read(folder: Path, rows: int) -> dict[str, Any]:
    return facts(read_vocabulary(folder_files(folder), rows))


@pytest.mark.parametrize(("name", "to"), CASES)
def test_nothing_is_lost_on_the_way_or_on_the_way_back(
    name: str, to: str, folders: Any, tmp_path: Path
) -> None:
    rows, source = DERIVATIVES[name].rows, folders(name)
    there = to_(source, tmp_path / "there", to)
    back = there if to == "hf" else to_(there, tmp_path / "back", "hf")
    assert read(back, rows) == read(source, rows)
    if name == "llama-1-decapoda":  # whose empty names transformers 5 cannot load
        return
    before, after = (transformers.AutoTokenizer.from_pretrained(each) for each in (source, back))
    for text in ("Hello <s>x</s> world", "<|im_start|>a<|im_end|>\n", "[PAD] é🦙"):
        assert after.encode(text) == before.encode(text)
    assert (there / "tokenizer.model").exists() or to == "hf"


@pytest.mark.parametrize(
    "name", [n if n in SOME else pytest.param(n, marks=pytest.mark.exhaustive) for n in DERIVATIVES]
)
def test_the_gguf_file_itself_says_the_same(name: str, folders: Any, tmp_path: Path) -> None:
    source, rows = folders(name), DERIVATIVES[name].rows
    known = read_vocabulary(folder_files(source), rows)
    (file,) = to_(source, tmp_path / "out", "gguf").glob("*.gguf")
    values = {key: field.contents() for key, field in GGUFReader(file).fields.items()}
    assert values["tokenizer.ggml.tokens"] == [piece.text for piece in known.padded()]
    assert values["tokenizer.ggml.eos_token_id"] == known.eos_id
    assert values["tokenizer.ggml.add_bos_token"] == known.add_bos
    assert values.get("tokenizer.chat_template") == known.chat_template
    if known.pad_id >= 0:
        assert values["tokenizer.ggml.padding_token_id"] == known.pad_id


def test_relu_is_refused_by_its_key(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="hidden_act"):
        to_(build(tmp_path / "relu", RELU), tmp_path / "out", "gguf")
