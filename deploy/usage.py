"""Uses of a model of the store by deployments, as far as this machine has written them down.

Asked before a model is removed: by the journals, so that no cloud has to answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_hub.deploy.journal import History, Journal, journals
from llama_hub.errors import InUseError, LlamaHubError
from llama_hub.hub.store import StoredModel, variant


@dataclass(frozen=True)
class Use:
    """A deployment, and what it serves."""

    backend: str
    name: str
    manifest: str | None  # digest
    model: str = ""  # as its spec calls it
    variant: str = "hf"  # what of that model it serves

    def needs(self, stored: StoredModel) -> bool:
        """Whether it serves these bytes, or would be made again from this place of the store."""
        named = self.model == stored.id and self.variant == stored.path.name
        return named or self.manifest == stored.manifest.digest


def uses(root: Path | None = None) -> Iterator[Use]:
    """What every deployment that this machine made serves now; journals that say nothing do not."""
    for journal in journals(root):
        try:
            begun = list(_begins(journal.history()))
            yield from [use for begin in begun for use in _uses(journal, begin)]
        except (LlamaHubError, KeyError, TypeError, AttributeError):
            continue


def check_unused(models: Sequence[StoredModel], served: Iterable[Use]) -> None:
    """``InUseError`` names the deployments that need one of ``models``."""
    needed = {f"{use.name} ({use.backend})": use for use in served if any(map(use.needs, models))}
    if needed:
        name = next(iter(needed.values())).name
        raise InUseError(
            f"{models[0].id} is deployed as {', '.join(sorted(needed))}; nothing was removed",
            hint=f"llama-hub delete {name}   first; or --force: what runs keeps its own bytes, but "
            "is not attested, rolled back or deployed again without them",
        )


def _begins(history: History) -> Iterator[Mapping[str, Any]]:
    """The runs that say what is or may be there."""
    if history.good:
        yield history.good[-1]
    last = history.runs[-1] if history.runs else None
    if last is not None and last.result in (None, "kept") and last.kind != "delete":
        yield last.begin


def _uses(journal: Journal, begin: Mapping[str, Any]) -> Iterator[Use]:
    """Of the deployment's own model, and of those beside it."""
    spec = begin["spec"] or {}
    place = variant("hf", spec.get("quantization"))
    where = (journal.backend, journal.name)
    yield Use(*where, begin["manifest"], str(spec.get("model", "")), place)
    for further in (spec.get("options") or {}).get("models") or ():
        yield Use(*where, None, str(further), place)
