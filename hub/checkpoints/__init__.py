"""Checkpoint formats: Meta's shards, Hugging Face safetensors, GGUF; one tensor at a time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llama_hub.errors import NotFoundError

if TYPE_CHECKING:
    from llama_hub.hub.checkpoints.source import Checkpoint


def open_checkpoint(
    folder: Path,
    *,
    context: int | None = None,
    quantised: bool = False,
    dequantize: bool = False,
    packed: bool = False,
) -> Checkpoint:
    """The model in ``folder``, whatever its format, or in a GGUF file; close it after use.

    ``context`` (tokens): for Meta's layout, whose params.json does not tell it. A quantised model
    is an ``IntegrityError`` unless ``quantised``, since its weights are gone, or, of a GGUF file,
    ``dequantize``: then the weights are what is left of them; or ``packed``: its blocks.
    ``NotFoundError`` if there is no such folder.
    """
    # Imported here: numpy is in the extra [serve], and listing models does not need it.
    from llama_hub.hub.checkpoints import diagnosis, gguf, gguf_types, hf_reader, meta

    if gguf_types.is_file(folder):
        return gguf.open_gguf(folder, quantised=quantised, dequantize=dequantize, packed=packed)
    if not folder.is_dir():
        raise NotFoundError(f"{folder} is not a folder")
    if meta.is_meta(folder):
        return meta.open_meta(folder, context=context)
    if hf_reader.is_hf(folder):
        return hf_reader.open_hf(folder, quantised=quantised)
    if gguf.is_gguf(folder):
        return gguf.open_gguf(folder, quantised=quantised, dequantize=dequantize, packed=packed)
    raise diagnosis.no_model(folder, (path.name for path in folder.iterdir()))
