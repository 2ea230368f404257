"""The name of a repository on the Hugging Face Hub: ``ORG/NAME``, with or without a revision.

Understood as everybody writes it: ``ORG/NAME[@REV]``, ``hf://ORG/NAME[@REV]``, and the address of
the repository's page; ``ORG/NAME:Q4_K_M`` and the address of a file's page mean one GGUF file.

In the store such a model has a ``ModelId`` made of both parts, as Hugging Face's own cache does;
the repository itself is never part of a path.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from urllib.parse import unquote

from llama_hub.errors import UsageError
from llama_hub.hub.model_id import ModelId, shown

_PART = r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_NAME = re.compile(f"{_PART}/{_PART}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_PAGE = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(?:models/)?(.+)")
SCHEME = "hf://"
MAX_LENGTH = 96  # characters, as the Hub has it


@dataclass(frozen=True)
class RepositoryId:
    """A repository of models, and the branch, tag or commit that is meant."""

    name: str  # ORG/NAME
    revision: str | None = None
    file: str | None = None  # a GGUF file, or its type

    @property
    def model_id(self) -> ModelId:
        """Its model's name in the store: ``org--name``; with a digest where that says too little.

        The Hub tells no two repositories apart by case alone.
        """
        plain = self.name.lower().replace("/", "--")
        try:
            return ModelId(plain)
        except ValueError:
            digest = hashlib.sha256(self.name.lower().encode()).hexdigest()
            return ModelId.of_folder(plain).foreign(digest)

    def variant_id(self, kind: str) -> ModelId:
        """The name in the store of one of its GGUF files, by its type."""
        if not kind:
            return self.model_id
        try:
            return ModelId(f"{self.model_id}-{kind.lower()}")
        except ValueError:
            digest = hashlib.sha256(f"{self.name}:{kind}".lower().encode()).hexdigest()
            return ModelId.of_folder(f"{self.model_id}-{kind.lower()}").foreign(digest)

    def __str__(self) -> str:
        file = f":{self.file}" if self.file else ""
        return f"{self.name}{file}@{self.revision}" if self.revision else f"{self.name}{file}"


def is_repository(name: object) -> bool:
    """Whether a text is the plain name of a repository."""
    is_name = isinstance(name, str) and len(name) <= MAX_LENGTH and _NAME.fullmatch(name)
    return bool(is_name) and not str(name).endswith((".git", ".ipynb"))


def parse(text: str) -> RepositoryId | None:
    """The repository that ``text`` names; ``None`` if it is something else.

    ``UsageError`` for what has the scheme and is no repository.
    """
    page = _PAGE.fullmatch(text.strip())
    plain = _of_page(page[1]) if page else text.removeprefix(SCHEME)
    is_meant = page is not None or text.startswith(SCHEME)
    whole, at, revision = plain.partition("@")
    name, colon, file = whole.partition(":")
    is_file = not colon or _FILE.fullmatch(file)
    if is_repository(name) and is_file and (not at or _REVISION.fullmatch(revision)):
        return RepositoryId(name, revision or None, file or None)
    if not is_meant:
        return None
    raise UsageError(
        f"{shown(text)} is not a repository of models on the Hugging Face Hub",
        hint="hf://ORG/NAME, hf://ORG/NAME@REVISION or hf://ORG/NAME:Q4_K_M",
    )


def _of_page(path: str) -> str:
    """``ORG/NAME[:FILE][@REV]`` from the path of a page, ``ORG/NAME/tree/REV`` say."""
    parts = unquote(path.partition("?")[0].partition("#")[0]).strip("/").split("/")
    name = "/".join(parts[:2])
    if len(parts) > 3 and parts[2] in ("tree", "commit"):
        return f"{name}@{'/'.join(parts[3:])}"
    if len(parts) > 4 and parts[2] in ("blob", "resolve") and parts[-1].endswith(".gguf"):
        return f"{name}:{parts[-1]}@{parts[3]}"
    return name if len(parts) == 2 or parts[2:] in (["tree"], ["discussions"]) else "/".join(parts)
