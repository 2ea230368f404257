"""GGUF: the gguf package reads what is written, key by key and tensor by tensor."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from llama_hub.errors import IntegrityError, NotFoundError
from llama_hub.hub.checkpoints import open_checkpoint
from llama_hub.hub.checkpoints.gguf import read_header
from llama_hub.hub.conversion.convert import convert
from tests.support.make_checkpoint import GROUPED, TINY, Recipe, make_checkpoint, merged

LICENSE = "llama-hub-demo"


def made(tmp_path: Path, recipe: Recipe = GROUPED, dtype: str | None = None) -> Path:
    source = make_checkpoint(tmp_path / "acme-chat", recipe)
    convert(source, tmp_path / "out", to="gguf", dtype=dtype, license=LICENSE)
    (path,) = (tmp_path / "out").glob("*.gguf")
    return path


def test_keys_vocabulary_and_licence(tmp_path: Path) -> None:
    recipe = replace(GROUPED, rope_theta=1e6, norm_eps=1e-6)
    reader = gguf.GGUFReader(made(tmp_path, recipe))
    values = {name: field.contents() for name, field in reader.fields.items()}
    assert values["general.architecture"] == "llama"
    assert values["general.name"] == "acme-chat"
    assert values["general.file_type"] == gguf.LlamaFileType.MOSTLY_BF16
    assert values["general.license"]
    assert values["llama_hub.license"] == LICENSE
    assert values["llama.block_count"] == recipe.n_layers
    assert values["llama.embedding_length"] == recipe.dim
    assert values["llama.feed_forward_length"] == recipe.ffn_dim
    assert values["llama.attention.head_count"] == recipe.n_heads
    assert values["llama.attention.head_count_kv"] == recipe.n_kv_heads
    assert values["llama.rope.dimension_count"] == recipe.head_dim
    assert values["llama.rope.freq_base"] == 1e6
    assert values["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-6)
    assert values["llama.context_length"] == 16384  # a rope_theta of a million is Code Llama's
    assert values["llama.vocab_size"] == recipe.vocab_size
    assert "<<SYS>>" in values["tokenizer.chat_template"]


def test_the_vocabulary_is_sentencepiece_s(tmp_path: Path) -> None:
    import sentencepiece

    path = made(tmp_path, TINY)
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "out/tokenizer.model"))
    fields = gguf.GGUFReader(path).fields
    values = {name: field.contents() for name, field in fields.items() if "ggml" in name}
    size = model.get_piece_size()
    assert values["tokenizer.ggml.tokens"] == [model.id_to_piece(i) for i in range(size)]
    assert values["tokenizer.ggml.scores"] == [model.get_score(i) for i in range(size)]
    types = values["tokenizer.ggml.token_type"]
    for i in range(size):
        expected = (
            2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1
        )
        assert types[i] == expected
    assert values["tokenizer.ggml.bos_token_id"] == model.bos_id()
    assert values["tokenizer.ggml.eos_token_id"] == model.eos_id()
    assert values["tokenizer.ggml.add_bos_token"] is True
    assert values["tokenizer.ggml.add_space_prefix"] is True


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_tensors_are_the_gguf_package_s_own(tmp_path: Path, dtype: str) -> None:
    recipe = replace(GROUPED, ffn_dim=192, dtype=torch.bfloat16)
    reader = gguf.GGUFReader(made(tmp_path, recipe, dtype))
    whole = merged(tmp_path / "acme-chat")
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert len(found) == len(whole) - 1  # all but rope.freqs
    for name, meta in (
        ("blk.1.attn_k.weight", "layers.1.attention.wk.weight"),
        ("blk.0.ffn_down.weight", "layers.0.feed_forward.w2.weight"),
        ("token_embd.weight", "tok_embeddings.weight"),
    ):
        kind = gguf.GGMLQuantizationType[dtype]
        expected = gguf.quants.quantize(whole[meta].float().numpy(), kind)
        assert found[name].tensor_type == kind
        assert np.array_equal(found[name].data.view(np.uint8), expected.view(np.uint8))
    norm = found["blk.0.attn_norm.weight"]
    assert norm.tensor_type == gguf.GGMLQuantizationType.F32
    assert np.array_equal(norm.data, whole["layers.0.attention_norm.weight"].float().numpy())
    if dtype.startswith(("Q4", "Q5")):  # Q6_K in llama.cpp, had the rows 256 weights
        assert found["output.weight"].tensor_type == gguf.GGMLQuantizationType.Q8_0


def test_rows_that_do_not_divide_into_blocks_stay_as_they_are(tmp_path: Path) -> None:
    reader = gguf.GGUFReader(made(tmp_path, replace(TINY, ffn_dim=100), "Q4_0"))
    found = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert found["blk.0.ffn_down.weight"] == "BF16"
    assert found["blk.0.ffn_up.weight"] == "Q4_0"


def test_rows_without_a_piece_are_unused_tokens(tmp_path: Path) -> None:
    fields = gguf.GGUFReader(made(tmp_path, replace(TINY, vocab_size=296))).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert tokens[288:] == [f"<unused_{number}>" for number in range(288, 296)]
    assert fields["tokenizer.ggml.token_type"].contents()[288:] == [5] * 8


def test_a_gguf_file_without_tokenizer_is_not_made(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "in", TINY)
    (source / "tokenizer.model").unlink()
    with pytest.raises(NotFoundError, match=r"tokenizer\.model"):
        convert(source, tmp_path / "out", to="gguf", license=LICENSE)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "home") == ["in"]


def test_a_quantised_file_is_no_source(tmp_path: Path) -> None:
    folder = made(tmp_path, TINY, "Q8_0").parent
    with pytest.raises(IntegrityError, match="quantised"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("at", "value", "why"),
    [
        (0, b"GGML", "begin"),
        (4, struct.pack("<I", 1), "version 1"),
        (4, struct.pack("<I", 4), "version 4"),
        (4, struct.pack(">I", 3), "big-endian"),
        (8, struct.pack("<Q", 1 << 60), "items"),
        (8, struct.pack("<Q", 1 << 14), "beyond its end|not UTF-8|dimensions|shape|type"),
        (16, struct.pack("<Q", 1 << 62), "items"),
        (24, struct.pack("<Q", 1 << 61), "beyond its end"),
    ],
)
def test_unsound_headers_are_refused(tmp_path: Path, at: int, value: bytes, why: str) -> None:
    path = made(tmp_path, TINY)
    data = bytearray(path.read_bytes())
    data[at : at + len(value)] = value
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=why):
        read_header(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path, TINY)
    data = path.read_bytes()
    for keep in (10, 1000, len(data) // 2, len(data) - 40):
        path.write_bytes(data[:keep])
        with pytest.raises(IntegrityError):
            read_header(path)


# ------------------------------------------------------------------ K-quants and parts

K_RECIPE = replace(TINY, dim=256, n_layers=8, ffn_dim=512, n_heads=4, n_kv_heads=2)


@pytest.mark.parametrize("name", ["Q4_K_M", "q5_k_m", "Q6_K"])
def test_k_quants_are_read_back_by_the_gguf_package(tmp_path: Path, name: str) -> None:
    reader = gguf.GGUFReader(made(tmp_path, K_RECIPE, name))
    values = {key: field.contents() for key, field in reader.fields.items()}
    assert values["general.file_type"] == gguf.LlamaFileType[f"MOSTLY_{name.upper()}"]
    whole = merged(tmp_path / "acme-chat")
    errors = {}
    for tensor in reader.tensors:
        if tensor.name in ("token_embd.weight", "output.weight", "blk.0.ffn_down.weight"):
            meta = {
                "token_embd.weight": "tok_embeddings.weight",
                "blk.0.ffn_down.weight": "layers.0.feed_forward.w2.weight",
            }.get(tensor.name, tensor.name)
            original = whole[meta].float().numpy()
            back = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            errors[tensor.name] = np.linalg.norm(back - original) / np.linalg.norm(original)
    assert len(errors) == 3
    assert max(errors.values()) < (0.09 if name == "Q4_K_M" else 0.05)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["output.weight"] == "Q6_K"
    assert kinds["blk.0.attn_norm.weight"] == "F32"


def test_a_quantised_file_becomes_weights_only_when_asked(tmp_path: Path) -> None:
    path = made(tmp_path, K_RECIPE, "Q4_K_M")
    with pytest.raises(IntegrityError, match="quantised"):
        convert(path, tmp_path / "hf", to="hf", license=LICENSE)
    done = convert(path, tmp_path / "hf", to="hf", license=LICENSE, dequantize=True, verify=True)
    assert done.verified
    assert done.manifest is not None
    assert done.manifest.made_by["parameters"]["dequantize"] is True
    assert done.manifest.made_by["dequantized"] == {"Q4_K": 49, "Q6_K": 9}
    from safetensors.numpy import load_file

    (weights,) = (tmp_path / "hf").glob("*.safetensors")
    (found,) = (t for t in gguf.GGUFReader(path).tensors if t.name == "blk.3.ffn_down.weight")
    expected = gguf.quants.dequantize(found.data, found.tensor_type)
    assert np.array_equal(load_file(weights)["model.layers.3.mlp.down_proj.weight"], expected)


def test_a_split_file_is_what_gguf_s_own_reader_expects(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "acme-chat", K_RECIPE)
    whole = convert(source, tmp_path / "one", to="gguf", license=LICENSE)
    split = convert(
        source,
        tmp_path / "parts",
        to="gguf",
        license=LICENSE,
        split_max_size=1_500_000,
        verify=True,
    )
    paths = sorted((tmp_path / "parts").glob("*.gguf"))
    count = len(paths)
    assert count > 3
    assert [path.name for path in paths] == [
        f"acme-chat-BF16-{part:05d}-of-{count:05d}.gguf" for part in range(1, count + 1)
    ]
    tensors = 0
    for number, path in enumerate(paths):
        reader = gguf.GGUFReader(path)
        fields = {key: field.contents() for key, field in reader.fields.items()}
        assert (fields["split.no"], fields["split.count"]) == (number, count)
        assert fields["split.tensors.count"] == 9 * K_RECIPE.n_layers + 3
        assert ("general.architecture" in fields) == (number == 0)
        assert sum(tensor.n_bytes for tensor in reader.tensors) <= 1_500_000
        tensors += len(reader.tensors)
    assert tensors == 9 * K_RECIPE.n_layers + 3
    assert whole.manifest is not None
    assert split.manifest is not None
    assert split.manifest.tensors == whole.manifest.tensors
    again = convert(tmp_path / "parts", tmp_path / "joined", to="gguf", license=LICENSE)
    assert again.manifest is not None
    (joined,) = (tmp_path / "joined").glob("*.gguf")
    (one,) = (tmp_path / "one").glob("*.gguf")
    assert joined.read_bytes() == one.read_bytes()


def test_transformers_reads_what_is_written(tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    path = made(tmp_path, K_RECIPE, "Q4_K_M")
    config = load_gguf_checkpoint(str(path))["config"]
    known = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**known))
    loaded = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    convert(path, tmp_path / "hf", to="hf", license=LICENSE, dequantize=True)
    (weights,) = (tmp_path / "hf").glob("*.safetensors")
    ours = load_file(weights)
    assert loaded.keys() == ours.keys()
    for name, value in ours.items():
        assert torch.equal(loaded[name].float(), value), name
