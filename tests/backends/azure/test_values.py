"""Comparing what was asked for with what the service says there is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llama_hub.backends.azure.bodies import without
from llama_hub.backends.azure.values import duration, holds, seconds

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.integers(0, 10**6))
def test_a_duration_comes_back(amount: int) -> None:
    assert seconds(duration(amount)) == amount


def test_a_duration_is_written_as_the_sdk_writes_it() -> None:
    from isodate import duration_isoformat
    from isodate.duration import timedelta

    for amount in (1, 10, 60, 90, 180, 3600, 3661):
        assert duration(amount) == duration_isoformat(timedelta(seconds=amount))


@given(JSON)
def test_everything_holds_what_it_is(value: object) -> None:
    assert holds(value, value)


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=3), JSON)
def test_keys_of_the_services_own_do_not_matter(wanted: dict[str, object], more: object) -> None:
    assert holds(wanted, {**wanted, "something of the service's own": more})


def test_spelling_of_ids_and_durations_does_not_matter_but_values_do() -> None:
    assert holds({"id": "/Subscriptions/X", "t": "PT3M"}, {"id": "/subscriptions/x", "t": "PT180S"})
    assert not holds({"t": "PT3M"}, {"t": "PT181S"})
    assert not holds({"a": 1}, {})
    assert not holds([1, 2], [1])
    assert not holds({"a": {"b": 1}}, {"a": None})


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 100), min_size=1))
def test_traffic_without_one_is_all_or_nothing(traffic: dict[str, int]) -> None:
    name = next(iter(traffic))
    left = without(traffic, name)
    assert name not in left
    assert sum(left.values()) in (0, 100)
    assert all(share >= 0 for share in left.values())
    assert bool(left) == any(share for known, share in traffic.items() if known != name)
