"""Lines of ``doctor``: each is looked at on its own, so that a failed one hides no other."""

from __future__ import annotations

from collections.abc import Callable

from llama_hub.deploy.backend import Check
from llama_hub.errors import LlamaHubError


def line(name: str, look: Callable[[], Check], hint: str = "") -> Check:
    """What ``look`` finds; an error of ours is a failed line (``hint``: where it has none)."""
    try:
        return look()
    except LlamaHubError as error:
        return Check(name, False, error.message, error.hint or hint)
