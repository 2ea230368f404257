"""Waiting, following and asking again; no test waits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from llama_hub.deploy.waiting import added, follow, persist, until_gone, until_settled
from llama_hub.errors import ProvisioningError, TransientError


def no_sleep(seconds: float) -> None:
    """Instead of ``time.sleep``."""


@pytest.mark.parametrize(
    ("before", "now", "new"),
    [
        ([], ["a"], ["a"]),
        (["a", "b"], ["a", "b", "c"], ["c"]),
        (["a", "x"], ["a", "x", "b", "x"], ["b", "x"]),  # the last line came again
        (["x", "x"], ["x", "x", "x"], ["x"]),
        (["ok", "ok"], ["ok", "ok", "bad", "ok", "ok"], ["bad", "ok", "ok"]),
        (["a", "b", "c"], ["b", "c", "d"], ["d"]),  # the oldest has gone
        (["a"], ["b", "c"], ["b", "c"]),
        (["a", "b"], ["b"], []),
    ],
)
def test_what_was_added_to_a_log(before: list[str], now: list[str], new: list[str]) -> None:
    assert list(added(before, now)) == new


def test_following_loses_nothing_and_repeats_nothing() -> None:
    """The log shows its newest four lines; it is empty while the replica restarts."""
    written = ["a", "x", "b", "x", "x", "c", "x", "d"]
    looks: Iterator[list[str]] = iter(
        [written[max(0, end - 4) : end] for end in (2, 4, 5, 7)] + [[]] + [written[-4:]]
    )
    lines = follow(lambda: next(looks), written[:1], sleep=no_sleep)
    assert list(itertools.islice(lines, len(written) - 1)) == written[1:]


def test_following_outlives_a_busy_platform() -> None:
    answers: Iterator[Exception | list[str]] = iter([TransientError("busy", retry_after=7), ["a"]])

    def look() -> list[str]:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    pauses: list[float] = []
    assert next(follow(look, [], every=5, sleep=pauses.append)) == "a"
    assert pauses == [5, 7]


def test_settled_is_the_first_state_that_no_change_is_under_way_in() -> None:
    states = iter(["Scaling", "Updating", "Succeeded"])
    found = until_settled(
        lambda: next(states), lambda state: state.endswith("ing"), "x", timeout=60, sleep=no_sleep
    )
    assert found == "Succeeded"
    assert until_settled(lambda: None, lambda state: True, "x", timeout=60, sleep=no_sleep) is None
    with pytest.raises(ProvisioningError, match="a settled x"):
        until_settled(lambda: "Scaling", lambda state: True, "x", timeout=60, sleep=no_sleep)


def test_gone_is_gone() -> None:
    there = iter([1, 1, None])
    until_gone(lambda: next(there), "x", timeout=60, sleep=no_sleep)
    assert next(there, "read to the end") == "read to the end"
    with pytest.raises(ProvisioningError, match="the end of x"):
        until_gone(lambda: 0, "x", timeout=60, sleep=no_sleep)


def test_persisting_waits_as_long_as_the_platform_says() -> None:
    answers: Iterator[float | None] = iter([120.0, None])

    def call() -> str:
        asked = next(answers, "fine")
        if asked == "fine":
            return "done"
        raise TransientError("busy", retry_after=asked)  # type: ignore[arg-type]

    pauses: list[float] = []
    assert persist(call, sleep=pauses.append, jitter=lambda: 1.0) == "done"
    assert pauses == [120.0, 2.0]
