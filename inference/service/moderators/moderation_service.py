"""Any service with OpenAI's ``/v1/moderations`` as a moderator, another llama-hub among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llama_hub.errors import ProvisioningError
from llama_hub.inference.service.moderation import Passage, Verdict
from llama_hub.inference.service.moderators.remote import Remote, windows

PATH = "/v1/moderations"


@dataclass(frozen=True)
class ModerationService:
    """Refuses what the service flags, or what reaches one of ``thresholds``."""

    remote: Remote
    model: str | None = None
    window: int = 8000  # characters
    thresholds: Mapping[str, float] = field(default_factory=dict)  # category → score that refuses
    name: str = "moderations"

    async def __call__(self, passage: Passage) -> Verdict:
        """The refusal; ``ProvisioningError`` for an answer that is none."""
        if not passage.text:
            return None
        texts = windows(passage, self.window)
        body: dict[str, Any] = {"input": texts}
        if self.model is not None:
            body["model"] = self.model
        results = _results(await self.remote.post(PATH, body), len(texts))
        flagged = sorted({category for each in results for category in self._flagged(each)})
        return f"flagged as {', '.join(flagged)}" if flagged else None

    def _flagged(self, result: Mapping[str, Any]) -> list[str]:
        """Categories that refuse; with thresholds those alone decide, whatever else is flagged."""
        if self.thresholds:
            scores = result.get("category_scores")
            return [c for c, least in self.thresholds.items() if _score(scores, c) >= least]
        if not result["flagged"]:
            return []
        categories = result.get("categories")
        named = categories.items() if isinstance(categories, dict) else ()
        return [str(name)[:64] for name, value in named if value is True][:8] or ["unsafe"]


def _results(answer: Any, count: int) -> list[Mapping[str, Any]]:
    results = answer.get("results") if isinstance(answer, dict) else None
    good = isinstance(results, list) and len(results) == count
    if not good or not all(
        isinstance(each, dict) and isinstance(each.get("flagged"), bool) for each in results or ()
    ):
        raise ProvisioningError("the moderation service's answer holds no result for each text")
    return list(results or ())


def _score(scores: Any, category: str) -> float:
    score = scores.get(category) if isinstance(scores, dict) else None
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise ProvisioningError(f"the moderation service states no score for {category!r}")
    return float(score)
