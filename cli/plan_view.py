"""A plan as a person reads it; plain text, so that planning stays quick."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama_hub.deploy.backend import Step
    from llama_hub.deploy.plan import Plan

MARKS = {"create": "+", "update": "~", "replace": "±", "delete": "-", "noop": " "}


def text(plan: Plan) -> str:
    """Heading, steps, machine, memory, licence, cost."""
    parts = [_heading(plan), steps(plan.steps), *_facts(plan)]
    return "\n".join(part for part in parts if part)


def steps(known: Sequence[Step]) -> str:
    """The steps as a table."""
    rows = [(MARKS[one.action], one.action, one.id, _why(one)) for one in known]
    return columns(rows, indent="  ")


def columns(rows: Sequence[Sequence[str]], indent: str = "") -> str:
    """Rows with their cells under one another; the last column is not padded."""
    if not rows:
        return ""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)) for row in rows]
    return "\n".join(indent + line.rstrip() for line in lines)


def _why(step: Step) -> str:
    lasting = "" if step.reversible or step.action == "noop" else " [cannot be undone]"
    return step.why + (f" ({step.note})" if step.note else "") + lasting


def _heading(plan: Plan) -> str:
    count = len(plan.changes)
    what = f"{count} change{'s' if count != 1 else ''}" if count else "nothing to do"
    return f"{plan.kind} {plan.name} in {plan.backend}: {what}"


def _facts(plan: Plan) -> list[str]:
    facts = []
    if plan.offer is not None:
        facts.append(f"machine   {plan.offer.instance} ({plan.offer.region}){_quota(plan)}")
    if plan.need is not None:
        facts.append(f"memory    {_memory(plan)}")
    if plan.manifest:
        facts.append(f"model     {plan.manifest} under {plan.license} (receipt {plan.receipt})")
    elif plan.spec is not None:
        facts.append(
            f"model     under {plan.license}; zeros stand for its digest until it is in the store"
        )
    cost = _cost(plan)
    return [*facts, f"cost      {cost}"] if cost else facts


def _quota(plan: Plan) -> str:
    left = plan.offer.quota_left if plan.offer else None
    if left is None:
        costs = plan.offer is not None and plan.offer.price_per_hour is not None
        return ", its quota could not be read" if costs else ""
    return f", quota leaves {left}"


def _memory(plan: Plan) -> str:
    from llama_hub.deploy.sizing import gib

    need = plan.need or {}
    return (
        f"{gib(need['total_bytes'])} per replica: weights {gib(need['weights_bytes'])}, "
        f"KV cache {gib(need['kv_bytes'])} for {need['concurrency']} x {need['context']} tokens, "
        f"workspace {gib(need['workspace_bytes'])}"
    )


def _cost(plan: Plan) -> str:
    from llama_hub.deploy.sizing import HOURS_PER_MONTH

    per_hour = plan.cost_per_hour
    if per_hour is None or plan.offer is None:
        return ""
    low, high = per_hour
    hour = f"${low:.2f}" if low == high else f"${low:.2f} to ${high:.2f}"
    month = f"${low * HOURS_PER_MONTH:,.0f}"
    if low != high:
        month += f" to ${high * HOURS_PER_MONTH:,.0f}"
    return f"{hour} an hour, {month} a month ({plan.offer.price_source})"
