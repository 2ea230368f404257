"""GGUF files as strangers make them, by the gguf package: any keys, types, parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import sentencepiece
import torch

from tests.support.make_checkpoint import Recipe, tokenizer, weights

NAMES = {
    "tok_embeddings": "token_embd", "norm": "output_norm", "output": "output",
    "attention_norm": "attn_norm", "ffn_norm": "ffn_norm", "attention.wq": "attn_q",
    "attention.wk": "attn_k", "attention.wv": "attn_v", "attention.wo": "attn_output",
    "feed_forward.w1": "ffn_gate", "feed_forward.w2": "ffn_down", "feed_forward.w3": "ffn_up",
}  # fmt: skip
WIDE = Recipe(dim=256, n_layers=2, n_heads=4, n_kv_heads=2, ffn_dim=512, dtype=torch.float16)
Kind = gguf.GGMLQuantizationType


@dataclass(frozen=True)
class File:
    """What is to be written."""

    recipe: Recipe = WIDE
    kind: str = "F16"  # of the matrices
    tied: bool = False
    tokenizer: bool = True
    split: int = 0  # tensors of one part; 0: one file
    alignment: int = 32
    keys: dict[str, Any] = field(default_factory=dict)  # more keys; None leaves one out


def name_of(canonical: str) -> str:
    """The GGUF name of Meta's."""
    parts = canonical.removesuffix(".weight").split(".")
    if parts[0] == "layers":
        return f"blk.{parts[1]}.{NAMES['.'.join(parts[2:])]}.weight"
    return f"{NAMES['.'.join(parts)]}.weight"


def tensors(wanted: File) -> dict[str, np.ndarray]:
    """The model's tensors by Meta's names, float32, in Meta's row order."""
    made = {name: value.float().numpy() for name, value in weights(wanted.recipe).items()}
    del made["rope.freqs"]
    if wanted.tied:
        made["output.weight"] = made["tok_embeddings.weight"]
    return made


def random_blocks(kind: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Blocks with random numbers and small finite scales, bytes [rows, B]."""
    weights_, size = gguf.GGML_QUANT_SIZES[Kind[kind]]
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (shape[0] * shape[1] // weights_, size), np.uint8)
    small = np.float16(0.001).tobytes()
    places = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "Q8_0": (0,)}
    two = (0, 2) if kind.endswith(("_1", "_K")) else (0,)
    for place in places.get(kind, two):
        blocks[:, place : place + 2] = np.frombuffer(small, np.uint8)
    return blocks.reshape(shape[0], -1)


PLAIN = File()


def write(path: Path, wanted: File = PLAIN) -> dict[str, np.ndarray]:
    """Write ``path`` (or its parts); what each tensor is to be read as, by Meta's names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=wanted.split)
    _add_keys(writer, wanted)
    if wanted.alignment != 32:
        writer.add_custom_alignment(wanted.alignment)
    if wanted.tokenizer:
        add_tokenizer(writer)
    read: dict[str, np.ndarray] = {}
    for number, (name, value) in enumerate(tensors(wanted).items()):
        if wanted.tied and name == "output.weight":
            continue
        read[name] = _add(writer, name_of(name), value, wanted.kind, number)
    if wanted.tied:
        read["output.weight"] = read["tok_embeddings.weight"]
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read


def _add(writer: gguf.GGUFWriter, name: str, value: np.ndarray, kind: str, seed: int) -> np.ndarray:
    if value.ndim == 1 or kind == "F32":
        writer.add_tensor(name, value)
        return value
    if kind == "F16":
        writer.add_tensor(name, value.astype(np.float16))
        return value.astype(np.float16).astype(np.float32)
    if kind.endswith("_K"):
        blocks = random_blocks(kind, value.shape, seed)
    else:
        blocks = gguf.quants.quantize(value, Kind[kind])
    writer.add_tensor(name, blocks, raw_dtype=Kind[kind])
    return gguf.quants.dequantize(blocks, Kind[kind])


def _add_keys(writer: gguf.GGUFWriter, wanted: File) -> None:
    recipe = wanted.recipe
    known: dict[str, Any] = {
        "llama.context_length": 256,
        "llama.embedding_length": recipe.dim,
        "llama.block_count": recipe.n_layers,
        "llama.feed_forward_length": recipe.ffn_dim,
        "llama.rope.dimension_count": recipe.head_dim,
        "llama.attention.head_count": recipe.n_heads,
        "llama.attention.head_count_kv": recipe.n_kv_heads,
        "llama.attention.layer_norm_rms_epsilon": recipe.norm_eps,
        "llama.rope.freq_base": recipe.rope_theta,
    } | wanted.keys
    for key, value in known.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)


def add_tokenizer(writer: gguf.GGUFWriter, more: dict[str, int] | None = None) -> None:
    """The pieces of the tests' SentencePiece model, and ``more`` tokens (text → type)."""
    model = sentencepiece.SentencePieceProcessor(model_proto=tokenizer())
    ids = range(model.vocab_size())
    types = [
        2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1
        for i in ids
    ]
    extra = more or {}
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*map(model.id_to_piece, ids), *extra])
    writer.add_token_scores([*map(model.get_score, ids), *[-1000.0] * len(extra)])
    writer.add_token_types([*types, *extra.values()])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def with_version(path: Path, version: int) -> None:
    """Make the file state another version; 2 and 3 are laid out alike."""
    data = bytearray(path.read_bytes())
    data[4:8] = version.to_bytes(4, "little")
    path.write_bytes(data)
