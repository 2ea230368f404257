"""The name of a model, as a type: what has it can be part of a path, and nothing else has it.

A name comes from a catalogue, a manifest, a command line, a plan, a journal, a tag: from files and
people that are not believed. Whoever makes a ``ModelId`` of it has checked it, so that everything
behind takes the type and never checks again.

A ``ModelId`` is one path component on every file system: lower case ASCII (two names never differ
by case alone), no separator, no dot segment, no control character, not a device name of Windows,
at most ``MAX_LENGTH`` characters. It says which model is meant; *what* a model is says the digest
of its manifest. A folder outside the store has the name it gives itself only together with that
digest (``foreign``), so that it never takes the place of another model.
"""

from __future__ import annotations

import re
import unicodedata

from llama_hub.errors import LlamaHubError, UsageError

MAX_LENGTH = 96  # characters; as long as the Hugging Face hub allows a repository's name to be
DIGEST_LENGTH = 16  # hexadecimal digits in the name of a foreign folder: 64 bits cannot be forged
MAX_REFERENCE = 4096  # characters: PATH_MAX
SHOWN = 80  # characters of a wrong name that an error repeats

_PATTERN = re.compile(r"[a-z0-9]+(?:(?:\.|[_-]+)[a-z0-9]+)*")
_DEVICES = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?")
_FOREIGN = re.compile(r"[^a-z0-9]+")


class ModelId(str):
    """A checked model name; ``ValueError`` for any other text."""

    __slots__ = ()

    def __new__(cls, text: object) -> ModelId:
        """``text`` if it is a model name."""
        if isinstance(text, cls):
            return text
        problem = _problem(text)
        if problem:
            raise ValueError(f"{shown(text)} is no model name: {problem}")
        return super().__new__(cls, text)

    @classmethod
    def of_folder(cls, name: str) -> ModelId:
        """The nearest model name to that of a folder that nobody has named yet."""
        plain = "-".join(filter(None, _FOREIGN.split(name[: 4 * MAX_LENGTH].lower())))
        plain = plain[:MAX_LENGTH].strip("-") or "model"
        return cls(f"model-{plain}"[:MAX_LENGTH] if _DEVICES.fullmatch(plain) else plain)

    def foreign(self, digest: str) -> ModelId:
        """The name in the store of a folder that calls itself this and has the manifest digest."""
        ending = f"-{digest.removeprefix('sha256:')[:DIGEST_LENGTH]}"
        return ModelId(self[: MAX_LENGTH - len(ending)].rstrip("._-") + ending)


def model_id(text: object, where: str = "", error: type[LlamaHubError] = UsageError) -> ModelId:
    """``text`` as a model name; ``error`` says where the wrong one stands."""
    try:
        return ModelId(text)
    except ValueError as problem:
        raise error(
            f"{where}: {problem}" if where else str(problem),
            hint="a model is named in lower case, such as llama-2-7b-chat",
        ) from problem


def reference(text: object) -> str:
    """``text`` if it may be a model's name or the path of a folder; ``ValueError`` otherwise."""
    if not isinstance(text, str) or not 0 < len(text) <= MAX_REFERENCE:
        raise ValueError(f"{shown(text)} is neither a model nor a path")
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
        raise ValueError(f"{shown(text)} has control characters: neither a model nor a path")
    return text


def is_path(text: str) -> bool:
    """Whether a reference is meant as a path, which a word alone is not."""
    return "/" in text or text.startswith("~") or text in (".", "..")


def shown(text: object) -> str:
    """A text from outside for an error: quoted, escaped, of a length that can be read."""
    quoted = ascii(text)
    return quoted if len(quoted) <= SHOWN else f"{quoted[:SHOWN]}…"


def _problem(text: object) -> str:
    if not isinstance(text, str):
        return "it is not a text"
    if len(text) > MAX_LENGTH:
        return f"it has {len(text)} characters, {MAX_LENGTH} are allowed"
    if not _PATTERN.fullmatch(text):
        return "lower case letters and digits, with single '.' or with '_' and '-' between them"
    return "it is a device's name on Windows" if _DEVICES.fullmatch(text) else ""
