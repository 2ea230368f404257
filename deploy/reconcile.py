"""Comparison of what we set with what is there: what holds, what differs, which step that makes.

Only what we set is compared. A field that the service adds, respells or leaves out because it is
empty is never a difference: one that no update can remove would make every plan a change.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from llama_hub.deploy.backend import Resource, Step

Same = Callable[[Any, Any], bool]


def holds(wanted: Any, shown: Any, same: Same = operator.eq) -> bool:
    """Whether ``shown`` has all of ``wanted``.

    Mappings may hold further keys, lists of mappings may come in another order, and an empty
    value may be absent. ``same`` compares two values that are neither: services respell ids,
    durations and the like.
    """
    if isinstance(wanted, Mapping):
        inner = shown if isinstance(shown, Mapping) else {}
        return all(holds(value, inner.get(key), same) for key, value in wanted.items())
    if isinstance(wanted, list | tuple):
        return _list_holds(wanted, shown, same)
    if shown is None and wanted == "":
        return True
    return bool(wanted == shown or same(wanted, shown))


def _list_holds(wanted: Sequence[Any], shown: Any, same: Same) -> bool:
    """Item by item; items that are mappings are paired, each with one of its own."""
    items = list(shown) if isinstance(shown, list | tuple) else []
    if len(items) != len(wanted):
        return False
    if not any(isinstance(item, Mapping) for item in wanted):
        return all(holds(*pair, same) for pair in zip(wanted, items, strict=True))
    for item in wanted:
        place = next((n for n, other in enumerate(items) if holds(item, other, same)), None)
        if place is None:
            return False
        items.pop(place)
    return True


def differences(wanted: Mapping[str, Any], shown: Any, same: Same = operator.eq) -> list[str]:
    """The keys of ``wanted`` whose values ``shown`` does not have."""
    inner = shown if isinstance(shown, Mapping) else {}
    return [key for key, value in wanted.items() if not holds(value, inner.get(key), same)]


def reconciled(
    kind: str,
    name: str,
    body: Mapping[str, Any],
    resource: Resource | None,
    differing: Sequence[str] = (),
    **more: Any,
) -> Step:
    """The step for something that is changed in place: create, update (saying why), or noop.

    ``differing``: what of an existing one is not as wanted; ``more``: further fields of the step.
    """
    if resource is None:
        return Step("create", kind, name, "there is none", body, **more)
    if differing:
        verb = "differs" if len(differing) == 1 and differing != ["tags"] else "differ"
        return Step("update", kind, name, f"{', '.join(differing)} {verb}", body, **more)
    return Step("noop", kind, name, "as wanted", body, **more)


def deletions(
    resources: Iterable[Resource],
    order: Sequence[str],
    *,
    why: Callable[[Resource], str] = lambda resource: "asked for",
    body: Callable[[Resource], Mapping[str, Any]] = lambda resource: {},
    after: Sequence[str] = (),
    **more: Any,
) -> list[Step]:
    """Delete steps by kind, as ``order`` has them: what bills first, what is used by others last.

    Each waits for those of the kinds before it, and for ``after``; ``more``: further fields of
    every step. Kinds that ``order`` does not name are no things of the platform: a traffic change
    or a smoke test that was cut off.
    """
    steps: list[Step] = []
    listed = list(resources)
    for kind in order:
        earlier = (*after, *(step.id for step in steps))
        steps += [
            Step("delete", kind, resource.name, why(resource), body(resource), earlier, **more)
            for resource in listed
            if resource.kind == kind
        ]
    return steps
