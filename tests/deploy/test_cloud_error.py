"""Tables of refusals: the first rule that matches decides, and says when to ask again."""

from __future__ import annotations

import pytest

from llama_hub.deploy.cloud_error import SERVER_ERRORS, ErrorResponse, Rule, explain
from llama_hub.errors import AccessError, NotFoundError, TransientError

RULES = (
    Rule(TransientError, "{what}: busy ({said})", codes={"Throttled"}, statuses=(409, 429)),
    Rule(TransientError, "{what}: busy ({said})", statuses=SERVER_ERRORS),
    Rule(NotFoundError, "{what}: {code} is not there", words="not found|is gone"),
    Rule(AccessError, "{what}: refused ({status})", lambda response: f"ask {response.code}",
         statuses=(403,)),
)  # fmt: skip


@pytest.mark.parametrize(
    ("response", "kind", "message"),
    [
        (ErrorResponse(429, "THROTTLED", "slow down"), TransientError, "do it: busy (slow down)"),
        (ErrorResponse(503), TransientError, "do it: busy (HTTP 503)"),
        (ErrorResponse(400, "X", "it was Not Found"), NotFoundError, "do it: X is not there"),
        (ErrorResponse(403, "X", "(X) no\nmore"), AccessError, "do it: refused (403)"),
    ],
)
def test_the_first_rule_that_matches_decides(
    response: ErrorResponse, kind: type[Exception], message: str
) -> None:
    error = explain(response, "do it", RULES)
    assert type(error) is kind
    assert error.message == message


def test_what_no_rule_knows_is_left_to_the_caller() -> None:
    assert explain(ErrorResponse(418, "Throttled"), "do it", RULES) is None  # both must hold


def test_hints_may_depend_on_the_answer_and_pauses_come_with_it() -> None:
    denied = explain(ErrorResponse(403, "Owner"), "do it", RULES)
    assert denied is not None
    assert denied.hint == "ask Owner"
    busy = explain(ErrorResponse(500, headers={"x-ms-retry-after-ms": "1500"}), "do it", RULES)
    assert isinstance(busy, TransientError)
    assert busy.retry_after == 1.5


def test_braces_in_the_words_of_a_cloud_do_no_harm() -> None:
    error = explain(ErrorResponse(500, "", '{"a": {0}}'), "{what}", RULES)
    assert error is not None
    assert '{"a": {0}}' in error.message
