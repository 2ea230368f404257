"""The wording of a licence, and what makes two copies of it the same text.

The same agreement is handed out with different line ends, indentation and
wrapping; none of that changes what is agreed. So texts are compared, hashed and
filed by the SHA-256 of their words, joined by single spaces.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from llama_hub.errors import IntegrityError
from llama_hub.strict import read_bytes, text_kind

MAX_BYTES = 1 << 20  # a licence is some kilobytes; more is some other file
KIND = text_kind(
    "the licence text",
    max_bytes=MAX_BYTES,
    named=False,
    hint="give the path of the licence text that you received, a file of plain text",
)
_WEB_PAGE = ("<!doctype html", "<html")


def normalised_sha256(text: str) -> str:
    """SHA-256 of the words of ``text`` joined by single spaces, as 64 hexadecimal digits."""
    return hashlib.sha256(" ".join(text.removeprefix("\ufeff").split()).encode()).hexdigest()


def decode(data: bytes, where: str) -> str:
    """The text in ``data``; ``IntegrityError`` if it cannot be a licence text."""
    if len(data) > MAX_BYTES:
        raise IntegrityError(f"{where} is larger than {MAX_BYTES} bytes: not a licence text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{where} is not UTF-8 text: {error}") from error
    if "\0" in text or not text.strip():
        raise IntegrityError(f"{where} is {'binary' if text.strip() else 'empty'}, not a text")
    if text.lstrip().lower().startswith(_WEB_PAGE):
        raise IntegrityError(
            f"{where} is a web page, not a licence text",
            hint="save the raw text of the licence, not the page that shows it",
        )
    return text


def read(path: Path) -> str:
    """The licence text in the file ``path``."""
    return decode(read_bytes(path, KIND), str(path))
