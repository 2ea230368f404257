"""Paths that files name: below one folder, or refused.

A manifest lists its files by paths relative to its own folder. Such a path is checked once, when
the entry is made, so that joining it to a folder never leads out of it (but for links that lie in
the folder, which ``regular_file`` looks at).
"""

from __future__ import annotations

import stat
import unicodedata
from pathlib import Path

from llama_hub.hub.model_id import shown

MAX_PATH = 512  # bytes as UTF-8
MAX_NAME = 255  # bytes of one component: the limit of common file systems


def relative_path(text: object) -> str:
    """``text`` if it names a file below a folder, with ``/`` between its parts.

    ``ValueError`` for an absolute path, a dot segment, a backslash, a control character.
    """
    problem = _problem(text)
    if problem or not isinstance(text, str):
        raise ValueError(f"{shown(text)} is no path of a file in a folder: {problem}")
    return text


def regular_file(folder: Path, path: str) -> str:
    """Why ``folder/path`` is not a regular file of the folder; empty if it is one.

    A link counts if it stays inside the folder. ``FileNotFoundError`` if nothing is there.
    """
    file = folder / path
    kind = file.lstat().st_mode
    if stat.S_ISLNK(kind) or file.parent != folder:
        if not _resolved(file).is_relative_to(folder.resolve()):
            return "it is a link that leads out of the folder"
        kind = file.stat().st_mode
    return "" if stat.S_ISREG(kind) else f"it is {_KINDS.get(stat.S_IFMT(kind), 'no file')}"


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def _resolved(file: Path) -> Path:
    """Links followed; a circle of links is as if nothing were there."""
    try:
        return file.resolve(strict=True)
    except (RuntimeError, OSError) as error:  # RuntimeError: a circle, before Python 3.13
        raise FileNotFoundError(f"{file} leads nowhere") from error


def _problem(text: object) -> str:
    if not isinstance(text, str) or not text:
        return "it is empty or not a text"
    if not _is_unicode(text) or len(text.encode()) > MAX_PATH:
        return f"it is longer than {MAX_PATH} bytes or not Unicode"
    if "\\" in text or any(unicodedata.category(letter) == "Cc" for letter in text):
        return "it has a backslash or a control character"
    parts = text.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "it is absolute, or a part is empty or a dot segment"
    return "a part is too long" if any(len(part.encode()) > MAX_NAME for part in parts) else ""


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write
        return False
    return True
