"""Small stand-ins for a model's files, in Meta's and in Hugging Face's layout, and their catalogue.

The weights are random bytes: enough for everything that moves, hashes and stores files, and
nothing that reads tensors can be shown with them.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Mapping
from pathlib import Path

from llama_hub.hub.catalog import Model
from tests.support.licences import ACME, POLICY, TEXT

MIB = 1 << 20


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that no compression and no accident makes equal to others."""
    return random.Random(seed).randbytes(size)


def model(shards: int = 1, *, license: str = "other-open", **more: object) -> Model:
    """A catalogue entry for what ``meta_files`` and ``hf_files`` make."""
    known: dict[str, object] = {
        "id": "acme-7b",
        "family": "llama-2",
        "variant": "chat",
        "folder": "acme-7b",
        "shards": shards,
        "license": license,
        "sources": ("mirror", "meta", "huggingface"),
        "huggingface": "acme/acme-7b-hf",
        "huggingface_original": "acme/acme-7b",
    }
    return Model(**{**known, **more})  # type: ignore[arg-type]


def gated_model(shards: int = 1, **more: object) -> Model:
    """The same under a licence that has to be accepted (see ``tests.support.licences``)."""
    return model(shards, license=ACME.id, **more)


def meta_files(shards: int = 1, size: int = 100_000, seed: int = 0) -> dict[str, bytes]:
    """Path below the base → content, as Meta's ``download.sh`` finds them."""
    weights = {
        f"consolidated.{n:02d}.pth": b"PK\x03\x04" + noise(size, seed + n) for n in range(shards)
    }
    own = weights | {"params.json": b'{"dim": 64, "n_heads": 4, "n_layers": 2}\n'}
    tokenizer = noise(5000, seed + 99)
    files = {f"acme-7b/{name}": data for name, data in own.items()}
    files["acme-7b/checklist.chk"] = checklist(own)
    files["tokenizer.model"] = tokenizer
    files["tokenizer_checklist.chk"] = checklist({"tokenizer.model": tokenizer})
    return files | {"LICENSE": TEXT.encode(), "USE_POLICY.md": POLICY.encode()}


def checklist(files: Mapping[str, bytes]) -> bytes:
    """What ``md5sum`` prints."""
    lines = [f"{hashlib.md5(data).hexdigest()}  {name}\n" for name, data in files.items()]
    return "".join(lines).encode()


def hf_files(shards: int = 2, size: int = 100_000, seed: int = 0) -> dict[str, bytes]:
    """Path in the repository → content, with the duplicate ``.bin`` that official ones have.

    A model of one layer whose embedding, in the first of at most two files, has ``size`` bytes, as
    has its output matrix, in the last.
    """
    width, vocabulary = 16, size // 32
    config = {
        "model_type": "llama", "hidden_size": width, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": vocabulary,
        "torch_dtype": "float16",
    }  # fmt: skip
    tensors = hf_shapes(width, 32, vocabulary)
    first = {name: shape for name, shape in tensors.items() if name != "lm_head.weight"}
    parts = [first, {"lm_head.weight": tensors["lm_head.weight"]}] if shards == 2 else [tensors]
    names = [f"model-{n + 1:05d}-of-{shards:05d}.safetensors" for n in range(shards)]
    pairs = list(zip(names, parts, strict=True))
    files = {name: safetensors(part, seed + n) for n, (name, part) in enumerate(pairs)}
    weight_map = {tensor: name for name, part in pairs for tensor in part}
    files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    files["pytorch_model-00001-of-00001.bin"] = noise(size, 7)
    files["config.json"] = json.dumps(config).encode() + b"\n"
    files["tokenizer.model"] = noise(5000, seed + 99)
    files["README.md"] = b"# A model card\n"
    return files | {"LICENSE.txt": TEXT.encode(), "USE_POLICY.md": POLICY.encode()}


def hf_shapes(width: int, ffn: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Hugging Face's names of the tensors of one layer and what surrounds it, with their shapes."""
    layer = {
        "input_layernorm": (width,), "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (width, width), "self_attn.v_proj": (width, width),
        "self_attn.o_proj": (width, width), "post_attention_layernorm": (width,),
        "mlp.gate_proj": (ffn, width), "mlp.up_proj": (ffn, width), "mlp.down_proj": (width, ffn),
    }  # fmt: skip
    return {
        "model.embed_tokens.weight": (vocabulary, width),
        **{f"model.layers.0.{name}.weight": shape for name, shape in layer.items()},
        "model.norm.weight": (width,),
        "lm_head.weight": (vocabulary, width),
    }


def safetensors(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> bytes:
    """A file of float16 tensors with random bits."""
    document, at = {}, 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        document[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    header = json.dumps(document).encode()
    return len(header).to_bytes(8, "little") + header + noise(at, seed)


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    """The same files on a disk."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def catalogue(path: Path, entry: Model) -> Path:
    """A catalogue file with ``entry``, for ``--catalog``."""
    keys = ("id", "family", "variant", "folder", "shards", "license", "layout")
    lines = ["[[model]]", *(f"{key} = {json.dumps(getattr(entry, key))}" for key in keys)]
    lines.append(f"sources = {json.dumps(list(entry.sources))}")
    for key in ("huggingface", "huggingface_original"):
        if getattr(entry, key):
            lines.append(f"{key} = {json.dumps(getattr(entry, key))}")
    for table in ("sizes", "digests"):
        lines.append(f"[model.{table}]")
        lines += [f"{json.dumps(k)} = {json.dumps(v)}" for k, v in getattr(entry, table).items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
