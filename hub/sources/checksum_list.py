"""Lists of checksums as ``md5sum`` and ``sha256sum`` write them, and as the world mangles them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from llama_hub import strict
from llama_hub.errors import IntegrityError

_LINE = re.compile(r"\\?([0-9a-f]{32}|[0-9a-f]{64})[ \t]+\*?(\S.*)", re.IGNORECASE)
_BSD = re.compile(r"(MD5|SHA256) \((.+)\) = ([0-9a-f]{32}|[0-9a-f]{64})", re.IGNORECASE)
_KIND = strict.FileKind("the checksum list", hint="download it again, or remove it")
Checksums = Mapping[str, Mapping[str, str]]  # file name → algorithm → hexadecimal
ALGORITHM = {32: "md5", 64: "sha256"}  # by the number of hexadecimal digits


def read(path: Path) -> str:
    """The text of a list that lies beside a model; what is not UTF-8 in it is no checksum."""
    return strict.read_bytes(path, _KIND).decode("utf-8", "replace")


def parse(text: str) -> dict[str, dict[str, str]]:
    """File name → algorithm → digest.

    Lines that are no checksum are passed over, as ``md5sum --check`` does; a binary marker, a
    leading ``./``, CRLF, a byte-order mark, tabs and BSD's form are understood. Only the last part
    of a path counts: all files of a model lie in one folder. A web page is an ``IntegrityError``.
    """
    if text.lstrip("\ufeff \t\r\n")[:1] == "<":
        raise IntegrityError(
            "the checksum list is a web page",
            hint="the address is wrong, has expired, or wants a login",
        )
    digests_of: dict[str, dict[str, str]] = {}
    for line in text.lstrip("\ufeff").splitlines():
        pair = _read_line(line.strip())
        if pair is not None:
            name, digest = pair
            digests_of.setdefault(name, {})[ALGORITHM[len(digest)]] = digest
    return digests_of


def _read_line(line: str) -> tuple[str, str] | None:
    if match := _LINE.fullmatch(line):
        digest, name = match.groups()
    elif match := _BSD.fullmatch(line):
        name, digest = match.group(2), match.group(3)
    else:
        return None
    return name.strip().replace("\\", "/").rsplit("/", 1)[-1], digest.lower()


def merge(*lists: Checksums) -> dict[str, dict[str, str]]:
    """Several lists as one; ``IntegrityError`` where they contradict one another."""
    merged: dict[str, dict[str, str]] = {}
    for one in lists:
        for name, digests in one.items():
            digests_of = merged.setdefault(name, {})
            for algorithm, value in digests.items():
                if digests_of.setdefault(algorithm, value) != value:
                    raise IntegrityError(
                        f"two lists contradict each other on {name}: its {algorithm} is {value} in "
                        f"one and {digests_of[algorithm]} in the other; nothing was fetched",
                        hint="the source's list is wrong or the catalogue's digest is: try another "
                        "--source, or correct [model.digests] of your own catalogue",
                    )
    return merged
