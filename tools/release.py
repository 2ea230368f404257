"""A release from its tag: the version, its notes, the checksums.

    python -m tools.release check TAG     the tag names a version that CHANGELOG.md describes
    python -m tools.release stamp TAG     write the tag's version into llama_hub/_version.py
    python -m tools.release notes TAG     print what CHANGELOG.md says of it
    python -m tools.release sums DIR      write DIR/SHA256SUMS over the files in DIR

A tag is ``v`` and a version (``v1.2.0``, ``v1.2.0rc1``). Exit code 1 with a line that says what is
wrong; the release workflow stops there, before anything is built.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).resolve().parents[1]
SUMS = "SHA256SUMS"


class ReleaseError(Exception):
    """What keeps a release from being made."""


def version_of(tag: str) -> str:
    """The version that ``tag`` names; ``ReleaseError`` if it names none, or in another spelling."""
    text = tag.removeprefix("v")
    try:
        version = Version(text)
    except InvalidVersion:
        raise ReleaseError(f"{tag} is not v and a version, such as v1.2.0 or v1.2.0rc1") from None
    if not tag.startswith("v") or str(version) != text or version.local or version.is_devrelease:
        raise ReleaseError(f"{tag} is not the tag of a release; v{version.public} would be")
    return text


def notes(tag: str, root: Path = ROOT) -> str:
    """The section of CHANGELOG.md; ``ReleaseError`` if there is none, or it is open or empty.

    A pre-release has the notes of the version that it precedes.
    """
    version = Version(version_of(tag))
    names = {str(version), version.base_version}
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    for title, body in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL):
        name, _, rest = title.partition(" ")
        if name in names:
            if "unreleased" in rest and not version.is_prerelease:
                raise ReleaseError(f"CHANGELOG.md still calls {name} unreleased; give it its date")
            if not body.strip():
                raise ReleaseError(f"CHANGELOG.md says nothing about {name}")
            return str(body).strip() + "\n"
    raise ReleaseError(f"CHANGELOG.md has no section about {version.base_version}")


def stamp(tag: str, root: Path = ROOT) -> None:
    """Write the tag's version into the one place that states it."""
    text = f'"""The one place that states the version."""\n\n__version__ = "{version_of(tag)}"\n'
    (root / "llama_hub" / "_version.py").write_text(text, encoding="utf-8")


def sums(folder: Path) -> str:
    """Lines that ``sha256sum --check`` reads, of every file of ``folder``."""
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != SUMS
    )


def main(words: list[str]) -> int:
    """Run one command; the exit code."""
    if len(words) != 2 or words[0] not in ("check", "stamp", "notes", "sums"):
        print(__doc__, file=sys.stderr)
        return 2
    command, argument = words
    try:
        if command == "stamp":
            stamp(argument)
        elif command == "sums":
            (Path(argument) / SUMS).write_text(sums(Path(argument)), encoding="utf-8")
        else:
            text = notes(argument)
            print(text if command == "notes" else f"{argument} may be released")
    except ReleaseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
