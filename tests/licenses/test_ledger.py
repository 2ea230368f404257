"""Receipts in the ledger, and the texts that they are about."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llama_hub.errors import IntegrityError
from llama_hub.licenses.chain import GENESIS, Chain
from llama_hub.licenses.gate import Gate
from llama_hub.licenses.ledger import Ledger
from tests.support.licences import ACME, GOOD, OTHER_TEXT, POLICY, TEXT, texts


@pytest.fixture
def ledger() -> Ledger:
    """A ledger with two receipts, in the home."""
    gate = Gate()
    gate.accept(ACME, texts(), lambda *_: GOOD)
    gate.accept(ACME, texts(policy=None), lambda *_: replace(GOOD, name="Björn [bold] Ö."))
    return gate.ledger


def test_receipts_come_back_as_they_were_made(ledger: Ledger) -> None:
    first, second = ledger.receipts()
    assert first.licensee is not None
    assert first.licensee.organization == "Engines Ltd"
    assert second.licensee is not None
    assert second.licensee.name == "Björn [bold] Ö."
    assert first.id != second.id


def test_it_lies_in_the_home(ledger: Ledger, home: Path) -> None:
    assert ledger.path == home / "licenses" / "ledger.jsonl"
    assert [json.loads(line)["number"] for line in ledger.path.read_text().splitlines()] == [1, 2]


def test_only_its_owner_may_read_it(ledger: Ledger, home: Path) -> None:
    for path in [home / "licenses", *(home / "licenses").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_verify_counts_and_names_the_head(ledger: Ledger) -> None:
    audit = ledger.verify()
    assert (audit.count, audit.texts, audit.notes) == (2, 2, ())
    assert audit.head == Chain(ledger.path).read().digests[-1]


def test_an_empty_ledger_is_in_order(home: Path) -> None:
    audit = Ledger().verify()
    assert (audit.count, audit.head) == (0, GENESIS)
    assert not home.exists()


def test_a_head_noted_earlier_shows_a_rewritten_ledger(ledger: Ledger, home: Path) -> None:
    noted = ledger.verify().head
    Gate(ledger).accept(ACME, texts(), lambda *_: GOOD)
    assert ledger.verify(expect_head=noted).count == 3
    for name in ("ledger.jsonl", "ledger.head"):
        (home / "licenses" / name).unlink()
    Gate(ledger).accept(ACME, texts(), lambda *_: GOOD)
    assert ledger.verify().count == 1
    with pytest.raises(IntegrityError, match="rewritten"):
        ledger.verify(expect_head=noted)


@pytest.mark.parametrize("text", [TEXT, POLICY], ids=["licence", "policy"])
@pytest.mark.parametrize("content", [None, b"", b"other words", b"\xff"])
def test_a_lost_or_altered_text_is_found(ledger: Ledger, text: str, content: bytes | None) -> None:
    path = ledger.text_path(ledger.keep_text(text))
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(IntegrityError) as found:
        ledger.verify()
    assert str(path) in found.value.message


def test_accepting_again_puts_a_lost_text_back(ledger: Ledger) -> None:
    ledger.text_path(ledger.keep_text(TEXT)).write_bytes(b"other words")
    Gate(ledger).ensure(ACME, texts(), None)
    assert ledger.verify().texts == 2
    assert ledger.text(ledger.keep_text(TEXT)) == TEXT


def test_texts_are_kept_by_their_wording(ledger: Ledger) -> None:
    assert ledger.keep_text(TEXT) == ledger.keep_text(TEXT.replace(" ", "\n"))
    assert ledger.keep_text(TEXT) != ledger.keep_text(OTHER_TEXT)


@pytest.mark.parametrize(
    "change",
    [
        {"id": 7},
        {"licensee": {"name": "x"}},
        {"licensee": []},
        {"licensee": {"name": "x", "email": 1, "organization": ""}},
        {"source": "mirror"},
        {"license_sha256": "../../etc/passwd"},
        {"authority": None},
    ],
)
def test_an_entry_that_is_no_receipt_is_named(ledger: Ledger, change: dict[str, object]) -> None:
    entry = ledger.receipts()[0].to_json() | change
    Chain(ledger.path).append(entry)
    with pytest.raises(IntegrityError, match=f"line 3 .* see {next(iter(change))}"):
        ledger.receipts()


def test_keys_of_a_later_version_are_passed_over(ledger: Ledger) -> None:
    Chain(ledger.path).append(ledger.receipts()[0].to_json() | {"jurisdiction": "EEA"})
    assert ledger.receipts()[2] == ledger.receipts()[0]


def test_a_crash_is_told_by_verify(ledger: Ledger) -> None:
    head = ledger.path.with_suffix(".head")
    document = json.loads(head.read_text())
    head.write_text(json.dumps(document | {"coming": "0" * 64}))
    with ledger.path.open("ab") as file:
        file.write(b'{"entry":{"at"')
    assert ledger.verify().notes[0].startswith("a crash left 14 bytes of an unfinished line")
    Gate(ledger).accept(ACME, texts(), lambda *_: GOOD)
    assert ledger.verify().notes == ("line 3 replaced a line that a crash had left unfinished",)
