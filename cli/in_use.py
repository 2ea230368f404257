"""The check that a model of the store is not deployed, so that nobody removes it by accident."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama_hub.hub.store import StoredModel


def check_unused(models: list[StoredModel]) -> None:
    """``InUseError`` if one of ``models`` is deployed, here or by this machine elsewhere."""
    from llama_hub.backends import registry
    from llama_hub.deploy import usage

    here = registry.get("local").list()  # knows its deployments without a journal, too
    running = [usage.Use(one.backend, one.name, one.manifest) for one in here]
    usage.check_unused(models, [*usage.uses(), *running])
