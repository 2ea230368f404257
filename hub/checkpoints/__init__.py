"""Checkpoint formats: Meta's shards, Hugging Face safetensors, GGUF; one tensor at a time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llama_hub.errors import NotFoundError

if TYPE_CHECKING:
    from llama_hub.hub.checkpoints.source import Checkpoint


def open_checkpoint(folder: Path, *, context: int | None = None) -> Checkpoint:
    """The model in ``folder``, whatever its format; close it after use.

    ``context`` (tokens): for Meta's layout, whose params.json does not tell it.
    """
    # Imported here: numpy is in the extra [serve], and listing models does not need it.
    from llama_hub.hub.checkpoints import meta, safetensors

    if not folder.is_dir():
        raise NotFoundError(f"{folder} is not a folder")
    if meta.is_meta(folder):
        return meta.open_meta(folder, context=context)
    if safetensors.is_hf(folder):
        return safetensors.open_hf(folder)
    raise NotFoundError(
        f"{folder} holds no model that is known here",
        hint="wanted: consolidated.NN.pth with params.json, config.json with *.safetensors",
    )
