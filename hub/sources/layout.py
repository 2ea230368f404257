"""The files of a model in Meta's and in Hugging Face's layout, found in any place.

Everything but the weights is small and is read while planning, so that digests, shard counts
and sizes are known, and contradictions found, before the first weight byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llama_hub.errors import IntegrityError, NotFoundError
from llama_hub.hub import checklist, digests
from llama_hub.hub.catalog import Model
from llama_hub.hub.manifest import MANIFEST_NAME, Format, parse
from llama_hub.hub.origins import BytesRequest, RemoteFile
from llama_hub.hub.sources.base import FetchPlan, Place, read_first, read_small
from llama_hub.licenses import terms
from llama_hub.licenses.gate import Texts

LICENSE_NAMES = ("LICENSE", "LICENSE.txt", "LICENSE.md")
POLICY_NAMES = ("USE_POLICY.md", "USE_POLICY.txt")
GUIDE_NAMES = ("Responsible-Use-Guide.pdf", "responsible-use-guide.pdf")
LISTS = ("checklist.chk", "tokenizer_checklist.chk", "SHA256SUMS")
HF_OPTIONAL = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
INDEX = "model.safetensors.index.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Finder:
    """Looks for a model's files in ``place``: in the model's folder, and beside or without it."""

    place: Place
    model: Model
    fmt: Format

    @property
    def folders(self) -> tuple[str, ...]:
        """Prefixes where the model's own files may be."""
        folder = "" if self.model.folder == "." else f"{self.model.folder}/"
        return (folder, "") if folder else ("",)

    def find(self, *names: str) -> tuple[str, bytes] | None:
        """The first of these files, own before shared, with its content."""
        return read_first(self.place, [f + name for f in self.folders for name in names])

    def home(self) -> str:
        """The prefix that has the model's own configuration."""
        mark = "params.json" if self.fmt == "meta" else "config.json"
        found = self.find(mark)
        if found is None:
            raise NotFoundError(
                f"{self.place.where} has no {self.model.folder}/{mark}",
                hint=f"{self.model.id} is expected there in the layout {self.fmt!r}; see "
                "`folder` and `layout` in the catalogue, and --format",
            )
        return found[0].removesuffix(mark)


def texts(place: Place, model: Model, fmt: Format, source: Mapping[str, str]) -> Texts:
    """Licence and policy in ``place``; a gated model without its licence is refused."""
    finder = Finder(place, model, fmt)
    license, policy = finder.find(*LICENSE_NAMES), finder.find(*POLICY_NAMES)
    if license is None and terms.load(model.license).gated:
        raise NotFoundError(
            f"{place.where} has no LICENSE for {model.id}, and what cannot be read cannot be accepted",
            hint=f"put Meta's LICENSE and USE_POLICY.md beside the model (text: "
            f"{terms.load(model.license).url or 'from the licensor'})",
        )
    return Texts(_text(license), _text(policy) if policy else None, source)


def _text(found: tuple[str, bytes] | None) -> str:
    return found[1].decode("utf-8", errors="replace") if found else ""


def plan(place: Place, model: Model, fmt: Format, source: Mapping[str, Any]) -> FetchPlan:
    """All files of the model in ``place``, with every digest that can be had."""
    finder = Finder(place, model, fmt)
    home = finder.home()
    small = _small_files(finder)
    weights = _weights(finder, home, small)
    known = _known_digests(finder, home, small)
    files = [_inline(name, data, known, place, model) for name, data in small.items()]
    for name in weights:
        size = model.sizes.get(name, known.sizes.get(name))
        request = place.request(home + name)
        files.append(
            RemoteFile(name, request, size, known.digests.get(name, {}), name in known.pinned)
        )
    lacks = _lacking(small, weights, known, fmt)
    return FetchPlan(fmt, tuple(files), source, place.policy, lacks)


@dataclass(frozen=True)
class Known:
    """What is known of the files beforehand."""

    digests: Mapping[str, Mapping[str, str]]
    sizes: Mapping[str, int]
    pinned: frozenset[str]


def pinned_digests(model: Model) -> dict[str, dict[str, str]]:
    """The catalogue's own digests, as a checksum list."""
    return {name: dict([digests.parse(text)]) for name, text in model.digests.items()}


def _small_files(finder: Finder) -> dict[str, bytes]:
    found = dict(_documents(finder))
    found |= {name: hit[1] for name in LISTS[:2] if (hit := finder.find(name))}
    required = ("params.json",) if finder.fmt == "meta" else ("config.json",)
    optional = HF_OPTIONAL if finder.fmt == "hf" else ()
    for name in (*required, *optional, "tokenizer.model"):
        hit = finder.find(name)
        if hit is not None:
            found[name] = hit[1]
    if not {"tokenizer.model", "tokenizer.json"} & set(found):
        raise NotFoundError(
            f"{finder.place.where} has no tokenizer.model for {finder.model.id}",
            hint="Meta's download has it one level above the model's folder",
        )
    return found


def _documents(finder: Finder) -> Iterator[tuple[str, bytes]]:
    """What goes along with the weights, under the names that a store folder uses."""
    card = ("MODEL_CARD.md", "README.md") if finder.fmt == "meta" else ("README.md",)
    for names in (LICENSE_NAMES, POLICY_NAMES, card, GUIDE_NAMES):
        hit = finder.find(*names)
        if hit is not None:
            yield names[0], hit[1]


def _known_digests(finder: Finder, home: str, small: Mapping[str, bytes]) -> Known:
    """Checksum lists of the source and the catalogue's digests, which must agree."""
    lists = [checklist.parse(small[name].decode("utf-8", "replace")) for name in LISTS[:2]
             if name in small]  # fmt: skip
    sums = read_small(finder.place, f"{home}SHA256SUMS")
    if sums is not None:
        lists.append(checklist.parse(sums.decode("utf-8", "replace")))
    sizes: dict[str, int] = {}
    manifest = read_small(finder.place, home + MANIFEST_NAME)
    if manifest is not None:
        described = parse(_json(manifest, MANIFEST_NAME), f"{home}{MANIFEST_NAME}")
        lists.append({entry.path: {"sha256": entry.sha256} for entry in described.files})
        sizes = {entry.path: entry.size for entry in described.files}
    pinned = pinned_digests(finder.model)
    if finder.fmt == "hf":  # the catalogue's digests are of Meta's files unless it says otherwise
        pinned = pinned if finder.model.layout == "hf" else {}
    return Known(checklist.merge(pinned, *lists), sizes, frozenset(pinned))


def _inline(name: str, data: bytes, known: Known, place: Place, model: Model) -> RemoteFile:
    expected = known.digests.get(name, {})
    return RemoteFile(
        name, BytesRequest(data, f"{place.where} ({name})"), len(data), expected,
        name in known.pinned,
    )  # fmt: skip


def _weights(finder: Finder, home: str, small: dict[str, bytes]) -> tuple[str, ...]:
    """Names of the weight files; an index that tells them is added to ``small``."""
    if finder.fmt == "meta":
        return finder.model.weight_files
    index = read_small(finder.place, home + INDEX)
    if index is None:
        return ("model.safetensors",)
    small[INDEX] = index
    return index_files(index)


def index_files(index: bytes) -> tuple[str, ...]:
    """The weight files that a safetensors index names; only plain names are accepted."""
    weight_map = _json(index, INDEX).get("weight_map")
    names = sorted(set(weight_map.values())) if isinstance(weight_map, dict) else []
    if not names or not all(isinstance(name, str) and _NAME.fullmatch(name) for name in names):
        raise IntegrityError(f"{INDEX} does not name plain weight files")
    return tuple(names)


def _json(data: bytes, name: str) -> Any:
    try:
        document = json.loads(data)
    except ValueError as error:
        raise IntegrityError(f"{name} at the source is not JSON") from error
    if not isinstance(document, dict):
        raise IntegrityError(f"{name} at the source is not a JSON object")
    return document


def _lacking(
    small: Mapping[str, bytes], weights: tuple[str, ...], known: Known, fmt: Format
) -> tuple[str, ...]:
    card = "MODEL_CARD.md" if fmt == "meta" else "README.md"
    documents = ("LICENSE", "USE_POLICY.md", card, GUIDE_NAMES[0])
    lacking = [name for name in documents if name not in small]
    lacking += [f"a digest of {name}" for name in weights if name not in known.digests]
    return tuple(lacking)
