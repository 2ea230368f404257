"""The acceptance of a licence by a person or a script: questions on a terminal, or flags.

Each question has a flag. A flag that is given is not asked for; what is
neither given nor can be asked is named by the gate's error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NoReturn

import typer

from llama_hub.cli.output import Output
from llama_hub.cli.pager import page
from llama_hub.errors import LicenseError, UsageError
from llama_hub.licenses.gate import Accept, Acceptance, Texts, is_email
from llama_hub.licenses.terms import License
from llama_hub.licenses.wording import normalised_sha256

PANEL = "Accepting the licence"

AcceptLicense = Annotated[
    bool,
    typer.Option(
        "--accept-license",
        help="I have read the licence and accept it, for the organization if one is named.",
        rich_help_panel=PANEL,
    ),
]
LicenseeName = Annotated[
    str,
    typer.Option("--licensee", metavar="NAME", help="Who accepts.", rich_help_panel=PANEL),
]
Email = Annotated[
    str,
    typer.Option("--email", metavar="ADDRESS", help="Their e-mail.", rich_help_panel=PANEL),
]
Organization = Annotated[
    str,
    typer.Option(
        "--organization",
        metavar="NAME",
        help="For whom they accept, if not for themselves.",
        rich_help_panel=PANEL,
    ),
]
ConfirmMau = Annotated[
    bool,
    typer.Option(
        "--confirm-mau",
        help="The licensee stays within the licence's limit of monthly active users.",
        rich_help_panel=PANEL,
    ),
]
TextSha256 = Annotated[
    str,
    typer.Option(
        "--text-sha256",
        metavar="HASH",
        help="Accept this wording only: its whitespace-normalised SHA-256.",
        rich_help_panel=PANEL,
    ),
]


@dataclass(frozen=True)
class Flags:
    """What the command line states already."""

    accept_license: bool = False
    licensee: str = ""
    email: str = ""
    organization: str = ""
    confirm_mau: bool = False
    text_sha256: str = ""


def acceptance(out: Output, flags: Flags) -> Accept:
    """What the gate calls for an acceptance: from ``flags``, the rest from the person."""
    return _Person(out, flags).accept if out.interactive else _Script(out, flags).accept


@dataclass(frozen=True)
class _Script:
    """No person to ask: the flags are all there is."""

    out: Output
    flags: Flags

    def accept(self, license: License, texts: Texts) -> Acceptance:
        known = license.known_licenses.get(normalised_sha256(texts.license))
        self.out.status(f"licence {license.id}: {known or 'a wording not known to llama-hub'}")
        self.out.status(f"acceptable use policy: {_policy(license, texts)}")
        flags = self.flags
        return Acceptance(
            name=flags.licensee,
            email=flags.email,
            organization=flags.organization,
            authority=flags.accept_license,
            within_mau=flags.confirm_mau,
            text_sha256=flags.text_sha256 or None,
        )


@dataclass(frozen=True)
class _Person:
    """Somebody at a terminal, who is asked for what the flags leave open."""

    out: Output
    flags: Flags

    def accept(self, license: License, texts: Texts) -> Acceptance:
        self.out.status(_summary(license, texts))
        self._agree(license, texts)
        text_sha256 = self._wording(license, texts)
        name = self._text(self.flags.licensee, "Your full name", "--licensee", _is_name)
        email = self._text(self.flags.email, "Your e-mail address", "--email", is_email)
        organization = self._organization(license)
        self._users(license)
        return Acceptance(name, email, organization, True, True, text_sha256)

    def _agree(self, license: License, texts: Texts) -> None:
        if self.flags.accept_license:
            return
        self.out.status("The text follows; in a pager q ends it.")
        page(texts.license)
        if texts.policy is not None:
            page(texts.policy)
        what = "this licence" + (" and the acceptable use policy" if texts.policy else "")
        if not self.out.confirm(f"Do you accept {what}?", flag="--accept-license"):
            _refuse(f"the licence {license.id} was not accepted")

    def _wording(self, license: License, texts: Texts) -> str | None:
        """The digest of the text that was read, where the person has vouched for it."""
        digest = normalised_sha256(texts.license)
        if self.flags.text_sha256 or digest in license.known_licenses:
            return self.flags.text_sha256 or digest
        question = f"llama-hub does not know this wording ({digest[:12]}…). Is it the one you mean?"
        if not self.out.confirm(question, flag="--text-sha256"):
            _refuse(f"this wording of {license.id} was not accepted")
        return digest

    def _organization(self, license: License) -> str:
        if self.flags.organization:
            organization = self.flags.organization
        else:
            question = "Organization that you accept for (Enter: only yourself)"
            organization = self.out.ask(question, flag="--organization")
        if organization and not self.flags.accept_license:
            question = f"Are you authorized to bind {organization} to it?"
            if not self.out.confirm(question, flag="--accept-license"):
                _refuse(f"the licence {license.id} needs somebody who may bind {organization}")
        return organization

    def _users(self, license: License) -> None:
        if license.mau_limit is None or self.flags.confirm_mau:
            return
        when = f"in the month before {license.version_date}" if license.version_date else "a month"
        question = (
            "Counting everything that the licensee and its affiliates offer: were there at most "
            f"{license.mau_limit:,} active users {when}?"
        )
        if not self.out.confirm(question, flag="--confirm-mau"):
            _refuse(
                f"above {license.mau_limit:,} monthly active users {license.id} grants nothing: "
                f"a licence of its own is needed from {license.licensor}",
                license.url,
            )

    def _text(self, given: str, question: str, flag: str, valid: Callable[[str], bool]) -> str:
        """A valid answer; three tries."""
        for _ in range(3):
            if given:
                return given
            answer = self.out.ask(question, flag=flag)
            if valid(answer):
                return answer
            self.out.status(f"invalid value: {answer!r}")
        raise UsageError(f"no valid answer to: {question}", hint=f"give {flag}")


def _is_name(answer: str) -> bool:
    return bool(answer) and answer.isprintable()


def _refuse(message: str, hint: str = "") -> NoReturn:
    raise LicenseError(
        message, hint=hint or "nothing was fetched or recorded; run it again to accept"
    )


def _summary(license: License, texts: Texts) -> str:
    """The licence in a few lines, before its text."""
    digest = normalised_sha256(texts.license)
    wording = license.known_licenses.get(digest, "NOT KNOWN to llama-hub: read it with care")
    source = ", ".join(f"{key} {value}" for key, value in texts.source.items())
    lines = [
        f"{license.name}",
        f"  id       {license.id}"
        + (f", version of {license.version_date}" * bool(license.version_date)),
        f"  wording  {wording}",
        f"  SHA-256  {digest} (words joined by single spaces)",
        f"  policy   {_policy(license, texts)}",
        f"  from     {source or 'a file'}",
        "  In short, and without replacing the text:",
        *(f"   - {line}" for line in license.obligations),
    ]
    return "\n".join(lines)


def _policy(license: License, texts: Texts) -> str:
    if texts.policy is None:
        return f"not handed out with it; see {license.policy_url}" if license.policy_url else "none"
    return license.known_policies.get(
        normalised_sha256(texts.policy), "NOT KNOWN to llama-hub: read it with care"
    )
