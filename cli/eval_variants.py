"""Variants of a target, scored one after the other: quantised, as GGUF, or another target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llama_hub.cli.eval_target import is_url
from llama_hub.errors import UsageError

if TYPE_CHECKING:
    from llama_hub.cli.output import Output

ON_LOAD = ("int8", "int4")
MAX_VARIANTS = 12


@dataclass(frozen=True)
class Variant:
    """One thing to score: a target, and how it is served."""

    target: str
    quantize: str | None
    folder: Path
    gguf: str | None = None  # type of a file that is made of the target first


def variants(target: str, quantize: str | None, also: Sequence[str], folder: Path) -> list[Variant]:
    """The target, then what ``--also`` names; ``UsageError`` for more than ``MAX_VARIANTS``."""
    from llama_hub.hub.checkpoints.gguf_types import file_type

    if not also:
        return [Variant(target, quantize, folder)]
    if len(also) >= MAX_VARIANTS:
        raise UsageError(f"{len(also) + 1} variants; at most {MAX_VARIANTS} fit one comparison")
    listed = [Variant(target, quantize, folder / "0")]
    for number, word in enumerate(also, 1):
        place, kind = folder / str(number), file_type(word)
        if (word in ON_LOAD or kind is not None) and is_url(target):
            raise UsageError(f"--also {word}: a URL cannot be quantised from here")
        if word in ON_LOAD:
            listed.append(Variant(target, word, place))
        elif kind is not None:
            listed.append(Variant(target, None, place, kind))
        else:
            listed.append(Variant(word, None, place))
    return listed


def prepared(out: Output, variant: Variant) -> str:
    """The target to open: the variant's own, or the GGUF file that is made of it here."""
    if variant.gguf is None:
        return variant.target
    from llama_hub.hub.conversion.convert import convert
    from llama_hub.hub.store import Store

    folder = variant.folder / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    source = Store().find(variant.target)
    file = (folder / f"{source.id}.{variant.gguf}.gguf").absolute()
    if not file.is_file():
        out.status(f"making {file}")
        with out.progress() as progress:
            convert(source.path, file, to="gguf", dtype=variant.gguf, progress=progress)
    return str(file)
