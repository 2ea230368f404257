"""Tokens of popular fine-tunes: transformers is the judge of ids, SentencePiece of plain text."""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch

from llama_hub.errors import IntegrityError
from llama_hub.hub.tokenizer.reading import folder_files, read_vocabulary, sampled_tokens
from llama_hub.inference.config import EngineOptions
from llama_hub.inference.engine import SamplingParams
from llama_hub.inference.sampling import Choice, Row, choose
from llama_hub.inference.tokenizer import Detokenizer, tokenizer_of
from llama_hub.inference.torch_engine import TorchEngine
from tests.support.derivatives import DERIVATIVES, LLAMA, RELU, Derivative, build
from tests.support.hf_models import ask
from tests.support.lazy import transformers

TEXTS = [
    "Hello world", "<s>Hello</s> world", "<s> Hello", "a<|im_start|>user\nhi<|im_end|>\n",
    "[INST] x [/INST]</s><s>[INST] y", "</s>", "the <unk> cat", "<pad>x[PAD]", "🦙</s>é\n\n</s>",
]  # fmt: skip
SOME = ("chatml", "nous-hermes-padded", "chinese-alpaca", "tinyllama", "chatml-json-only")
SHAPES = [
    pytest.param(name, marks=() if name in SOME else pytest.mark.exhaustive) for name in DERIVATIVES
]

# transformers 5 itself fails on Llama 1's empty names.
JUDGED = [shape for shape in SHAPES if shape.values[0] != "llama-1-decapoda"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def made(name: str) -> Path:
        return build(tmp_path_factory.mktemp("derivatives") / name, DERIVATIVES[name])

    return made


@pytest.mark.parametrize("name", JUDGED)
def test_raw_prompts_parse_special_tokens_as_transformers_does(name: str, folders: Any) -> None:
    ours, judge = (
        tokenizer_of(folders(name)),
        transformers.AutoTokenizer.from_pretrained(folders(name)),
    )
    for text in TEXTS:
        assert ours.encode_special(text) == judge.encode(text, add_special_tokens=False), text


@pytest.mark.parametrize("name", SHAPES)
def test_plain_text_has_no_special_token(name: str, folders: Any) -> None:
    ours = tokenizer_of(folders(name))
    special = {t for t, known in ours.vocabulary.added.items() if known.special} - {ours.unk_id}
    model = folders(name) / "tokenizer.model"
    judge = None
    if model.exists():
        judge = sentencepiece.SentencePieceProcessor(model_file=str(model))
    for text in [*TEXTS, "一丁七 上下不与丐", "  two"]:
        ids = ours.encode(text)
        assert not special & set(ids), text
        if judge is not None:
            assert ids == judge.encode(text)


@pytest.mark.parametrize("name", JUDGED)
def test_any_id_streams_to_text_and_nothing_crashes(name: str, folders: Any) -> None:
    ours = tokenizer_of(folders(name))
    judge = transformers.AutoTokenizer.from_pretrained(folders(name))
    assert ours.vocab_size == DERIVATIVES[name].rows
    for token in range(ours.vocab_size):
        assert ours.piece(token)
        ours.token_bytes(token)
    ids = ours.encode_special("the cat é🦙 <s>sat</s>\n") + sorted(ours.vocabulary.nameless)[:2]
    stream = Detokenizer(ours)
    text = "".join(stream.push([token]) for token in ids) + stream.finish()
    assert text == ours.decode(ids)
    named = [token for token in ids if token not in ours.vocabulary.nameless]
    assert text == judge.decode(named, skip_special_tokens=True)


FLAGS: list[dict[str, Any]] = [
    {"content": "天气", "special": False, "normalized": True},
    {"content": "天气", "special": False, "normalized": False},
    {"content": "<mask>", "lstrip": True, "special": True},
    {"content": "[PAD]", "rstrip": True, "special": True},
    {"content": "cat", "single_word": True, "special": False, "normalized": False},
]


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("flags", FLAGS, ids=lambda flags: "-".join(map(str, flags.values())))
def test_flags_of_added_tokens_mean_what_they_mean_in_transformers(
    flags: dict[str, Any], legacy: bool, tmp_path: Path
) -> None:
    settings = {**LLAMA, "legacy": legacy, "added_tokens_decoder": {"1280": flags}}
    folder = build(tmp_path / "m", Derivative(rows=1281, settings=settings))
    ours, judge = tokenizer_of(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for text in ("x <mask> y", "a[PAD]  b", "今天天气很好", "a cat, concat cat_ cat", "cat"):
        assert ours.encode_special(text) == judge.encode(text, add_special_tokens=False), text


def test_a_switch_makes_special_names_text(folders: Any) -> None:
    ours = tokenizer_of(folders("chatml"))
    text = "<|im_start|>user"
    parsed = ours.encode_raw(text, add_special=True, parse_special=True)
    literal = ours.encode_raw(text, add_special=True, parse_special=False)
    assert parsed[0] == 1281  # the model's own settings put no BOS before a text
    assert 1281 not in literal
    assert ours.decode(literal) == text


def test_relu_is_refused_by_its_key(tmp_path: Path) -> None:
    folder = build(tmp_path / "relu", RELU)
    with pytest.raises(IntegrityError, match="hidden_act"):
        tokenizer_of(folder)


def always(folder: Path, token: int) -> None:
    """Make the weights' likeliest token one token, whatever came before."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.embed_tokens.weight"][:, 0] = 20
    for layer in range(2):
        for part in ("self_attn.o_proj", "mlp.down_proj"):
            tensors[f"model.layers.{layer}.{part}.weight"][0] = 0
    tensors["model.norm.weight"][:] = 0
    tensors["model.norm.weight"][0] = 1
    tensors["lm_head.weight"][:] = 0
    tensors["lm_head.weight"][token, 0] = 5
    save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_nameless_row_is_never_sampled(temperature: float, tmp_path: Path) -> None:
    folder = build(tmp_path / "padded", DERIVATIVES["nous-hermes-padded"])
    always(folder, 1290)

    async def answer() -> Any:
        engine = TorchEngine(folder, EngineOptions(device="cpu", threads=1))
        await engine.start()
        try:
            return await ask(
                engine, (1, 1290, 5), temperature=temperature, max_tokens=12, logprobs=3
            )
        finally:
            await engine.shutdown()

    found = asyncio.run(answer())
    assert len(found.tokens) == 12
    assert max(found.tokens) < 1281
    assert all(other < 1281 for each in found.logprobs for other, _ in each.top)


def test_each_end_token_ends_an_answer(tmp_path: Path) -> None:
    for end in (2, 1280):
        folder = build(tmp_path / str(end), DERIVATIVES["chatml"])
        always(folder, end)

        async def answer(folder: Path = folder) -> Any:
            engine = TorchEngine(folder, EngineOptions(device="cpu", threads=1))
            await engine.start()
            try:
                return await ask(engine, (1, 5), ignore_eos=False)
            finally:
                await engine.shutdown()

        found = asyncio.run(answer())
        assert (found.tokens, found.finish_reason) == ((), "stop")


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0),
        SamplingParams(temperature=1.0, seed=3),
        SamplingParams(temperature=0, logit_bias={7: 100.0}, repetition_penalty=2.0, logprobs=2),
        SamplingParams(temperature=2.0, top_k=2, seed=1, min_p=0.1),
    ],
)
def test_bias_and_penalties_do_not_bring_a_banned_token_back(params: SamplingParams) -> None:
    from collections import Counter

    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    logits[:, 7] = 50.0
    kept = logits.clone()
    rows = [Row(Choice(params, Counter({7: 1}))) for _ in range(3)]
    chosen = choose(logits, rows, torch.tensor([7, 39]))
    assert all(each.token not in (7, 39) for each in chosen)
    assert torch.equal(logits, kept)


def test_the_engine_is_told_ends_and_nameless_rows(folders: Any) -> None:
    assert sampled_tokens(folders("chatml-json-only"), 1344) == (
        frozenset({1280}),
        frozenset(range(1282, 1344)),
    )
    decapoda = read_vocabulary(folder_files(folders("llama-1-decapoda")), 1280)
    assert (decapoda.bos_id, decapoda.end_ids) == (1, {2})
