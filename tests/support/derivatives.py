"""Folders as the popular fine-tunes ship them, rebuilt small around the demo's vocabulary.

Only tokenizer and configuration are theirs in shape; the texts, sizes and weights are made up.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sentencepiece import sentencepiece_model_pb2

import llama_hub.hub
from tests.support.lazy import transformers

DEMO = Path(llama_hub.hub.__file__).parent / "sources/demo/tokenizer.model"
PIECES = 1280
LLAMA = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False}
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
VICUNA = (
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + ' ' }}{% endif %}"
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ 'USER: ' + message['content'] + ' ' }}{% elif message['role'] == 'assistant' %}"
    "{{ 'ASSISTANT: ' + message['content'] + '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
ALPACA = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '### Instruction:\n' + message['content'] | trim + '\n\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ '### Response:\n' + message['content'] "
    "+ eos_token + '\n' }}{% endif %}{% endfor %}{{ '### Response:\n' }}"
)
ZEPHYR = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
    "{{ '<|user|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n"
    "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n"
    "{% endfor %}"
)


@dataclass(frozen=True)
class Derivative:
    """One shape: how many rows, what the small files say."""

    rows: int = PIECES
    config: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] | None = None  # tokenizer_config.json
    files: dict[str, Any] = field(default_factory=dict)
    pieces: tuple[str, ...] = ()  # of score 0 behind the demo's
    json_only: bool = False  # tokenizer.json as transformers writes it, no tokenizer.model
    without: tuple[str, ...] = ()  # keys that config.json does not have


def _decoder(*texts: str) -> dict[str, Any]:
    return {str(PIECES + n): {"content": text, "special": True} for n, text in enumerate(texts)}


CHINESE = tuple("一丁七万丈三上下不与丐丑") + ("一丁", "丁七", "上下", "一丁七", "不与", "与丐")
DERIVATIVES: dict[str, Derivative] = {
    "vicuna": Derivative(
        settings={**LLAMA, "legacy": False, "chat_template": VICUNA, "pad_token": "<unk>"},
        config={"pad_token_id": 0},
    ),
    "nous-hermes": Derivative(
        rows=1281, settings={**LLAMA, "legacy": True, "chat_template": ALPACA},
        files={"added_tokens.json": {"<pad>": PIECES}, "special_tokens_map.json": {
            "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}},
    ),
    "nous-hermes-padded": Derivative(
        rows=1344, settings={**LLAMA, "legacy": True, "chat_template": ALPACA},
        files={"added_tokens.json": {"<pad>": PIECES}},
    ),
    "chatml": Derivative(
        rows=1282, config={"eos_token_id": PIECES},
        settings={**LLAMA, "add_bos_token": False, "eos_token": "<|im_end|>",
                  "added_tokens_decoder": _decoder("<|im_end|>", "<|im_start|>"),
                  "chat_template": CHATML},
        files={"generation_config.json": {"eos_token_id": [2, PIECES]}},
    ),
    "wizardlm": Derivative(
        rows=1281, settings={**LLAMA, "legacy": True}, config={"pad_token_id": PIECES},
        files={"added_tokens.json": {"[PAD]": PIECES}, "chat_template.jinja": VICUNA},
    ),
    "chinese-alpaca": Derivative(
        rows=PIECES + len(CHINESE) + 1, pieces=CHINESE,
        settings={**LLAMA, "legacy": True, "chat_template": ALPACA},
        files={"added_tokens.json": {"[PAD]": PIECES + len(CHINESE)}},
    ),
    "openllama-3b": Derivative(
        settings={**LLAMA, "legacy": True}, config={"num_attention_heads": 2, "hidden_size": 52},
    ),
    "code-llama": Derivative(rows=1284, settings={
        **LLAMA, "tokenizer_class": "CodeLlamaTokenizer",
        "added_tokens_decoder": _decoder("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>")}),
    "together-32k": Derivative(
        config={"rope_scaling": {"type": "linear", "factor": 8.0}}, without=("rope_parameters",),
        settings={**LLAMA, "legacy": False},
    ),
    "yarn": Derivative(
        config={"rope_scaling": {"type": "yarn", "factor": 4.0,
                                 "original_max_position_embeddings": 64, "finetuned": True}},
        without=("rope_parameters",), settings=dict(LLAMA),
    ),
    "tinyllama": Derivative(json_only=True, settings={**LLAMA, "legacy": False,
                                                      "chat_template": ZEPHYR}),
    "chatml-json-only": Derivative(
        rows=1344, json_only=True, config={"eos_token_id": PIECES},
        settings={**LLAMA, "eos_token": "<|im_end|>", "chat_template": CHATML,
                  "additional_special_tokens": ["</s>"],
                  "added_tokens_decoder": _decoder("<|im_end|>", "<|im_start|>")},
    ),
    "llama-1-decapoda": Derivative(
        config={"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": -1},
        without=("rope_parameters", "max_position_embeddings", "num_key_value_heads"),
        settings={"bos_token": "", "eos_token": "", "unk_token": "",
                  "tokenizer_class": "LlamaTokenizer"},
    ),
}  # fmt: skip
RELU = Derivative(config={"hidden_act": "relu"}, settings=dict(LLAMA))


def build(folder: Path, shape: Derivative, seed: int = 0) -> Path:
    """Write the model of ``shape`` with random weights; returns ``folder``."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 64, "num_attention_heads": 4, **shape.config}
    plain = {key: value for key, value in sizes.items() if key not in ("rope_scaling",)}
    config = transformers.LlamaConfig(
        **{"intermediate_size": 96, "num_hidden_layers": 2, "max_position_embeddings": 256}
        | plain,
        vocab_size=shape.rows, initializer_range=0.1, tie_word_embeddings=False,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    written = json.loads((folder / "config.json").read_text()) | shape.config
    for key in shape.without:
        written.pop(key, None)
    (folder / "config.json").write_text(json.dumps(written))
    (folder / "tokenizer.model").write_bytes(_extended(shape.pieces))
    settings = {} if shape.settings is None else {"tokenizer_config.json": shape.settings}
    for name, content in (settings | shape.files).items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text)
    if shape.json_only:
        transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder / "saved")
        shutil.copy(folder / "saved" / "tokenizer.json", folder)
        shutil.rmtree(folder / "saved")
        (folder / "tokenizer.model").unlink()
    return folder


def _extended(texts: tuple[str, ...]) -> bytes:
    if not texts:
        return DEMO.read_bytes()
    parsed = sentencepiece_model_pb2.ModelProto()
    parsed.ParseFromString(DEMO.read_bytes())
    known = {piece.piece for piece in parsed.pieces}
    assert not known & set(texts)
    for text in texts:
        parsed.pieces.add(piece=text, score=0.0, type=1)
    data: bytes = parsed.SerializeToString()
    return data
