"""Who passes the gate, and what it says to those who do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llama_hub.errors import IntegrityError, LicenseError, NotFoundError, UsageError
from llama_hub.licenses import terms
from llama_hub.licenses.gate import Acceptance, Gate, Texts, notice_text
from llama_hub.licenses.terms import License
from llama_hub.licenses.wording import normalised_sha256
from tests.support.licences import ACME, GOOD, OTHER_TEXT, POLICY, TEXT, texts, write_terms


@pytest.fixture(autouse=True)
def _acme(home: Path) -> None:
    write_terms(home / "licenses" / "terms")


def accepting(acceptance: Acceptance) -> Any:
    return lambda license, texts: acceptance


def must_not_ask(license: License, texts: Texts) -> Acceptance:
    raise AssertionError("asked although nothing is open")


def test_an_acceptance_becomes_a_receipt_with_everything_in_it() -> None:
    receipt = Gate().ensure(ACME, texts(), accepting(GOOD))
    assert receipt.license == "acme-community"
    assert receipt.license_sha256 == normalised_sha256(TEXT)
    assert receipt.policy_sha256 == normalised_sha256(POLICY)
    assert receipt.licensee is not None
    assert receipt.licensee.email == "ada@example.org"
    assert (receipt.authority, receipt.within_mau, receipt.method) == (True, True, "accepted")
    assert receipt.wording == "first wording"
    assert receipt.source == {"kind": "mirror", "host": "mirror.example"}
    assert receipt.at.endswith("Z")
    assert receipt.tool.startswith("llama-hub ")


def test_a_receipt_for_the_wording_is_enough() -> None:
    first = Gate().ensure(ACME, texts(), accepting(GOOD))
    assert Gate().ensure(ACME, texts(), must_not_ask) == first
    assert Gate().ensure(ACME, texts(TEXT.replace("\n", "\r\n")), None) == first
    assert Gate().ensure(ACME, texts(policy=None), None) == first
    assert Gate().require(ACME.id) == first


@pytest.mark.parametrize("other", [texts(OTHER_TEXT), texts(policy="ANOTHER POLICY")])
def test_another_wording_needs_another_acceptance(other: Texts) -> None:
    Gate().ensure(ACME, texts(), accepting(GOOD))
    with pytest.raises(LicenseError, match="acme-community was not accepted") as found:
        Gate().ensure(ACME, other, None)
    assert found.value.exit_code == 3
    assert "llama-hub license accept acme-community" in found.value.hint


def test_accepting_again_makes_another_receipt() -> None:
    first = Gate().accept(ACME, texts(), accepting(GOOD))
    second = Gate().accept(ACME, texts(), accepting(replace(GOOD, name="Grace Hopper")))
    assert Gate().require(ACME.id) == second != first


def test_an_open_licence_passes_without_questions() -> None:
    demo = terms.load("llama-hub-demo")
    receipt = Gate().ensure(demo, texts(), None)
    assert (receipt.method, receipt.licensee, receipt.authority) == ("open", None, False)
    assert Gate().ensure(demo, texts(), must_not_ask) == receipt
    assert Gate().require("llama-hub-demo") == receipt


def test_an_open_licence_needs_no_text_to_be_required() -> None:
    receipt = Gate().require("other-open")
    assert (receipt.method, receipt.license_sha256) == ("open", None)
    assert Gate().require("other-open") == receipt


def test_require_refuses_without_a_receipt() -> None:
    with pytest.raises(LicenseError):
        Gate().require("llama-2-community")
    with pytest.raises(NotFoundError):
        Gate().require("no-such-licence")


def test_every_missing_statement_is_named() -> None:
    with pytest.raises(LicenseError) as found:
        Gate().accept(ACME, texts(), accepting(Acceptance(" ", "")))
    for flag in ("--accept-license", "--licensee", "--email", "1,000,000", "--confirm-mau"):
        assert flag in found.value.message
    assert not Gate().ledger.receipts()


def test_only_what_is_missing_is_named() -> None:
    with pytest.raises(LicenseError, match="--confirm-mau") as found:
        Gate().accept(ACME, texts(), accepting(replace(GOOD, within_mau=False)))
    assert "--licensee" not in found.value.message


def test_a_licence_without_a_user_limit_asks_for_none() -> None:
    free = replace(ACME, mau_limit=None)
    receipt = Gate().accept(free, texts(), accepting(replace(GOOD, within_mau=False)))
    assert receipt.within_mau is None


@pytest.mark.parametrize(
    "email",
    ["ada", "ada@", "@example.org", "ada@example", "a da@example.org", "a@b@c.org", "a@.org"],
)
def test_an_invalid_address_is_refused(email: str) -> None:
    with pytest.raises(UsageError, match="not an e-mail address"):
        Gate().accept(ACME, texts(), accepting(replace(GOOD, email=email)))


@pytest.mark.parametrize("value", ["two\nlines", "\x1b[31mred", "x" * 300, "\udcff"])
@pytest.mark.parametrize("field", ["name", "organization"])
def test_a_licensee_is_one_printable_line(field: str, value: str) -> None:
    with pytest.raises(UsageError, match=field):
        Gate().accept(ACME, texts(), accepting(replace(GOOD, **{field: value})))


def test_another_hash_than_the_texts_names_both() -> None:
    wrong = "0" * 64
    with pytest.raises(LicenseError) as found:
        Gate().accept(ACME, texts(), accepting(replace(GOOD, text_sha256=wrong)))
    assert wrong in found.value.message
    assert normalised_sha256(TEXT) in found.value.message


@pytest.mark.parametrize("form", ["{}", "sha256:{}", " {} "])
def test_the_hash_of_the_text_is_taken_in_its_usual_forms(form: str) -> None:
    stated = form.format(
        normalised_sha256(TEXT).upper() if " " in form else normalised_sha256(TEXT)
    )
    assert Gate().accept(ACME, texts(), accepting(replace(GOOD, text_sha256=stated)))


def test_an_unknown_wording_needs_its_hash() -> None:
    digest = normalised_sha256(OTHER_TEXT)
    with pytest.raises(LicenseError, match="not a known one") as found:
        Gate().accept(ACME, texts(OTHER_TEXT), accepting(GOOD))
    assert f"--text-sha256 {digest}" in found.value.hint
    receipt = Gate().accept(ACME, texts(OTHER_TEXT), accepting(replace(GOOD, text_sha256=digest)))
    assert receipt.wording is None


def test_after_the_end_of_an_agreement_only_a_new_receipt_counts() -> None:
    gate = Gate()
    first = gate.accept(ACME, texts(), accepting(GOOD))
    demo = gate.ensure(terms.load("llama-hub-demo"), texts(), None)
    gate.end(ACME.id)
    for attempt in (
        lambda: gate.require(ACME.id),
        lambda: gate.ensure(ACME, texts(), None),
        lambda: gate.end(ACME.id),
    ):
        with pytest.raises(LicenseError, match="not accepted"):
            attempt()
    assert gate.require("llama-hub-demo") == demo
    assert gate.ensure(ACME, texts(), accepting(GOOD)).id != first.id
    assert len(gate.ledger.receipts()) == 4


def test_a_tampered_ledger_closes_every_gate() -> None:
    gate = Gate()
    gate.accept(ACME, texts(), accepting(GOOD))
    path = gate.ledger.path
    path.write_text(path.read_text().replace("Ada", "Eve"))
    for attempt in (
        lambda: gate.require(ACME.id),
        lambda: gate.ensure(ACME, texts(), None),
        lambda: gate.require("other-open"),
    ):
        with pytest.raises(IntegrityError, match="line 1"):
            attempt()


def test_require_wants_the_accepted_text_too() -> None:
    gate = Gate()
    gate.accept(ACME, texts(), accepting(GOOD))
    gate.ledger.text_path(normalised_sha256(TEXT)).unlink()
    with pytest.raises(IntegrityError, match="cannot be read"):
        gate.require(ACME.id)


def test_no_secret_of_a_source_reaches_the_ledger() -> None:
    source = {
        "url": "https://download.example/*?Policy=abc&Signature=SECRET",
        "base": "https://user:SECRET@mirror.example/llama",
    }
    receipt = Gate().accept(ACME, Texts(TEXT, None, source), accepting(GOOD))
    assert receipt.source == {
        "url": "https://download.example/*",
        "base": "https://mirror.example/llama",
    }
    assert "SECRET" not in Gate().ledger.path.read_text()


def test_the_notice_is_a_line_of_its_own() -> None:
    assert notice_text(ACME) == "ACME model, Copyright (c) ACME Inc.\n"
    assert notice_text(terms.load("other-open")) == ""
