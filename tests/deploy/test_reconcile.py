"""What we set against what a service shows: added, respelled, reordered and omitted fields."""

from __future__ import annotations

from typing import Any

import pytest

from llama_hub.deploy.backend import Resource
from llama_hub.deploy.reconcile import deletions, differences, holds, reconciled


@pytest.mark.parametrize(
    ("wanted", "shown", "good"),
    [
        ({"a": 1}, {"a": 1, "added": 2}, True),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, True),
        ({"env": {}}, {}, True),  # empty values may be left out
        ({"tags": []}, {}, True),
        ({"a": None}, {}, True),
        ({"text": ""}, {}, True),
        ({"count": 0}, {}, False),  # zero and false are values
        ({"on": False}, {}, False),
        ({"a": None}, {"a": 30}, False),
        ({"a": []}, {"a": [1]}, False),
        ({"a": [1, 2]}, {"a": [2, 1]}, False),
        ({"a": ["x"]}, {"a": "x"}, False),
        ({"a": {"b": 1}}, {"a": "text"}, False),
        ({"l": [{"n": 1}, {"n": 2}]}, {"l": [{"n": 2, "x": 0}, {"n": 1}]}, True),
        ({"l": [{"n": 1}, {"n": 1}]}, {"l": [{"n": 1}, {"n": 2}]}, False),  # each its own partner
        ({"a": 1}, None, False),
    ],
)
def test_only_what_we_set_is_compared(wanted: Any, shown: Any, good: bool) -> None:
    assert holds(wanted, shown) is good


def test_a_service_may_spell_values_in_its_own_way() -> None:
    def same(wanted: Any, shown: Any) -> bool:
        return str(wanted).lower() == str(shown).lower()

    assert holds({"ids": ["/A"], "n": {"x": "Y"}}, {"ids": ["/a"], "n": {"x": "y"}}, same)
    assert differences({"a": "X", "b": 1}, {"a": "x", "b": 2}, same) == ["b"]


def test_the_step_says_what_differs() -> None:
    there = Resource("alarm", "a", "OK")
    assert reconciled("alarm", "a", {}, None).action == "create"
    step = reconciled("alarm", "a", {}, there, ["period", "tags"], after=("x/y",))
    assert (step.action, step.why, step.after) == ("update", "period, tags differ", ("x/y",))
    assert reconciled("alarm", "a", {}, there, ["tags"]).why == "tags differ"
    assert reconciled("alarm", "a", {}, there, ["period"]).why == "period differs"
    assert reconciled("alarm", "a", {}, there).action == "noop"


def test_deletions_go_by_kind_in_the_order_given() -> None:
    found = [Resource("model", "m", ""), Resource("endpoint", "e", ""), Resource("model", "n", "")]
    steps = deletions(found, ("endpoint", "model"), long=True)
    assert [(step.id, step.after) for step in steps] == [
        ("endpoint/e", ()),
        ("model/m", ("endpoint/e",)),
        ("model/n", ("endpoint/e",)),
    ]
    assert all(step.action == "delete" and step.long for step in steps)
