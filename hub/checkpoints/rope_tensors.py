"""Frequencies of RoPE that old files hold beside the weights: ``inv_freq``, ``rope.freqs``.

They follow from theta and are not converted; a file whose frequencies are others than its
configuration gives was stretched or trained otherwise, and would become another model in silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llama_hub.errors import IntegrityError
from llama_hub.hub.architecture import Architecture
from llama_hub.hub.checkpoints.numeric import Bits

_TYPES = {"float16": "<f2", "float32": "<f4", "float64": "<f8", "F64": "<f8", "bfloat16": "<u2"}
_RELATIVE, _ABSOLUTE = 5e-3, 2e-7  # bfloat16 is off by 0.2 %, small float16 numbers by 3e-8


@dataclass(frozen=True)
class Frequencies:
    """Where such a tensor lies; contiguous."""

    name: str
    path: Path
    offset: int  # bytes
    dtype: str
    shape: tuple[int, ...]


def check(found: Frequencies, architecture: Architecture) -> None:
    """``IntegrityError`` unless the frequencies are those of the configuration.

    The buffer is the unscaled one (dynamic scaling stretches it later) or that of linear scaling;
    frequencies of the other kinds are not compared.
    """
    scaling = architecture.rope_scaling
    if scaling is not None and scaling.kind not in ("linear", "dynamic"):
        return
    half = architecture.head_dim // 2
    exponents = np.arange(half, dtype=np.float64) / half
    plain = 1.0 / np.float64(architecture.rope_theta) ** exponents
    wanted = [plain]
    if scaling is not None and scaling.kind == "linear":
        wanted.append(plain / scaling.factor)
    values = _values(found, half)
    if values is None or not any(
        np.allclose(values, one, rtol=_RELATIVE, atol=_ABSOLUTE) for one in wanted
    ):
        stated = f"{scaling.kind} by {scaling.factor:g}" if scaling else "none"
        raise IntegrityError(
            f"{found.path} holds {found.name} with other frequencies than its configuration gives "
            f"(rope_theta {architecture.rope_theta:g}, scaling {stated}): it would become another "
            "model",
            hint="state rope_theta and rope_scaling of the model in its config.json, or take the "
            "configuration from the same place as the weights",
        )


def _values(found: Frequencies, count: int) -> Bits | None:
    """The tensor in double precision; ``None`` if it has another size or type."""
    kind = _TYPES.get(found.dtype)
    if kind is None or found.shape != (count,):
        return None
    raw = np.fromfile(found.path, kind, count, offset=found.offset)
    if len(raw) != count:
        return None
    if found.dtype == "bfloat16":
        raw = (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float64)
