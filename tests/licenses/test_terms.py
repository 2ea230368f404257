"""The licences that come with llama-hub, and the ones that a user adds."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_hub.errors import NotFoundError, UsageError
from llama_hub.licenses import terms
from tests.support.licences import ACME, write_terms

MINIMAL = 'id = "mine"\nname = "Mine"\nspdx = "LicenseRef-mine"\ngated = true\n'


@pytest.fixture
def own(home: Path) -> Path:
    folder = home / "licenses" / "terms"
    folder.mkdir(parents=True)
    return folder


def test_llama_2_has_the_facts_of_its_licence() -> None:
    llama = terms.load("llama-2-community")
    assert llama.gated
    assert llama.mau_limit == 700_000_000
    assert llama.version_date == "2023-07-18"
    assert llama.spdx == "LicenseRef-scancode-llama-2-license-2023"
    assert llama.notice == (
        "Llama 2 is licensed under the LLAMA 2 Community License, "
        "Copyright (c) Meta Platforms, Inc. All Rights Reserved."
    )
    assert len(llama.known_licenses) == 2
    assert len(llama.known_policies) == 1
    said = " ".join(llama.obligations).lower()
    for duty in ("copy of the agreement", "notice", "acceptable use", "another large language"):
        assert duty in said


def test_built_in_licences_and_their_gates() -> None:
    gated = {license.id: license.gated for license in terms.all_licenses()}
    assert gated == {
        "llama-1-research": True,
        "llama-2-community": True,
        "llama-hub-demo": False,
        "other-open": False,
    }


def test_an_unknown_licence_says_how_to_add_one(home: Path) -> None:
    with pytest.raises(NotFoundError) as found:
        terms.load("llama-2-comunity")
    assert "did you mean llama-2-community?" in found.value.hint
    assert str(home / "licenses" / "terms" / "llama-2-comunity.toml") in found.value.hint


def test_a_users_licence_is_found_in_the_home_and_by_the_variable(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own / "any-name.toml").write_text(MINIMAL)
    assert terms.load("mine").gated
    write_terms(tmp_path / "elsewhere")
    monkeypatch.setenv("LLAMA_HUB_LICENSES", str(tmp_path / "elsewhere"))
    assert terms.load("acme-community") == ACME
    with pytest.raises(NotFoundError):
        terms.load("mine")


def test_no_user_file_opens_a_built_in_gate(own: Path) -> None:
    (own / "x.toml").write_text(
        MINIMAL.replace("mine", "llama-2-community").replace("true", "false")
    )
    with pytest.raises(UsageError, match="more than one file"):
        terms.load("llama-2-community")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("id = ", "Invalid value"),
        (MINIMAL.replace('spdx = "LicenseRef-mine"\n', ""), "'spdx' is missing"),
        (MINIMAL + 'notise = "x"\n', "unknown key 'notise'; 'notice'?"),
        (MINIMAL.replace("true", '"yes"'), "gated must be true or false"),
        (MINIMAL.replace('"mine"', '"My Licence"'), "the id must be"),
        (MINIMAL + "mau_limit = 0\n", "mau_limit"),
        (MINIMAL + "mau_limit = true\n", "mau_limit"),
        (MINIMAL + 'version_date = "soon"\n', "must be a date"),
        (MINIMAL + "version_date = 2023\n", "version_date"),
        (MINIMAL + 'notice = "two\\nlines"\n', "notice must be one line"),
        (MINIMAL + 'obligations = "be good"\n', "list of texts"),
        (MINIMAL + '[known_licenses]\nabc = "x"\n', "normalised SHA-256"),
        ("\xff", "can't decode"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(own: Path, content: str, why: str) -> None:
    (own / "wrong.toml").write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError, match=why) as found:
        terms.all_licenses()
    assert "wrong.toml" in found.value.message
