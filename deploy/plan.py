"""A plan is data: what would be done, why, for how much; dry run and apply read the same one.

Planning only reads. ``digest`` covers what would be done, and nothing that
moves by itself (prices, quota, times), so that a plan from a file can be held
against the plan that would be made today.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from llama_hub.deploy.backend import Step
from llama_hub.deploy.offer import Offer
from llama_hub.deploy.sizing import HOURS_PER_MONTH
from llama_hub.errors import ProvisioningError
from llama_hub.hub.manifest import canonical

if TYPE_CHECKING:
    from llama_hub.deploy.spec import DeploymentSpec

Kind = Literal["deploy", "rollback", "delete"]
SCHEMA = 1


@dataclass(frozen=True)
class Plan:
    """Frozen steps in the order in which they are done, and what they were derived from."""

    kind: Kind
    backend: str
    name: str
    steps: tuple[Step, ...]
    location: Mapping[str, Any] = field(default_factory=dict)  # constructor arguments
    spec: DeploymentSpec | None = None  # None while deleting
    generation: str | None = None
    manifest: str | None = None  # digest
    receipt: str | None = None  # id in the licence ledger
    ledger_head: str | None = None  # what the ledger held then; not part of the digest
    license: str | None = None
    need: Mapping[str, Any] | None = None  # the memory arithmetic, see sizing.Need.to_json
    offer: Offer | None = None

    @property
    def changes(self) -> tuple[Step, ...]:
        """The steps that would do something."""
        return tuple(step for step in self.steps if step.action != "noop")

    @property
    def digest(self) -> str:
        """``sha256:…`` of what would be done."""
        content = {
            "kind": self.kind,
            "backend": self.backend,
            "name": self.name,
            "generation": self.generation,
            "manifest": self.manifest,
            "steps": [identity(step) for step in self.steps],
        }
        return "sha256:" + hashlib.sha256(canonical(content)).hexdigest()

    @property
    def cost_per_hour(self) -> tuple[float, float] | None:
        """US dollars for the fewest and for the most replicas; ``None`` if running is free."""
        if self.offer is None or self.offer.price_per_hour is None or self.spec is None:
            return None
        fewest = 0 if self.spec.scale_to_zero else self.spec.replicas_min
        price = self.offer.price_per_hour
        return price * fewest, price * self.spec.replicas_max

    def to_json(self) -> dict[str, Any]:
        """The document that ``--out`` writes and ``--plan --json`` prints."""
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "digest": self.digest,
            "kind": self.kind,
            "backend": self.backend,
            "name": self.name,
            "location": dict(self.location),
            "changes": len(self.changes),
            "generation": self.generation,
            "manifest": self.manifest,
            "license": self.license,
            "receipt": self.receipt,
            "ledger_head": self.ledger_head,
            "spec": self.spec.to_json() if self.spec else None,
            "need": self.need,
            "offer": dataclasses.asdict(self.offer) if self.offer else None,
            "plan": [full_entry(step) for step in self.steps],
        }
        return document | costs(self)


def entry(step: Step) -> dict[str, Any]:
    """One step as scripts see it."""
    return {"action": step.action, "resource": step.id, "why": step.why}


def full_entry(step: Step) -> dict[str, Any]:
    """One step with everything that will be asked for."""
    fields = {known.name: getattr(step, known.name) for known in dataclasses.fields(step)}
    return entry(step) | fields | {"after": list(step.after), "body": _plain(step.body)}


def costs(plan: Plan) -> dict[str, Any]:
    """The cost keys of a document; empty where running costs nothing."""
    per_hour = plan.cost_per_hour
    if per_hour is None or plan.offer is None:
        return {}
    fewest, most = per_hour
    return {
        "cost_per_hour": fewest,
        "cost_per_hour_most": most,
        "cost_per_month": round(fewest * HOURS_PER_MONTH, 2),
        "cost_per_month_most": round(most * HOURS_PER_MONTH, 2),
        "price_source": plan.offer.price_source,
    }


def identity(step: Step) -> dict[str, Any]:
    """What makes two steps the same change: not the words that explain it."""
    return {
        "action": step.action,
        "id": step.id,
        "body": _plain(step.body),
        "after": sorted(step.after),
    }


def _plain(value: Any) -> Any:
    """A body as JSON would return it, so that a plan from a file equals one just made."""
    return json.loads(json.dumps(value, sort_keys=True, default=str))


def ordered(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps so that each comes after those it names; otherwise in the given order.

    ``ProvisioningError`` for two steps of one id, an unknown id, or a circle: a defect of the
    backend, found before anything is sent.
    """
    waiting = {step.id: step for step in steps}
    if len(waiting) != len(steps):
        raise ProvisioningError("the backend's plan names one resource in two steps")
    unknown = {need for step in steps for need in step.after} - set(waiting)
    if unknown:
        raise ProvisioningError(f"the backend's plan waits for unknown steps: {sorted(unknown)}")
    done: list[Step] = []
    while waiting:
        ready = next(
            (step for step in waiting.values() if not set(step.after) & set(waiting)), None
        )
        if ready is None:
            raise ProvisioningError(f"the backend's plan goes in a circle: {sorted(waiting)}")
        done.append(waiting.pop(ready.id))
    return tuple(done)
