"""Receipts in the ledger, and the texts that they are about."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from llama_hub.errors import IntegrityError, UsageError
from llama_hub.licenses.chain import GENESIS, Chain
from llama_hub.licenses.gate import Gate
from llama_hub.licenses.ledger import Ledger
from tests.support.command import run
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


@pytest.mark.parametrize(
    ("license", "at", "problem"),
    [
        ("llama-2-community", "2002-01-01T00:00:00Z", "before the licence was released"),
        ("llama-2-community", "2023-07-17T23:59:59Z", "before the licence was released"),
        ("llama-2-community", "2051-01-01T00:00:00Z", "in the future"),
        ("no-such-licence", "2051-01-01", "in the future"),
        ("no-such-licence", "2024-01-01T00:00:00+00:00", "before a line above it"),
    ],
)
def test_a_receipt_whose_date_cannot_be_right_is_reported(
    ledger: Ledger, license: str, at: str, problem: str
) -> None:
    forged = replace(ledger.receipts()[0], license=license, at=at)
    Ledger(ledger.path).append(forged)
    (note, *_) = ledger.verify().notes
    assert note.startswith(f"line 3 ({forged.id}, {license}) is dated {at}, ")
    assert any(problem in each for each in ledger.verify().notes)


def test_receipts_of_today_are_not_reported(ledger: Ledger) -> None:
    assert ledger.verify().notes == ()


@pytest.mark.parametrize("at", ["", "yesterday", "2023-13-01", "0001-01-01T00:00:00+23:59"])
def test_a_receipt_without_a_date_is_none(ledger: Ledger, at: str) -> None:
    Ledger(ledger.path).append(replace(ledger.receipts()[0], at=at))
    with pytest.raises(IntegrityError, match="line 3 .* see at"):
        ledger.verify()


@pytest.mark.parametrize("head", ["x", "0" * 63, "", "sha256:" + "0" * 64])
def test_an_expected_head_that_is_none_is_a_usage_error(ledger: Ledger, head: str) -> None:
    with pytest.raises(UsageError, match="is no head of a ledger"):
        ledger.verify(expect_head=head)


def _in_place_of(path: Path, what: str) -> None:
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    else:
        path.symlink_to(path)


@pytest.mark.parametrize("what", ["folder", "pipe", "device", "loop"])
@pytest.mark.parametrize("name", ["ledger.jsonl", "ledger.head", "texts/*.txt"])
def test_what_is_no_file_is_refused_and_never_waited_for(
    ledger: Ledger, name: str, what: str
) -> None:
    _in_place_of(next(ledger.path.parent.glob(name)), what)
    done = run("license", "verify", "--json")
    assert done.code == 5
    assert str(ledger.path.parent) in done.json["error"]["message"]


def test_a_pipe_in_place_of_the_lock_does_not_hold_a_reader(ledger: Ledger) -> None:
    _in_place_of(ledger.path.with_name(".ledger.jsonl.lock"), "pipe")
    assert run("license", "verify").code == 0


@pytest.mark.parametrize(
    "head",
    [
        "[]",
        "null",
        '{"count": true}',
        '{"count": 1e400}',
        '{"count": 2, "sha256": []}',
        '{"x": 1}',
        '{"count":' + "9" * 5000 + "}",
        "[" * 100_000,
        "\xff",
    ],
    ids=lambda value: value[:20],
)
def test_a_head_of_any_content_is_exit_5(ledger: Ledger, head: str) -> None:
    ledger.path.with_suffix(".head").write_bytes(head.encode("latin-1"))
    assert run("license", "verify").code == 5


@pytest.mark.parametrize(
    "line", [b"\xff", b"[" * 60_000, b'{"a": "\\ud800"}', b"null", b"1e999", b'{"a":1,"a":1}']
)
def test_a_line_of_any_content_is_exit_5(ledger: Ledger, line: bytes) -> None:
    lines = ledger.path.read_bytes().splitlines()
    ledger.path.write_bytes(b"\n".join([lines[0], line, b""]))
    assert run("license", "verify").code == 5


def test_a_wholly_forged_chain_is_caught_by_the_head_that_the_log_printed(
    ledger: Ledger, home: Path
) -> None:
    noted = run("license", "log", "--json").json["head"]
    assert f"head {noted}" in run("license", "log").stdout
    assert run("license", "verify", "--expect-head", noted).code == 0
    shutil.rmtree(home)
    forger = Gate()
    for _ in range(2):
        forger.accept(ACME, texts(), lambda *_: GOOD)
    assert run("license", "verify").code == 0  # a chain cannot know that it is another
    done = run("license", "verify", "--expect-head", f"SHA256:{noted.upper()}", "--json")
    assert done.code == 5
    assert "was rewritten" in done.json["error"]["message"]
