"""What ``attest`` says of the engine: device, type, and how each kind of step is computed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llama_hub.deploy import attest
from llama_hub.deploy.backend import Endpoint, Proof
from llama_hub.inference.service.moderators import policy
from tests.support.records import MANIFEST, made, samples

STATED = {
    "engine": "torch",
    "device": "cuda:0",
    "dtype": "bfloat16",
    "quantization": None,
    "step_modes": {"decode 1": "graph, triton", "decode 8": "plain", "mixed": "triton"},
}


MODES = "decode 1: graph, triton; decode 8: plain; mixed: triton"


class Somewhere:
    """A backend of which only the endpoint is asked."""

    def endpoint(self, name: str) -> Endpoint:
        return Endpoint("http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        (STATED, [f"torch on cuda:0, bfloat16; {MODES}"]),
        ({**STATED, "quantization": "int4", "step_modes": {}}, ["torch on cuda:0, int4"]),
        (None, []),
        ({"engine": "torch"}, ["what the service says of its engine cannot be read"]),
        ([1], ["what the service says of its engine cannot be read"]),
    ],
)  # fmt: skip
def test_a_slow_way_is_no_secret(
    monkeypatch: pytest.MonkeyPatch, engine: Any, expected: list[str]
) -> None:
    answer = {"manifest": "sha256:1", "engine": engine}
    monkeypatch.setattr(attest.client, "get", lambda *_: answer)
    proofs = attest._asked(Somewhere(), "x")  # type: ignore[arg-type]
    assert [one.evidence for one in proofs if one.what == "engine"] == expected
    assert all(one.ok for one in proofs)
    assert proofs[0].evidence == "sha256:1"


RULES = {"moderators": [{"kind": "words", "words": ["bomb"]}]}
DIGEST = policy.of_spec(RULES).digest


@pytest.mark.parametrize(
    ("wanted", "stated", "ok"),
    [
        (RULES, DIGEST, True),
        (RULES, "sha256:" + "0" * 64, False),
        (RULES, None, False),
        ({}, None, None),
        ({}, DIGEST, True),
    ],
)
def test_the_policy_that_was_deployed_judges(
    wanted: dict[str, Any], stated: str | None, ok: bool | None
) -> None:
    good = [{"spec": {"moderation": wanted}}]
    said = {"policy": stated, "mode": "before", "moderators": ["words"]} if stated else None
    lines = attest._moderation(good, attest.policy_proof(said))
    assert [line.ok for line in lines] == ([] if ok is None else [ok])
    assert all(stated in line.evidence for line in lines if stated)


@pytest.mark.parametrize(
    ("changes", "bad"),
    [
        ({}, []),
        ({"manifest": "sha256:" + "b" * 64}, ["evaluation"]),
        ({"manifest": None}, ["evaluation"]),
        ({"quantization": "int4"}, ["evaluated as"]),
        ({"policy": DIGEST}, ["evaluated under"]),
    ],
)
def test_what_was_scored_is_still_served(changes: dict[str, Any], bad: list[str]) -> None:
    scored = made(samples("mmlu", 0.5, 10))
    scored = replace(scored, subject=replace(scored.subject, **changes))
    proofs = [Proof("engine", True, "torch on cpu, bfloat16; decode: plain")]
    lines = attest._scored(scored, MANIFEST, proofs)
    assert [line.what for line in lines if not line.ok] == bad
    assert scored.digest in lines[0].evidence
