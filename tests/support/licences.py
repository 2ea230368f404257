"""A gated licence of our own making, with a text whose wording is known, for tests."""

from __future__ import annotations

from pathlib import Path

from llama_hub.licenses.gate import Acceptance, Texts
from llama_hub.licenses.terms import License
from llama_hub.licenses.wording import normalised_sha256

TEXT = "ACME COMMUNITY LICENSE\n\nYou may use the ACME model.\nKeep this notice.\n"
OTHER_TEXT = TEXT.replace("may", "may not")
POLICY = "ACME USE POLICY\n\nDo no harm.\n"

ACME = License(
    id="acme-community",
    name="ACME Community License",
    spdx="LicenseRef-acme",
    gated=True,
    licensor="ACME Inc.",
    version_date="2024-05-01",
    notice="ACME model, Copyright (c) ACME Inc.",
    mau_limit=1_000_000,
    obligations=("Keep the notice.",),
    known_licenses={normalised_sha256(TEXT): "first wording"},
    known_policies={normalised_sha256(POLICY): "first policy"},
    url="https://acme.example/license",
)

GOOD = Acceptance("Ada Lovelace", "ada@example.org", "Engines Ltd", authority=True, within_mau=True)


def texts(license: str = TEXT, policy: str | None = POLICY) -> Texts:
    """What a source of the ACME model hands out."""
    return Texts(license, policy, {"kind": "mirror", "host": "mirror.example"})


def write_terms(folder: Path) -> None:
    """Describe the ACME licence in ``folder``, as a user does for ``LLAMA_HUB_LICENSES``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "acme.toml").write_text(
        f"""
id = "{ACME.id}"
name = "{ACME.name}"
spdx = "{ACME.spdx}"
licensor = "{ACME.licensor}"
version_date = {ACME.version_date}
gated = true
notice = "{ACME.notice}"
mau_limit = {ACME.mau_limit}
obligations = ["Keep the notice."]
url = "{ACME.url}"
known_licenses = {{ "{normalised_sha256(TEXT)}" = "first wording" }}
known_policies = {{ "{normalised_sha256(POLICY)}" = "first policy" }}
""",
        encoding="utf-8",
    )
