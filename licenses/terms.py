"""Licence terms as data: one TOML file per licence.

The built-in ones lie beside this module. A team adds its own, for its own
fine-tunes, in ``LLAMA_HUB_LICENSES`` (a folder), else in
``<home>/licenses/terms/``; a file there may not replace a built-in licence, so
that nobody opens a gate by accident.
"""

from __future__ import annotations

import datetime
import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llama_hub.errors import NotFoundError, UsageError
from llama_hub.home import home
from llama_hub.strict import read_toml, text_kind

BUILT_IN = Path(__file__).parent
KIND = text_kind("the licence file", hint="correct or remove the file")
_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TEXTS = ("name", "spdx", "licensor", "notice", "url", "policy_url")
_KEYS = {
    *_TEXTS, "id", "version_date", "gated", "mau_limit", "obligations",
    "known_licenses", "known_policies",
}  # fmt: skip


@dataclass(frozen=True)
class License:
    """What one licence asks for, in our words; the text itself is its own and not here."""

    id: str
    name: str
    spdx: str  # identifier of the SPDX list, LicenseRef-…, or NOASSERTION
    gated: bool  # whether a person has to accept it before anything is fetched or run
    licensor: str = ""
    version_date: str = ""  # ISO 8601; empty if unknown
    notice: str = ""  # attribution that every copy carries in a file NOTICE; empty if none
    mau_limit: int | None = None  # monthly active users above which another licence is needed
    obligations: tuple[str, ...] = ()
    known_licenses: Mapping[str, str] = field(default_factory=dict)  # normalised SHA-256 → wording
    known_policies: Mapping[str, str] = field(default_factory=dict)  # same, acceptable-use policy
    url: str = ""
    policy_url: str = ""

    def to_json(self) -> dict[str, Any]:
        """The terms as ``--json`` and exports give them; what is unknown is null."""
        fields = {key: None if value == "" else value for key, value in asdict(self).items()}
        return fields | {"obligations": list(self.obligations)}


def load(license_id: str) -> License:
    """The licence of that id; ``NotFoundError`` tells how to add one."""
    by_id = {license.id: license for license in all_licenses()}
    if license_id in by_id:
        return by_id[license_id]
    near = difflib.get_close_matches(license_id, by_id, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    raise NotFoundError(
        f"there is no licence {license_id!r}; known are {', '.join(by_id)}",
        hint=f"{guess}describe it in {user_folder() / (license_id + '.toml')} "
        '(id, name, spdx, gated), or use license = "other-open" for an open one',
    )


def all_licenses() -> list[License]:
    """The built-in licences and then the user's, each group by id.

    ``UsageError`` if two files have one id.
    """
    built_in = [_read(path) for path in sorted(BUILT_IN.glob("*.toml"))]
    taken = {license.id for license in built_in}
    own = [_read(path) for path in sorted(user_folder().glob("*.toml"))]
    for license in own:
        if license.id in taken:
            raise UsageError(
                f"the licence {license.id!r} stands in more than one file",
                hint=f"give the one in {user_folder()} another id",
            )
        taken.add(license.id)
    return built_in + own


def user_folder() -> Path:
    """Where the user's own licences are described."""
    configured = os.environ.get("LLAMA_HUB_LICENSES")
    return Path(configured).expanduser() if configured else home() / "licenses" / "terms"


def _read(path: Path) -> License:
    document = read_toml(path, KIND)
    try:
        return _license(document)
    except ValueError as error:
        raise KIND.invalid(path, str(error)) from error


def _license(document: Mapping[str, Any]) -> License:
    """A licence from its TOML document; ``ValueError`` says what is wrong with it."""
    _check_keys(document)
    return License(
        id=document["id"],
        gated=document["gated"],
        version_date=_date(document.get("version_date", "")),
        mau_limit=document.get("mau_limit"),
        obligations=_lines(document.get("obligations", [])),
        known_licenses=_hashes(document, "known_licenses"),
        known_policies=_hashes(document, "known_policies"),
        **{key: _text(document, key) for key in _TEXTS},
    )


def _check_keys(document: Mapping[str, Any]) -> None:
    for key in ("id", "name", "spdx", "gated"):
        if key not in document:
            raise ValueError(f"the key {key!r} is missing")
    if unknown := sorted(set(document) - _KEYS):
        near = difflib.get_close_matches(unknown[0][:64], _KEYS, n=1)
        guess = f"; {near[0]!r}?" if near else ""
        raise ValueError(f"unknown key {unknown[0][:64]!r}{guess}")
    if not isinstance(document["id"], str) or not _ID.fullmatch(document["id"]):
        raise ValueError("the id must be lower case letters, digits, '.', '_' and '-'")
    if not isinstance(document["gated"], bool):
        raise ValueError("gated must be true or false")
    limit = document.get("mau_limit", 1)
    if type(limit) is not int or limit < 1:
        raise ValueError("mau_limit must be a positive whole number")


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key, "")
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"{key} must be one line of text")
    return value


def _lines(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(line, str) for line in value):
        raise ValueError("obligations must be a list of texts")
    return tuple(value)


def _date(value: Any) -> str:
    if value == "":
        return ""
    try:
        return datetime.date.fromisoformat(value).isoformat()
    except (ValueError, TypeError) as error:
        raise ValueError("version_date must be a date such as 2023-07-18") from error


def _hashes(document: Mapping[str, Any], key: str) -> Mapping[str, str]:
    value = document.get(key, {})
    if not isinstance(value, dict) or not all(
        _SHA256.fullmatch(digest) and isinstance(wording, str) for digest, wording in value.items()
    ):
        raise ValueError(f"{key} must map normalised SHA-256 values to the name of a wording")
    return value
