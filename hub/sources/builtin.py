"""The models that ship inside the package."""

from __future__ import annotations

from pathlib import Path

from llama_hub.hub.sources.mirror import FolderTree, Mirror

FOLDER = Path(__file__).parent / "demo"


def builtin() -> Mirror:
    """The source ``builtin``: the demo models, in Meta's layout."""
    return Mirror(FolderTree(FOLDER), "meta", "builtin")
