"""GGUF files in a repository on the Hugging Face Hub: which there are, and the one that is meant.

Such repositories hold one model a dozen times, in one block type each; a file is named as
llama.cpp and Ollama do it, ``ORG/NAME:Q4_K_M``, or by its own name. Before anything large is
fetched, the header is read and judged as that of any GGUF file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from llama_hub.errors import IntegrityError, NotFoundError, UsageError
from llama_hub.hub.catalog import Model
from llama_hub.hub.checkpoints import gguf_types
from llama_hub.hub.inspection import read_start
from llama_hub.hub.manifest import Manifest
from llama_hub.hub.sources import layout
from llama_hub.hub.sources.base import FetchPlan
from llama_hub.hub.sources.huggingface import HubFile, HuggingFace
from llama_hub.hub.transfer.remote_file import RemoteFile
from llama_hub.licenses.gate import Texts

WEIGHTS = (".safetensors", ".bin", ".pth", ".pt")  # of models that need no GGUF file
HEADERS = (4 << 20, 64 << 20)  # bytes that are read of a file until its header is whole
USUAL = ("Q4_K_M", "Q8_0")
MAX_LISTED = 30  # files that a message names
_TYPE = re.compile(r"(?:.*[.-])?((?:I?Q[0-9]|T?Q[12]_0|MXFP4)[A-Z0-9_]*|B?F16|F32)", re.IGNORECASE)


@dataclass(frozen=True)
class GgufFile:
    """One model in a repository: a file, or the parts of one."""

    name: str  # path without ending and number of the part
    parts: tuple[str, ...]  # paths in the repository
    size: int | None  # bytes

    @property
    def type(self) -> str:
        """The type that the name ends with, as Q4_K_M; empty if it ends with none."""
        return type_of(self.name)

    def is_meant(self, wanted: str) -> bool:
        """Whether ``wanted`` is its type, its name, or that of one of its parts."""
        return wanted.upper() == self.type or wanted.lower() in {
            name.lower() for path in (self.name, *self.parts) for name in (path, _last(path))
        }


def type_of(name: str) -> str:
    """The type that a file's name or a text such as ``q4_k_m`` ends with; empty if none."""
    named = _TYPE.fullmatch(_last(name).removesuffix(".gguf"))
    return named[1].upper() if named else ""


def is_gguf_only(names: Collection[str]) -> bool:
    """Whether a repository's weights are GGUF files and nothing else."""
    return any(_is_gguf(name) for name in names) and not any(
        name.endswith(WEIGHTS) for name in names
    )


def gguf_files(files: Mapping[str, HubFile]) -> list[GgufFile]:
    """The models among a repository's files, by name."""
    parts: dict[str, list[str]] = {}
    for path in sorted(name for name in files if _is_gguf(name)):
        parts.setdefault(_stem(path), []).append(path)
    return [GgufFile(stem, tuple(names), _size(files, names)) for stem, names in parts.items()]


def pick(where: str, found: Sequence[GgufFile], wanted: str | None) -> GgufFile:
    """The file that is meant.

    ``NotFoundError`` if there is none, ``UsageError`` that lists them if there are several.
    """
    if not found:
        raise NotFoundError(f"{where} has no GGUF files", hint="leave out what stands behind the :")
    meant = [file for file in found if wanted is None or file.is_meant(wanted)]
    if len(meant) == 1:
        return meant[0]
    lines = [f"  {file.type or _last(file.name)}  {_shown(file)}" for file in found[:MAX_LISTED]]
    more = f"  … and {len(found) - MAX_LISTED} more" if len(found) > MAX_LISTED else ""
    listing = "\n".join([*lines, *([more] if more else [])])
    name = "/".join(where.rsplit("/", 2)[1:])
    hint = f"llama-hub download {name}:{_suggested(found)}"
    if wanted is not None and not meant:
        raise NotFoundError(f"{where} has no {wanted}; it has\n{listing}", hint=hint)
    raise UsageError(f"{where} has {len(found)} GGUF files:\n{listing}", hint=hint)


class HubGguf:
    """The source ``huggingface`` for one GGUF file of a repository."""

    kind = "huggingface"

    def __init__(self, hub: HuggingFace, wanted: str | None) -> None:
        self._hub = hub
        self._wanted = wanted

    @cached_property
    def file(self) -> GgufFile:
        """The file that is meant; errors as ``pick``'s."""
        return pick(self._hub.where, gguf_files(self._hub.commit.files), self._wanted)

    @property
    def about(self) -> str:
        """Repository, file and revision."""
        return f"{self._hub.about}, {self._wanted or self.file.name}"

    def texts(self, model: Model) -> Texts:
        """Licence and policy of the repository; a closed gate shows here."""
        return self._hub.texts(model)

    def holds(self, manifest: Manifest) -> bool:
        """Whether the manifest is of the same file at the same commit."""
        name = manifest.source.get("file")
        same = isinstance(name, str) and (
            self._wanted is None or GgufFile(name, (), None).is_meant(self._stem_wanted())
        )
        return same and self._hub.holds(manifest)

    def plan(self, model: Model) -> FetchPlan:
        """The file's parts and the repository's documents; ``IntegrityError`` for no model."""
        expectations = layout.Known({}, {}, frozenset())
        small = dict(self._hub.documents())
        inline = [
            self._hub.checked(layout.inline(name, data, expectations, self._hub))
            for name, data in small.items()
        ]
        weights = [self._hub.checked_as(_last(path), path) for path in self.file.parts]
        self._inspect(weights)
        record = {**self._hub.record(), "file": self.file.name}
        lacks = tuple(layout.lacking(small, model, "gguf"))
        return FetchPlan("gguf", (*inline, *weights), record, self._hub.policy, lacks)

    def close(self) -> None:
        """Let idle connections go."""
        self._hub.close()

    def _stem_wanted(self) -> str:
        wanted = self._wanted or ""
        return _stem(wanted) if _is_gguf(wanted) else wanted

    def _inspect(self, weights: Sequence[RemoteFile]) -> None:
        """Refuse what no model is, by the header alone."""
        for count in HEADERS:
            try:
                with TemporaryDirectory(prefix="llama-hub-header-") as folder:
                    self._check_headers(Path(folder), weights, count)
                return
            except IntegrityError:
                if count == HEADERS[-1] or all((file.size or 0) <= count for file in weights):
                    raise

    def _check_headers(self, folder: Path, weights: Sequence[RemoteFile], count: int) -> None:
        """Judge files of the right length that are empty behind their headers."""
        from llama_hub.hub.checkpoints import gguf

        for file in weights:
            start, size = read_start(file, min(count, file.size or count), self._hub.policy)
            path = folder / file.path
            path.write_bytes(start)
            os.truncate(path, max(len(start), size or 0))
        try:
            gguf.open_gguf(folder / weights[0].path, quantised=True).close()
        except IntegrityError as error:
            message = error.message.replace(str(folder), self._hub.where)
            raise IntegrityError(message, hint=error.hint) from error


def _is_gguf(name: str) -> bool:
    return gguf_types.has_name(Path(name))


def _last(path: str) -> str:
    return PurePosixPath(path).name


def _stem(path: str) -> str:
    pure = PurePosixPath(path)
    return str(pure.with_name(gguf_types.stem_of(Path(pure.name))))


def _size(files: Mapping[str, HubFile], names: Sequence[str]) -> int | None:
    sizes = [files[name].size for name in names]
    return None if None in sizes else sum(size or 0 for size in sizes)


def _shown(file: GgufFile) -> str:
    size = "" if file.size is None else f", {file.size / 1e9:.2f} GB"
    return f"{_last(file.name)}{size}"


def _suggested(found: Sequence[GgufFile]) -> str:
    """What most people take, or the first."""
    types = [file.type for file in found if [each.type for each in found].count(file.type) == 1]
    usual = [kind for kind in (*USUAL, *types) if kind and kind in types]
    return usual[0] if usual else f"{_last(found[0].name)}.gguf"
