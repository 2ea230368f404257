"""``llama-hub license`` as a person, a script and a compliance officer use it."""

from __future__ import annotations

import json
import re
import subprocess
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest

from llama_hub.hub.manifest import FileEntry, Manifest
from llama_hub.licenses.wording import normalised_sha256
from tests.support.command import Outcome, run, spawn
from tests.support.licences import OTHER_TEXT, POLICY, TEXT, write_terms
from tests.support.terminal import Terminal, terminal

SCRIPT = (
    "--accept-license", "--licensee", "Ada Lovelace", "--email", "ada@example.org",
    "--organization", "Engines Ltd", "--confirm-mau",
)  # fmt: skip


@pytest.fixture(autouse=True)
def files(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the texts; the ACME licence is described in the home."""
    write_terms(home / "licenses" / "terms")
    (tmp_path / "LICENSE").write_text(TEXT)
    (tmp_path / "OTHER").write_text(OTHER_TEXT)
    (tmp_path / "USE_POLICY.md").write_text(POLICY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def accept(*arguments: str, text: str = "LICENSE") -> Outcome:
    return run("license", "accept", "acme-community", "--text-file", text, *arguments)


def test_list_and_show_say_what_is_asked() -> None:
    shown = run("license", "list")
    assert "llama-2-community" in shown.stdout
    assert "2023-07-18" in shown.stdout
    document = run("license", "show", "llama-2-community", "--json").json
    assert document["mau_limit"] == 700_000_000
    described = run("license", "show", "llama-2-community").stdout
    assert document["notice"] in described
    assert all(duty in described for duty in document["obligations"])


def test_show_takes_a_model_of_a_users_catalogue(files: Path) -> None:
    (files / "own.toml").write_text(
        '[[model]]\nid = "acme-7b"\nlicense = "acme-community"\nsources = ["mirror"]\n'
    )
    answer = run("license", "show", "acme-7b", "--catalog", "own.toml", "--json")
    assert answer.json["id"] == "acme-community"
    assert run("license", "show", "no-such").code == 6


def test_a_script_accepts_with_flags(home: Path) -> None:
    answer = accept("--policy-file", "USE_POLICY.md", *SCRIPT, "--json")
    assert answer.code == 0
    receipt = answer.json["receipt"]
    assert receipt["licensee"] == {
        "name": "Ada Lovelace",
        "email": "ada@example.org",
        "organization": "Engines Ltd",
    }
    assert receipt["license_sha256"] == normalised_sha256(TEXT)
    assert receipt["policy_sha256"] == normalised_sha256(POLICY)
    status = run("license", "status", "acme-community", "--json").json["licenses"]
    assert status == [
        {
            "id": "acme-community",
            "accepted": True,
            "gated": True,
            "receipt": receipt["id"],
            "licensee": receipt["licensee"],
            "at": receipt["at"],
        }
    ]
    assert run("license", "log", "--json").json["receipts"] == [receipt]
    logged = run("license", "log").stdout
    assert "Ada Lovelace <ada@example.org> for Engines Ltd" in logged
    assert receipt["id"] in logged


@pytest.mark.parametrize(
    ("left_out", "named"),
    [
        ("--accept-license", "--accept-license"),
        ("--confirm-mau", "--confirm-mau"),
        ("--licensee", "--licensee"),
        ("--email", "--email"),
    ],
)
def test_a_script_is_told_what_is_missing(left_out: str, named: str) -> None:
    given = list(SCRIPT)
    at = given.index(left_out)
    del given[at : at + (2 if left_out in ("--licensee", "--email") else 1)]
    answer = accept(*given, "--json")
    assert answer.code == 3
    assert named in answer.json["error"]["message"]
    assert run("license", "log", "--json").json == {"receipts": []}


def test_without_flags_and_terminal_nothing_is_asked() -> None:
    answer = spawn(["license", "accept", "acme-community", "--text-file", "LICENSE"], stdin="y\n")
    assert answer.code == 3
    assert "--accept-license" in answer.stderr
    assert "?" not in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("--text-sha256", "ab" * 32), 3, "ab" * 32),
        (("--email", "nowhere"), 2, "not an e-mail"),
        (("--policy-file", "none.md"), 6, "none.md"),
        (("--text-file", "OTHER"), 3, "not a known one"),
        (("--text-file", "."), 2, "is a folder"),
    ],
)
def test_refusals_have_their_exit_code(arguments: tuple[str, ...], code: int, why: str) -> None:
    answer = accept(*SCRIPT, *arguments)
    assert answer.code == code
    assert why in answer.stderr
    assert answer.stdout == ""


def test_an_unknown_wording_is_accepted_by_its_hash() -> None:
    answer = accept(*SCRIPT, "--text-sha256", normalised_sha256(OTHER_TEXT), text="OTHER")
    assert answer.code == 0
    assert "wording not known" in run("license", "log").stdout


def test_the_text_is_needed() -> None:
    answer = run("license", "accept", "llama-2-community", *SCRIPT)
    assert answer.code == 2
    assert "--text-file" in answer.stderr


def test_verify_finds_what_was_changed(home: Path) -> None:
    accept(*SCRIPT)
    accept(*SCRIPT)
    verified = run("license", "verify", "--json")
    assert verified.json["ok"]
    assert verified.json["receipts"] == 2
    assert run("license", "verify", "--expect-head", verified.json["head"]).code == 0
    assert run("license", "verify", "--expect-head", "0" * 64).code == 5
    ledger = home / "licenses" / "ledger.jsonl"
    ledger.write_text(ledger.read_text().replace("Ada", "Eve", 1))
    broken = run("license", "verify", "--json")
    assert broken.code == 5
    assert "line 1" in broken.json["error"]["message"]
    assert run("license", "log").code == 5


def test_verify_warns_of_what_a_crash_left(home: Path) -> None:
    accept(*SCRIPT)
    head = home / "licenses" / "ledger.head"
    head.write_text(json.dumps(json.loads(head.read_text()) | {"coming": "0" * 64}))
    with (home / "licenses" / "ledger.jsonl").open("a") as file:
        file.write("{")
    answer = run("license", "verify")
    assert answer.code == 0
    assert "warning: a crash left 1 bytes" in answer.stderr


def store_model(home: Path, receipt: str) -> None:
    folder = home / "models" / "acme-7b" / "meta"
    folder.mkdir(parents=True)
    entry = FileEntry("consolidated.00.pth", 1, "ab" * 32)
    Manifest("acme-7b", "meta", "acme-community", (entry,), receipt=receipt).write(folder)


@pytest.mark.parametrize(
    ("format", "key"),
    [("json", "models"), ("in-toto", "predicate"), ("cyclonedx", "bomFormat")],
)
def test_export_writes_each_form(home: Path, files: Path, format: str, key: str) -> None:
    store_model(home, accept(*SCRIPT, "--json").json["receipt"]["id"])
    printed = run("license", "export", "acme-7b", "--format", format)
    assert key in printed.json
    assert "Engines Ltd" in printed.stdout
    written = run("license", "export", "--format", format, "-o", "out.json", "--json")
    assert written.json["models"] == 1
    assert key in json.loads((files / "out.json").read_text())


def test_an_ended_agreement_counts_no_more(home: Path) -> None:
    store_model(home, accept(*SCRIPT, "--json").json["receipt"]["id"])
    assert run("license", "revoke", "acme-community").code == 2
    ended = run("license", "revoke", "acme-community", "--yes", "--json")
    assert ended.json["kept"] == [str(home / "models" / "acme-7b" / "meta")]
    assert "llama-hub remove acme-7b" in ended.stderr
    status = run("license", "status", "acme-community", "--json").json["licenses"][0]
    assert (status["accepted"], status["receipt"]) == (False, None)
    assert "the agreement ended" in run("license", "log").stdout
    assert run("license", "verify").code == 0
    assert run("license", "export", "acme-7b").json["models"][0]["accepted"] is False
    assert run("license", "revoke", "acme-community", "--yes").code == 3
    assert accept(*SCRIPT).code == 0
    assert run("license", "status", "acme-community", "--json").json["licenses"][0]["accepted"]


def test_export_warns_of_a_model_without_a_receipt(home: Path) -> None:
    store_model(home, "r-0000000000000000")
    answer = run("license", "export")
    assert answer.code == 0
    assert "warning: acme-7b (meta) has no receipt in force" in answer.stderr
    assert answer.json["models"][0]["accepted"] is False


# On a terminal.


def asking(
    *arguments: str, text: str = "LICENSE", pager: str = "cat"
) -> AbstractContextManager[Terminal]:
    return terminal(
        "license", "accept", "acme-community", "--text-file", text, *arguments,
        environment={"PAGER": pager},
    )  # fmt: skip


def answer_all(person: Terminal) -> None:
    person.expect("Do you accept this licence and the acceptable use policy? [y/N]")
    person.type("maybe")
    person.expect("please answer y or n [y/N]")
    person.type("y")
    person.expect("Your full name")
    person.type("Ada Lovelace")
    person.expect("Your e-mail address")
    person.type("ada@example.org")
    person.expect("Organization")
    person.type("Engines Ltd")
    person.expect("authorized to bind Engines Ltd")
    person.type("yes")
    person.expect("at most 1,000,000 active users in the month before 2024-05-01?")
    person.type("y")


def test_a_person_reads_and_answers() -> None:
    with asking("--policy-file", "USE_POLICY.md") as person:
        person.expect("ACME Community License")
        person.expect("first wording")
        person.expect("Keep the notice.")
        person.expect("You may use the ACME model.")
        person.expect("Do no harm.")
        answer_all(person)
        code, stdout = person.finish()
    assert code == 0
    assert re.fullmatch(r"accepted acme-community: receipt r-[0-9a-f]{16}, .*\n", stdout)
    (receipt,) = run("license", "log", "--json").json["receipts"]
    assert receipt["licensee"]["organization"] == "Engines Ltd"
    assert (receipt["authority"], receipt["within_mau"]) == (True, True)


def test_flags_answer_their_questions_on_a_terminal() -> None:
    with asking("--accept-license", "--licensee", "Ada", "--confirm-mau") as person:
        person.expect("Your e-mail address")
        person.type("not an address")
        person.expect("invalid value")
        person.type("ada@example.org")
        person.expect("Organization")
        person.type("")
        code, _ = person.finish()
    assert code == 0
    assert "You may use" not in person.shown
    (receipt,) = run("license", "log", "--json").json["receipts"]
    assert receipt["licensee"] == {"name": "Ada", "email": "ada@example.org", "organization": ""}


@pytest.mark.parametrize("answers", [["n"], [""], ["accept?", "n"], ["accept?", "sure", "yes!"]])
def test_anything_but_yes_is_no(answers: list[str]) -> None:
    with asking() as person:
        person.expect("Do you accept this licence?")
        for answer in answers:
            person.expect("[y/N]")
            person.type(answer)
        code, stdout = person.finish()
    assert (code, stdout) == (3, "")
    assert "acme-community was not accepted" in person.shown
    assert run("license", "log", "--json").json == {"receipts": []}


def test_above_the_user_limit_the_licensor_is_named() -> None:
    with asking(*SCRIPT[:-1]) as person:
        person.expect("active users")
        person.type("n")
        code, _ = person.finish()
    assert code == 3
    assert "ACME Inc." in person.shown
    assert "https://acme.example/license" in person.shown


def test_who_may_not_bind_the_organization_does_not() -> None:
    with asking(*SCRIPT[1:]) as person:
        person.expect("Do you accept")
        person.type("y")
        person.expect("authorized to bind Engines Ltd")
        person.type("n")
        code, _ = person.finish()
    assert code == 3


def test_an_unknown_wording_is_shown_as_such_and_asked_for() -> None:
    with asking(*SCRIPT, text="OTHER") as person:
        person.expect("NOT KNOWN to llama-hub")
        person.expect("does not know this wording")
        person.type("y")
        code, _ = person.finish()
    assert code == 0
    with asking(*SCRIPT, text="OTHER") as person:
        person.expect("does not know this wording")
        person.type("n")
        assert person.finish()[0] == 3
    assert len(run("license", "log", "--json").json["receipts"]) == 1


def test_ctrl_c_at_a_question_records_nothing() -> None:
    with asking() as person:
        person.expect("Do you accept this licence?")
        for _ in range(100):  # one that comes before the question waits for an answer is lost
            person.press("\x03")
            with suppress(subprocess.TimeoutExpired):
                person.process.wait(0.3)
                break
        code, _ = person.finish()
    assert code == 130
    assert run("license", "log", "--json").json == {"receipts": []}


def test_without_a_pager_the_text_is_shown_all_the_same() -> None:
    with asking(pager="no-such-pager") as person:
        person.expect("You may use the ACME model.")
        person.expect("Do you accept this licence?")


def test_a_text_cannot_write_to_the_terminal(files: Path) -> None:
    (files / "OTHER").write_text("Harmless\x1b[2J\x1b]0;title\x07 text\n")
    with asking(text="OTHER") as person:
        person.expect("text")
        person.expect("Do you accept this licence?")
    assert "\x1b" not in person.shown
