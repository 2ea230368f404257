"""The files of a model in Meta's and in Hugging Face's layout, found in any place.

Everything but the weights is small and is read while planning, so that digests, shard counts
and sizes are known, and contradictions found, before the first weight byte.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llama_hub.errors import IntegrityError, NotFoundError
from llama_hub.hub import digests
from llama_hub.hub.catalog import Model
from llama_hub.hub.checkpoints import diagnosis, hf_files, weight_index
from llama_hub.hub.manifest import MANIFEST_NAME, Format, decode
from llama_hub.hub.sources import checksum_list as checklist
from llama_hub.hub.sources.base import FetchPlan, FileTree, missing, read_first, read_small
from llama_hub.hub.transfer.remote_file import BytesRequest, RemoteFile
from llama_hub.licenses import terms
from llama_hub.licenses.gate import Texts

LICENSE_NAMES = ("LICENSE", "LICENSE.txt", "LICENSE.md")
POLICY_NAMES = ("USE_POLICY.md", "USE_POLICY.txt")
GUIDE_NAMES = ("Responsible-Use-Guide.pdf", "responsible-use-guide.pdf")
CHECKLISTS = ("checklist.chk", "tokenizer_checklist.chk")
HF_OPTIONAL = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
INDEX = weight_index.NAME
_SHARD = re.compile(r"consolidated\.\d+\.pth")


@dataclass(frozen=True)
class Finder:
    """Looks for a model's files in ``place``: in the model's folder, and beside or without it."""

    place: FileTree
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
        marker = self.find(mark)
        if marker is None:
            error = NotFoundError(
                f"{self.place.where} has no {self.model.folder}/{mark}",
                hint=f"{self.model.id} is expected there in the layout {self.fmt!r}; see "
                "`folder` and `layout` in the catalogue, and --format",
            )
            raise missing(self.place, error)
        return marker[0].removesuffix(mark)


def texts(place: FileTree, model: Model, fmt: Format, source: Mapping[str, str]) -> Texts:
    """Licence and policy in ``place``; a gated model without its licence is refused."""
    finder = Finder(place, model, fmt)
    license, policy = finder.find(*LICENSE_NAMES), finder.find(*POLICY_NAMES)
    if license is None and terms.load(model.license).gated:
        error = NotFoundError(
            f"{place.where} has no LICENSE for {model.id}, which has to be read and accepted",
            hint="put the LICENSE and USE_POLICY.md that came with the model beside it "
            f"({terms.load(model.license).url})",
        )
        raise missing(place, error)
    return Texts(_text(license), _text(policy) if policy else None, source)


def _text(found: tuple[str, bytes] | None) -> str:
    return _decode(found[1]) if found else ""


def plan(
    place: FileTree,
    model: Model,
    fmt: Format,
    source: Mapping[str, Any],
    names: Collection[str] | None = None,
) -> FetchPlan:
    """All files of the model in ``place``, with every digest that can be had.

    ``names``: of the files in the model's folder, where they can be listed.
    """
    finder = Finder(place, model, fmt)
    home = finder.home()
    small = _small_files(finder)
    weights = _weights(finder, home, small, names)
    expectations = _known(finder, home, small)
    files = [inline(name, data, expectations, place) for name, data in small.items()]
    sizes = {} if fmt == "hf" and model.layout == "meta" else model.sizes
    for name in weights:
        size = sizes.get(name) or expectations.sizes.get(name) or place.size(home + name)
        request = place.request(home + name)
        files.append(
            RemoteFile(
                name, request, size, expectations.digests.get(name, {}), name in expectations.pinned
            )
        )
    check_shards(model, expectations)
    lacks = (*lacking(small, model, fmt), *expectations.unlisted(weights))
    return FetchPlan(fmt, tuple(files), source, place.policy, lacks)


@dataclass(frozen=True)
class Known:
    """What is known of the files beforehand."""

    digests: Mapping[str, Mapping[str, str]]
    sizes: Mapping[str, int]
    pinned: frozenset[str]

    @classmethod
    def of(cls, model: Model, small: Mapping[str, bytes], *more: checklist.Checksums) -> Known:
        """From the source's lists and the catalogue, which must agree."""
        lists = [checklist.parse(_decode(small[name])) for name in CHECKLISTS if name in small]
        pinned = pinned_digests(model)
        return cls(checklist.merge(pinned, *lists, *more), {}, frozenset(pinned))

    def unlisted(self, names: Sequence[str]) -> list[str]:
        """What to say about files for which there is no digest."""
        return [f"a digest of {name}" for name in names if name not in self.digests]


def pinned_digests(model: Model) -> dict[str, dict[str, str]]:
    """The catalogue's own digests, as a checksum list."""
    return {name: dict([digests.parse(text)]) for name, text in model.digests.items()}


def _small_files(finder: Finder) -> dict[str, bytes]:
    found = dict(_documents(finder))
    found |= {name: hit[1] for name in CHECKLISTS if (hit := finder.find(name))}
    required = ("params.json",) if finder.fmt == "meta" else ("config.json",)
    optional = HF_OPTIONAL if finder.fmt == "hf" else ()
    for name in (*required, *optional, "tokenizer.model"):
        hit = finder.find(name)
        if hit is not None:
            found[name] = hit[1]
    if finder.place.refusals and not {"tokenizer.model", "tokenizer.json"} & set(found):
        raise finder.place.refusals[0]  # S3 says so of what is not there; ``inspect`` says which
    return found


def documents(fmt: Format) -> list[tuple[str, tuple[str, ...]]]:
    """What goes along with the weights: its name in the store, and the names it has elsewhere."""
    card = "MODEL_CARD.md" if fmt == "meta" else "README.md"
    cards = ("MODEL_CARD.md", "README.md") if fmt == "meta" else ("README.md",)
    return [
        ("LICENSE", LICENSE_NAMES),
        ("USE_POLICY.md", POLICY_NAMES),
        (card, cards),
        (GUIDE_NAMES[0], GUIDE_NAMES),
    ]


def _documents(finder: Finder) -> Iterator[tuple[str, bytes]]:
    for name, names in documents(finder.fmt):
        hit = finder.find(*names)
        if hit is not None:
            yield name, hit[1]


def _known(finder: Finder, home: str, small: Mapping[str, bytes]) -> Known:
    """All digests that the place has, and those of the catalogue."""
    more: list[checklist.Checksums] = []
    sums = read_small(finder.place, f"{home}SHA256SUMS")
    if sums is not None:
        more.append(checklist.parse(_decode(sums)))
    sizes: dict[str, int] = {}
    manifest = read_small(finder.place, home + MANIFEST_NAME)
    if manifest is not None:
        described = decode(manifest, f"{home}{MANIFEST_NAME}")
        more.append({entry.path: {"sha256": entry.sha256} for entry in described.files})
        sizes = {entry.path: entry.size for entry in described.files}
    model = finder.model
    if finder.fmt == "hf" and model.layout == "meta":
        model = without_digests(model)
    return replace(Known.of(model, small, *more), sizes=sizes)


def without_digests(model: Model) -> Model:
    """The model for another layout than the one that its catalogue digests are of."""
    return replace(model, digests={}, sizes={})


def inline(name: str, data: bytes, known: Known, place: FileTree) -> RemoteFile:
    """A small file that was read already."""
    request = BytesRequest(data, f"{place.where} ({name})")
    expected = known.digests.get(name, {})
    return RemoteFile(name, request, len(data), expected, name in known.pinned)


def check_shards(model: Model, known: Known) -> None:
    """``IntegrityError`` if the source's checklist speaks of other shards than the catalogue."""
    listed = {name for name in known.digests if _SHARD.fullmatch(name)}
    if not listed <= set(model.weight_files):
        raise IntegrityError(
            f"the source's checklist names {len(listed)} shards, {model.id} has {model.shards}",
            hint="the source has another model there: check `folder` and `shards`, or --url",
        )


def _weights(
    finder: Finder, home: str, small: dict[str, bytes], names: Collection[str] | None
) -> tuple[str, ...]:
    """Names of the weight files; an index that tells them is added to ``small``."""
    if finder.fmt == "meta":
        return finder.model.weight_files
    if names is not None:
        return listed_weights(finder.place, home, small, names)
    index = read_small(finder.place, home + INDEX)
    if index is None:
        return ("model.safetensors",)
    small[INDEX] = index
    return weight_index.files(index, INDEX)


def listed_weights(
    place: FileTree, home: str, small: dict[str, bytes], names: Collection[str]
) -> tuple[str, ...]:
    """The weights among ``names``, which all lie in ``home``; their index is added to ``small``."""
    weights = hf_files.weights(place.where, names, lambda name: read_small(place, home + name))
    if weights is None:
        raise diagnosis.no_model(place.where, names)
    if weights.index is not None:
        small[weights.index] = read_small(place, home + weights.index) or b""
    return weights.files


def lacking(small: Mapping[str, bytes], model: Model, fmt: Format) -> list[str]:
    """Documents that Meta hands out with its models and this place does not have."""
    wanted = [name for name, _ in documents(fmt)]
    if not terms.load(model.license).gated:
        wanted.remove(GUIDE_NAMES[0])
    return [name for name in wanted if name not in small]


def _decode(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")
