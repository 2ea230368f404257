"""Adapters as GGUF files, read and written: what llama.cpp's ``--lora`` takes.

``general.type`` is adapter, ``adapter.type`` lora; A and B of a matrix are called as the matrix
with ``.lora_a`` and ``.lora_b`` behind. B of q and k is in Meta's row order, as the base's q and k
are in GGUF. There is one ``adapter.lora.alpha`` for all: the scale is alpha/rank.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llama_hub.errors import IntegrityError
from llama_hub.hub.adapters.low_rank import LowRank, StoredPair, assemble
from llama_hub.hub.architecture import Architecture
from llama_hub.hub.checkpoints import gguf, layout
from llama_hub.hub.checkpoints.gguf import Content, Info
from llama_hub.hub.checkpoints.gguf_types import MAGIC
from llama_hub.hub.checkpoints.gguf_writer import Pair, text, value
from llama_hub.hub.checkpoints.numeric import Floats
from llama_hub.hub.checkpoints.source import Location, Segment

_MODELLED = {"adapter.lora.alpha", "adapter.type", "general.architecture", "general.type"}
_HARMLESS = ("general.", "llama_hub.", "split.")
_ENDINGS = (".lora_a", ".lora_b")


def open_gguf_adapter(path: Path, architecture: Architecture) -> LowRank:
    """The adapter in the GGUF file ``path`` for a base of that architecture; close it after use.

    ``IntegrityError`` names the key or tensor that is wrong.
    """
    content = gguf.read_header(path)
    alpha = _alpha(content)
    names = {layout.gguf_name(s.name): s.name for s in layout.specs(architecture) if s.axis != -1}
    sides: dict[str, dict[str, Info]] = {}
    for key, info in content.tensors.items():
        stem, ending = key[:-7], key[-7:]
        if ending not in _ENDINGS or not names.get(stem, "").startswith("layers."):
            raise _bad(path, f"{key[:100]} is no tensor of an adapter of this base's layers")
        sides.setdefault(names[stem], {})[ending] = info
    pairs = {}
    for name, found in sides.items():
        for ending in _ENDINGS:
            if ending not in found:
                raise _bad(path, f"{layout.gguf_name(name)}{ending} is missing")
        pairs[name] = _pair(path, found[".lora_a"], found[".lora_b"], alpha)
    return assemble(path, "gguf", architecture, pairs)


def is_adapter(path: Path) -> bool:
    """Whether the GGUF file says that it is an adapter."""
    return gguf.read_header(path).values.get("general.type") == "adapter"


def _alpha(content: Content) -> float:
    """``adapter.lora.alpha``; 0 where B is to be taken as it is."""
    values = content.values
    for key, wanted in (("general.type", "adapter"), ("adapter.type", "lora"),
                        ("general.architecture", "llama")):  # fmt: skip
        if values.get(key) != wanted:
            raise _bad(content.path, f"its {key} is {str(values.get(key))[:60]!r}, not {wanted!r}")
    for key, found in values.items():
        if key not in _MODELLED and not key.startswith(_HARMLESS):
            raise _bad(content.path, f"its key {key[:100]!r} ({str(found)[:40]}) is not known")
    alpha = values.get("adapter.lora.alpha", 0.0)
    if type(alpha) is not float or not math.isfinite(alpha) or alpha < 0:
        raise _bad(content.path, f"its adapter.lora.alpha is {str(alpha)[:40]}")
    return alpha


def _pair(path: Path, a: Info, b: Info, alpha: float) -> StoredPair:
    for info in (a, b):
        if info.kind not in gguf.FLOAT_TYPES or len(info.shape) != 2:
            raise _bad(
                path, f"{info.name[:100]} is {info.kind} {list(info.shape)}, no plain matrix"
            )
    scale = alpha / a.shape[0] if alpha else 1.0
    return StoredPair(_location(a), _location(b), a.shape, b.shape, a.name, b.name, scale)


def _location(info: Info) -> Location:
    row = info.size // info.shape[0]
    step = row // info.shape[1]
    segment = Segment(info.path, info.offset, info.shape[0], info.shape[1], row, step)
    return Location(gguf.FLOAT_TYPES[info.kind], (segment,))


def _bad(path: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"{path} is no adapter of this base: {why}", hint="name its base with --base MODEL"
    )


def gguf_bytes(adapter: LowRank, about: Mapping[str, str]) -> bytes:
    """The adapter as a GGUF file, in float32, which holds every value exactly.

    ``about``: further texts, by key. Where no one alpha gives every matrix its scale, B is
    multiplied by it instead, in double precision and rounded once.
    """
    alpha = _common_alpha(adapter)
    tensors: list[tuple[str, Floats]] = []
    for update in adapter.updates.values():
        b = adapter.b(update.name)
        if alpha is None:
            b = (b.astype(np.float64) * update.scale).astype(np.float32)
        name = layout.gguf_name(update.name)
        tensors += [(f"{name}.lora_a", adapter.a(update.name)), (f"{name}.lora_b", b)]
    pairs: list[Pair] = [
        ("general.architecture", gguf.STRING, "llama"),
        ("general.type", gguf.STRING, "adapter"),
        ("adapter.type", gguf.STRING, "lora"),
        ("adapter.lora.alpha", gguf.F32, alpha or 0.0),
        *((key, gguf.STRING, said) for key, said in sorted(about.items())),
    ]
    return _file(pairs, tensors)


def _common_alpha(adapter: LowRank) -> float | None:
    """The float32 that is alpha for all matrices, if there is one that gives each its scale."""
    found = {np.float32(update.scale * update.rank) for update in adapter.updates.values()}
    alpha = float(found.pop())
    same = not found and all(alpha / u.rank == u.scale for u in adapter.updates.values())
    return alpha if same and alpha else None


def _file(pairs: list[Pair], tensors: list[tuple[str, Any]]) -> bytes:
    parts = [MAGIC, struct.pack("<IQQ", gguf.VERSION, len(tensors), len(pairs))]
    parts += [text(key) + struct.pack("<I", kind) + value(kind, one) for key, kind, one in pairs]
    offset = 0
    for name, array in tensors:
        parts += [text(name), struct.pack("<I2Q", 2, *reversed(array.shape))]
        parts.append(struct.pack("<IQ", gguf.TYPE_NUMBERS["F32"], offset))
        offset += array.nbytes + -array.nbytes % gguf.ALIGNMENT
    head = b"".join(parts)
    data = [head, b"\0" * (-len(head) % gguf.ALIGNMENT)]
    for _, array in tensors:
        data += [array.astype("<f4").tobytes(), b"\0" * (-array.nbytes % gguf.ALIGNMENT)]
    return b"".join(data)
