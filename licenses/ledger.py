"""The ledger of accepted licences: receipts in a chain, and the texts they are about.

Against somebody who rewrites the whole chain, note its head somewhere else
(``llama-hub license log`` prints it) and check later with ``--expect-head``
that the chain still contains it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import NoneType
from typing import Any

from llama_hub.errors import DamagedFileError, IntegrityError, NotFoundError, UsageError
from llama_hub.files import PRIVATE, private_folder, write_atomic
from llama_hub.home import home
from llama_hub.licenses import terms
from llama_hub.licenses.chain import GENESIS, Chain, Content
from llama_hub.licenses.wording import MAX_BYTES, normalised_sha256
from llama_hub.strict import FileKind, read_text

TEXT = FileKind("the accepted text", max_bytes=2 * MAX_BYTES)


@dataclass(frozen=True)
class Licensee:
    """Who is bound; ``organization`` is empty for a person on their own behalf."""

    name: str
    email: str
    organization: str = ""


@dataclass(frozen=True)
class Receipt:
    """One acceptance, or the end of one, as it stands in the ledger."""

    id: str  # r- and 16 hexadecimal digits
    license: str  # licence id
    license_sha256: str | None  # normalised digest of the text; None if none came along
    policy_sha256: str | None  # same, acceptable-use policy
    licensee: Licensee | None  # None where nobody had to accept
    authority: bool  # the licensee's word that they may bind the organisation
    within_mau: bool | None  # their word on the user limit; None where the licence has none
    at: str  # UTC, ISO 8601
    method: str  # accepted; open where nobody had to accept; ended by the licensee
    wording: str | None = None  # name of the wording; None if it was not a known one
    source: Mapping[str, str] = field(default_factory=dict)  # where the text came from
    tool: str = ""  # name and version

    def to_json(self) -> dict[str, Any]:
        """The document that the ledger, ``--json`` and exports carry."""
        return asdict(self)


@dataclass(frozen=True)
class Audit:
    """What ``Ledger.verify`` found; whatever is wrong is raised instead."""

    count: int  # receipts
    head: str  # SHA-256 of the last line
    texts: int  # different texts, each hashed again
    notes: tuple[str, ...]  # in order, but worth knowing


class Ledger:
    """The ledger in ``path``, and the accepted texts in ``texts/`` beside it."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or home() / "licenses" / "ledger.jsonl"
        self._chain = Chain(self.path)

    def receipts(self) -> list[Receipt]:
        """Every receipt, oldest first; ``IntegrityError`` if the chain does not hold."""
        return self._receipts(self._chain.read())

    @property
    def head(self) -> str:
        """SHA-256 of the last line, which says all that the ledger held at this moment."""
        return self._chain.read().head

    def contains(self, head: str) -> bool:
        """Whether the chain still has the line of that digest: it only ever grew since then."""
        return head in (GENESIS, *self._chain.read().digests)

    def append(self, receipt: Receipt) -> None:
        """Add ``receipt``; it is on the disk when this returns."""
        self._chain.append(receipt.to_json())

    def verify(self, expect_head: str | None = None) -> Audit:
        """Check the chain and every text that a receipt names.

        ``expect_head`` is a head noted earlier, which the chain has to contain still.
        ``UsageError`` if that is no digest, ``IntegrityError`` if the chain does not contain it.
        """
        content = self._chain.read()
        if expect_head is not None and not _DIGEST.fullmatch(expect_head):
            raise UsageError(
                f"{expect_head[:80]!r} is no head of a ledger: 64 hexadecimal digits",
                hint="llama-hub license log   (prints the head)",
            )
        if expect_head not in (None, GENESIS, *content.digests):
            raise IntegrityError(
                f"no line of {self.path} has the digest {expect_head}: the ledger was rewritten",
                hint=f"restore {self.path.parent} from a backup",
            )
        receipts = self._receipts(content)
        texts = {digest for receipt in receipts for digest in text_digests(receipt)}
        for digest in sorted(texts):
            self.text(digest)
        return Audit(
            len(receipts), content.head, len(texts), (*_notes(content), *_date_notes(receipts))
        )

    def keep_text(self, text: str) -> str:
        """Store a licence text under its normalised SHA-256, and return that."""
        digest = normalised_sha256(text)
        try:
            self.text(digest)
        except IntegrityError:
            private_folder(self.text_path(digest).parent)
            write_atomic(self.text_path(digest), text.encode(), mode=PRIVATE)
        return digest

    def text(self, digest: str) -> str:
        """The stored text of that digest; ``IntegrityError`` if it is missing or altered."""
        path = self.text_path(digest)
        hint = "accept the licence again with the same text, which puts it back"
        try:
            text = read_text(path, TEXT)
        except NotFoundError as error:
            raise IntegrityError(
                f"the accepted text {path} cannot be read: it is missing", hint=hint
            ) from error
        except DamagedFileError as error:
            error.hint = hint
            raise
        if normalised_sha256(text) != digest:
            raise IntegrityError(f"the accepted text {path} was altered", hint=hint)
        return text

    def text_path(self, digest: str) -> Path:
        """Where the text of that normalised SHA-256 is kept."""
        return self.path.parent / "texts" / f"{digest}.txt"

    def _receipts(self, content: Content) -> list[Receipt]:
        return [
            _receipt(entry, f"line {number} of {self.path}")
            for number, entry in enumerate(content.entries, 1)
        ]


def in_force(receipts: Iterable[Receipt]) -> list[Receipt]:
    """The receipts whose agreement did not end after them."""
    valid: list[Receipt] = []
    for receipt in receipts:
        if receipt.method == "ended":
            valid = [one for one in valid if one.license != receipt.license]
        else:
            valid.append(receipt)
    return valid


def text_digests(receipt: Receipt) -> tuple[str, ...]:
    """The digests of the texts that ``receipt`` is about."""
    return tuple(filter(None, (receipt.license_sha256, receipt.policy_sha256)))


_OPTIONAL_TEXT = (str, NoneType)
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "id": str,
    "license": str,
    "license_sha256": _OPTIONAL_TEXT,
    "policy_sha256": _OPTIONAL_TEXT,
    "authority": bool,
    "within_mau": (bool, NoneType),
    "at": str,
    "method": str,
    "wording": _OPTIONAL_TEXT,
    "source": dict,
    "tool": str,
}
_DIGEST = re.compile(r"[0-9a-f]{64}")


def _receipt(entry: Mapping[str, Any], where: str) -> Receipt:
    """The receipt in a ledger entry; keys of a later version are passed over."""
    wrong = [key for key, types in _TYPES.items() if not isinstance(entry.get(key), types)]
    wrong += [key for key in ("license_sha256", "policy_sha256") if not _is_digest(entry.get(key))]
    wrong += [] if _is_time(entry.get("at")) else ["at"]
    wrong += [] if _is_flat(entry.get("source")) else ["source"]
    try:
        licensee = _licensee(entry["licensee"])
    except (KeyError, TypeError, AttributeError):
        wrong.append("licensee")
    if wrong:
        raise IntegrityError(f"{where} is not a receipt: see {', '.join(wrong)}")
    fields: dict[str, Any] = {key: entry.get(key) for key in _TYPES}
    return Receipt(licensee=licensee, **fields)


def _is_flat(value: object) -> bool:
    """Whether ``value`` maps texts to texts."""
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _is_digest(value: object) -> bool:
    return value is None or _DIGEST.fullmatch(str(value)) is not None


def _licensee(value: Any) -> Licensee | None:
    if value is None:
        return None
    if not all(isinstance(part, str) for part in value.values()):
        raise TypeError(value)
    return Licensee(**value)


CLOCK_SKEW = timedelta(hours=1)  # between the clocks of machines that write one ledger


def _date_notes(receipts: Sequence[Receipt]) -> Iterator[str]:
    """Receipts whose time cannot be right: the chain holds, but it may have been made up."""
    released = {one.id: one.version_date for one in terms.all_licenses()}
    now, latest = datetime.now(UTC), _time("1970-01-01")
    for number, receipt in enumerate(receipts, 1):
        at, start = _time(receipt.at), released.get(receipt.license)
        where = f"line {number} ({receipt.id}, {receipt.license}) is dated {receipt.at}"
        if start and at < _time(start):
            yield f"{where}, before the licence was released ({start})"
        if at > now + CLOCK_SKEW:
            yield f"{where}, in the future"
        elif at < latest - CLOCK_SKEW:
            yield f"{where}, before a line above it"
        latest = max(latest, at)


def _time(text: str) -> datetime:
    """A date or time in ISO 8601, UTC where it says no zone; ``ValueError`` otherwise."""
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _is_time(value: object) -> bool:
    try:
        _time(str(value)).astimezone(UTC)
    except (ValueError, OverflowError):
        return False
    return True


def _notes(content: Content) -> list[str]:
    notes = [
        f"line {number} replaced a line that a crash had left unfinished"
        for number in content.repaired
    ]
    if content.torn:
        notes.append(
            f"a crash left {content.torn} bytes of an unfinished line at the end; it was never "
            "acknowledged, and the next acceptance replaces it"
        )
    if content.unsealed:
        notes.append("a crash came right after the last line; the line is whole and counts")
    return notes
