"""The gate: without a receipt nothing of a gated model is fetched, converted, served, deployed."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from llama_hub import __version__
from llama_hub.errors import LicenseError, UsageError
from llama_hub.licenses import terms
from llama_hub.licenses.ledger import Ledger, Licensee, Receipt, in_force, text_digests
from llama_hub.licenses.terms import License
from llama_hub.licenses.wording import normalised_sha256

_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s.]+(\.[^@\s.]+)+")
FLAGS = "--accept-license --licensee NAME --email ADDRESS [--organization NAME] [--confirm-mau]"
_MAX_FIELD = 250  # characters of a name, an address or a value of the source


@dataclass(frozen=True)
class Texts:
    """What the source hands out, fetched before the first weight byte."""

    license: str
    policy: str | None = None  # acceptable-use policy
    source: Mapping[str, str] = field(default_factory=dict)  # kind, host, commit …; no secrets


@dataclass(frozen=True)
class Acceptance:
    """What a licensee states."""

    name: str
    email: str
    organization: str = ""
    authority: bool = False  # accepts, and may do so for the organisation
    within_mau: bool = False  # stays within the licence's user limit
    text_sha256: str | None = None  # normalised digest of the text they read


Accept = Callable[[License, Texts], Acceptance]


class Gate:
    """Lets pass who has a receipt in ``ledger``."""

    def __init__(self, ledger: Ledger | None = None) -> None:
        self.ledger = ledger or Ledger()

    def ensure(self, license: License, texts: Texts, accept: Accept | None) -> Receipt:
        """The receipt for exactly these texts; a new one through ``accept`` if there is none.

        ``LicenseError`` without a receipt and without ``accept``, or if what ``accept`` states
        is not enough. An open licence gets its receipt without questions.
        """
        receipts = [r for r in self._of(license.id) if _covers(r, texts)]
        if receipts:
            self._keep(texts)
            return receipts[-1]
        if not license.gated:
            return self._record(license, "open", texts)
        if accept is None:
            raise _not_accepted(license.id)
        return self.accept(license, texts, accept)

    def accept(self, license: License, texts: Texts, accept: Accept) -> Receipt:
        """A new receipt, whether or not there is one already."""
        acceptance = accept(license, texts)
        check(license, texts, acceptance)
        return self._record(license, "accepted", texts, acceptance)

    def require(self, license_id: str) -> Receipt:
        """The latest receipt for the licence, chain and texts checked; ``LicenseError`` if none."""
        receipts = self._of(license_id)
        if receipts:
            for digest in text_digests(receipts[-1]):
                self.ledger.text(digest)
            return receipts[-1]
        license = terms.load(license_id)
        if license.gated:
            raise _not_accepted(license_id)
        return self._record(license, "open")

    def end(self, license_id: str) -> Receipt:
        """Record that the agreement ended: from here on no earlier receipt counts."""
        if not self._of(license_id):
            raise _not_accepted(license_id)
        return self._record(terms.load(license_id), "ended")

    def _of(self, license_id: str) -> list[Receipt]:
        return [r for r in in_force(self.ledger.receipts()) if r.license == license_id]

    def _keep(self, texts: Texts | None) -> tuple[str | None, str | None]:
        if texts is None:
            return None, None
        policy = None if texts.policy is None else self.ledger.keep_text(texts.policy)
        return self.ledger.keep_text(texts.license), policy

    def _record(
        self,
        license: License,
        method: str,
        texts: Texts | None = None,
        acceptance: Acceptance | None = None,
    ) -> Receipt:
        license_sha256, policy_sha256 = self._keep(texts)
        receipt = Receipt(
            id=f"r-{secrets.token_hex(8)}",
            license=license.id,
            license_sha256=license_sha256,
            policy_sha256=policy_sha256,
            licensee=_licensee(acceptance) if acceptance else None,
            authority=acceptance is not None,
            within_mau=True if acceptance and license.mau_limit else None,
            at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            method=method,
            wording=license.known_licenses.get(license_sha256 or ""),
            source={key: _public(value) for key, value in texts.source.items()} if texts else {},
            tool=f"llama-hub {__version__}",
        )
        self.ledger.append(receipt)
        return receipt


def check(license: License, texts: Texts, acceptance: Acceptance) -> None:
    """Raise unless ``acceptance`` is enough for ``license`` in the wording of ``texts``.

    ``LicenseError`` names what is missing.
    """
    missing = _missing(license, acceptance)
    if missing:
        raise LicenseError(
            f"the licence {license.id} was not accepted; missing: {', '.join(missing)}",
            hint=f"add {FLAGS} to the command, or run it on a terminal, where it asks",
        )
    _check_licensee(acceptance)
    _check_wording(license, texts.license, acceptance.text_sha256)


def is_email(value: str) -> bool:
    """Whether ``value`` has the form of an e-mail address."""
    return _EMAIL.fullmatch(value.strip()) is not None


def notice_text(license: License) -> str:
    """Content of the file NOTICE that goes with every copy; empty if the licence asks for none."""
    return f"{license.notice}\n" if license.notice else ""


def _not_accepted(license_id: str) -> LicenseError:
    return LicenseError(
        f"the licence {license_id} was not accepted",
        hint=f"llama-hub license accept {license_id} --text-file LICENSE   (or llama-hub download, "
        "which fetches the text and asks)",
    )


def _covers(receipt: Receipt, texts: Texts) -> bool:
    """Whether the receipt is for this wording; a source without a policy changes nothing."""
    if receipt.license_sha256 != normalised_sha256(texts.license):
        return False
    return texts.policy is None or receipt.policy_sha256 == normalised_sha256(texts.policy)


def _missing(license: License, acceptance: Acceptance) -> list[str]:
    needed = {
        "the acceptance itself (--accept-license)": acceptance.authority,
        "the licensee's name (--licensee)": acceptance.name.strip(),
        "the licensee's e-mail address (--email)": acceptance.email.strip(),
    }
    if license.mau_limit:
        needed[f"at most {license.mau_limit:,} monthly active users (--confirm-mau)"] = (
            acceptance.within_mau
        )
    return [what for what, given in needed.items() if not given]


def _check_licensee(acceptance: Acceptance) -> None:
    for flag in ("name", "email", "organization"):
        value = getattr(acceptance, flag)
        if len(value) > _MAX_FIELD or not value.isprintable():
            raise UsageError(
                f"the licensee's {flag} must be one line of at most {_MAX_FIELD} characters"
            )
    if not is_email(acceptance.email):
        raise UsageError(
            f"{acceptance.email!r} is not an e-mail address", hint="--email name@example.org"
        )


def _check_wording(license: License, text: str, stated: str | None) -> None:
    """The text must be the one that was read, and an unknown one must have been read."""
    digest = normalised_sha256(text)
    given = stated and stated.strip().lower().removeprefix("sha256:")
    if given and given != digest:
        raise LicenseError(
            f"--text-sha256 is {given}, but the text of {license.id} that the source hands out "
            f"has the normalised SHA-256 {digest}",
            hint="read the new text, then accept it by its own hash",
        )
    if not given and license.gated and digest not in license.known_licenses:
        raise LicenseError(
            f"this wording of {license.id} is not a known one (normalised SHA-256 {digest})",
            hint=f"read it, and if you agree add --text-sha256 {digest}",
        )


def _licensee(acceptance: Acceptance) -> Licensee:
    return Licensee(
        acceptance.name.strip(), acceptance.email.strip(), acceptance.organization.strip()
    )


def _public(value: str) -> str:
    """``value`` without the parts of a URL that can carry a secret, as one bounded line."""
    open_part = re.sub(r"//[^/@\s]*@", "//", re.sub(r"\?.*", "", value, flags=re.DOTALL))
    return "".join(c for c in open_part if c.isprintable())[:_MAX_FIELD]
