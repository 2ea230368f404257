"""Plans in files: ``deploy --out`` writes one, ``deploy --apply`` and ``export`` read it.

A file may have been edited, and its digest made again: whatever it says has the right type before
anything acts on it, and applying compares it with the plan that today's state gives.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le, MaxLen

from llama_hub.deploy import spec as specs
from llama_hub.deploy.backend import Step
from llama_hub.deploy.journal import BACKEND
from llama_hub.deploy.offer import Offer
from llama_hub.deploy.plan import SCHEMA, Kind, Plan
from llama_hub.deploy.spec import DeploymentSpec
from llama_hub.files import PRIVATE, write_atomic
from llama_hub.schema import Pattern, conform
from llama_hub.strict import MAX_INT, parse_json, read_bytes, text_kind

KIND = text_kind(
    "the plan", max_bytes=4 << 20, hint="llama-hub deploy … --out plan.json   (makes one)"
)
MAX_PRICE = 1e6  # US dollars an hour

Bytes = Annotated[int, Ge(0), Le(MAX_INT)]
Price = Annotated[float, Ge(0), Le(MAX_PRICE)]
Digest = Annotated[str, Pattern("sha256:[0-9a-f]{64}", "sha256: and 64 hexadecimal digits")]
Text = Annotated[str, MaxLen(1024)]
Name = Annotated[
    str,
    Pattern(f"(?=.{{1,{specs.NAME_LENGTH}}}$){specs.NAME.pattern}", "the name of a deployment"),
]
BackendName = Annotated[str, Pattern(BACKEND.pattern, "the name of a backend")]


@dataclass(frozen=True, kw_only=True)
class _Need:
    """``sizing.Need.to_json``."""

    weights_bytes: Bytes
    kv_bytes: Bytes
    workspace_bytes: Bytes
    total_bytes: Bytes
    dtype: Text
    quantization: Text | None
    context: Bytes
    concurrency: Bytes
    parameters: Bytes


@dataclass(frozen=True, kw_only=True)
class _Offer:
    """``deploy.backend.Offer``, with bounds."""

    instance: Text
    region: Text
    accelerators: Annotated[int, Ge(0), Le(1024)]
    memory_bytes: Bytes
    price_per_hour: Price | None
    price_source: Text = ""
    quota_left: Bytes | None = None
    note: Text = ""


@dataclass(frozen=True, kw_only=True)
class _PlanFile:
    schema: Annotated[int, Ge(SCHEMA), Le(SCHEMA)]
    digest: Digest
    kind: Kind
    backend: BackendName
    name: Name
    location: Mapping[str, Text | None]
    generation: Text | None
    manifest: Digest | None
    license: Text | None
    receipt: Text | None
    ledger_head: Text | None = None
    spec: Mapping[str, Any] | None
    need: _Need | None
    offer: _Offer | None
    plan: tuple[Step, ...]


def write(plan: Plan, path: Path) -> None:
    """Save the plan for ``deploy --apply``; readable by its owner only."""
    text = json.dumps(plan.to_json(), indent=1, ensure_ascii=False, default=str)
    write_atomic(path.absolute(), text.encode() + b"\n", mode=PRIVATE)


def read(path: Path) -> Plan:
    """A plan that ``write`` saved; ``UsageError`` if it is none or was edited."""
    document = parse_json(read_bytes(path, KIND), path, KIND)
    stated = conform(_PlanFile, document, path, KIND)
    plan = _plan(stated, path)
    if stated.digest != plan.digest:
        raise KIND.invalid(path, "was edited: it is not what its digest says", "digest")
    return plan


def _plan(stated: _PlanFile, path: Path) -> Plan:
    return Plan(
        kind=stated.kind,
        backend=stated.backend,
        name=stated.name,
        steps=stated.plan,
        location=stated.location,
        spec=_spec(stated, path),
        generation=stated.generation,
        manifest=stated.manifest,
        receipt=stated.receipt,
        ledger_head=stated.ledger_head,
        license=stated.license,
        need=asdict(stated.need) if stated.need else None,
        offer=Offer(**asdict(stated.offer)) if stated.offer else None,
    )


def _spec(stated: _PlanFile, path: Path) -> DeploymentSpec | None:
    if stated.spec is None:
        if stated.kind == "deploy":
            raise KIND.invalid(path, "a deployment needs one", "spec")
        return None
    spec = specs.build(stated.spec, f"in the plan {path}")
    if (spec.name, spec.backend) != (stated.name, stated.backend):
        raise KIND.invalid(path, f"is of {spec.name!r} in {spec.backend!r}", "spec")
    return spec
