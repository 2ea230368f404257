"""Under which licence a model stands that no catalogue lists: what its files and its base say.

A fine-tune inherits the licence of its base, whatever its card states. Everything that points to a
licence with a gate counts; an open licence only where nothing does; and where nothing can be told
the person has to say it (``--license``). A statement never loosens what was found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NoReturn

from llama_hub.errors import IntegrityError, LicenseError
from llama_hub.hub.architecture import Architecture
from llama_hub.hub.catalog import Catalog
from llama_hub.hub.sources.model_card import Card
from llama_hub.licenses import terms
from llama_hub.licenses.wording import normalised_sha256

LLAMA_2, LLAMA_1, OPEN = "llama-2-community", "llama-1-research", "other-open"
_CARD = {"llama2": LLAMA_2}  # the Hub's identifiers that name one licence of ours
_CARD_NAMES = re.compile(r"(meta)?llama2?(community)?(license)?(agreement)?")
_LINKS = re.compile(r"facebookresearch/llama/|ai\.meta\.com/llama/license|llama-2|llama2", re.I)
_OPEN = {  # of the Hub: whoever has such weights may use and pass them on
    "afl-3.0", "apache-2.0", "artistic-2.0", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "bsl-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-1.0",
    "cdla-permissive-2.0", "isc", "mit", "mpl-2.0", "ncsa", "pddl", "unlicense", "wtfpl", "zlib",
}  # fmt: skip
_LLAMA_2_NAME = re.compile(r"llama[-_ ]?v?2(?![\db.])|code[-_ ]?llama", re.I)
_LLAMA_1_NAME = re.compile(r"(?:^|/)llama[-_](?:7|13|30|33|65)b", re.I)
_LATER_NAME = re.compile(r"llama[-_ ]?v?[34](?!\d*b(?![a-z]))", re.I)
_LATER_CARD = re.compile(r"llama[34](\.\d)?")
_DEPTH = 4  # a base's base's base …


@dataclass(frozen=True)
class Evidence:
    """What is known of a model before its licence is."""

    where: str  # for messages
    names: tuple[str, ...]  # what it and its origin are called: repository, folder, _name_or_path
    card: Card
    license_text: str | None = None
    architecture: Architecture | None = None


Lookup = Callable[[str], Evidence | None]  # a repository's, if it may be read


def license_of(
    evidence: Evidence, catalog: Catalog, lookup: Lookup, stated: str | None = None
) -> str:
    """The id of the licence; ``stated`` by the person where it cannot be told.

    ``LicenseError`` where it has to be stated, or may not be as it is; ``IntegrityError`` for a
    model of a later family.
    """
    _refuse_later(evidence)
    if stated is not None:
        terms.load(stated)
    gated = dict(_gated(evidence, catalog, lookup, _DEPTH))
    if stated is not None:
        if gated and stated not in gated:
            _refuse_stated(evidence, stated, gated)
        return stated
    if len(gated) == 1:
        return next(iter(gated))
    if not gated and _is_open(evidence, catalog, lookup, _DEPTH):
        return OPEN
    _ask(evidence, gated)


def _gated(
    evidence: Evidence, catalog: Catalog, lookup: Lookup, depth: int
) -> Iterator[tuple[str, str]]:
    """Licences with a gate that something points to, and what does; the last one counts."""
    card = evidence.card
    for name in (*evidence.names, *card.base_models):
        yield from _of_name(name, catalog)
    for base in _bases(evidence, lookup, depth):
        yield from _gated(base, catalog, lookup, depth - 1)
    for license in card.licenses:
        if license in _CARD:
            yield _CARD[license], f"its card says license: {license}"
    plain = re.sub(r"[^a-z0-9]", "", card.license_name.lower())
    if "2" in plain and _CARD_NAMES.fullmatch(plain):
        yield LLAMA_2, f"its card says license_name: {card.license_name}"
    if _LINKS.search(card.license_link):
        yield LLAMA_2, f"its card says license_link: {card.license_link}"
    digest = normalised_sha256(evidence.license_text or "")
    for known in terms.all_licenses():
        if known.gated and digest in known.known_licenses:
            yield known.id, "its LICENSE is that text"


def _of_name(name: str, catalog: Catalog) -> Iterator[tuple[str, str]]:
    for model in catalog:
        repositories = {str(model.huggingface).lower(), str(model.huggingface_original).lower()}
        if name.lower() in repositories and terms.load(model.license).gated:
            yield model.license, f"it is, or was made from, {name}"
    if _LLAMA_2_NAME.search(name):
        yield LLAMA_2, f"the name {name!r} says that it was made from Llama 2"
    if _LLAMA_1_NAME.search(name):
        yield LLAMA_1, f"the name {name!r} is that of LLaMA (version 1)"


def _bases(evidence: Evidence, lookup: Lookup, depth: int) -> Iterator[Evidence]:
    for base in evidence.card.base_models if depth else ():
        found = None if base in evidence.names else lookup(base)
        if found is not None:
            yield found


def _is_open(evidence: Evidence, catalog: Catalog, lookup: Lookup, depth: int) -> bool:
    """Whether the card says so, and of its bases every one does."""
    licenses = set(evidence.card.licenses)
    if not licenses or not licenses <= _OPEN or _has_gated_sizes(evidence, catalog):
        return False
    others = [base for base in evidence.card.base_models if base not in evidence.names]
    if not others:
        return True
    bases = list(_bases(evidence, lookup, depth))
    return len(bases) == len(others) and all(
        _is_open(base, catalog, lookup, depth - 1) for base in bases
    )


def _has_gated_sizes(evidence: Evidence, catalog: Catalog) -> bool:
    """Whether it has exactly the sizes of a model with a gate: then a card alone does not free it.

    The vocabulary does not count: fine-tunes add tokens to it.
    """

    def sizes(architecture: Architecture) -> tuple[int, ...]:
        listed = architecture
        return (listed.dim, listed.n_layers, listed.n_heads, listed.n_kv_heads, listed.ffn_dim,
                listed.context)  # fmt: skip

    return evidence.architecture is not None and any(
        sizes(model.architecture) == sizes(evidence.architecture)
        for model in catalog
        if model.architecture is not None and terms.load(model.license).gated
    )


def _refuse_later(evidence: Evidence) -> None:
    card = evidence.card
    for license in (*card.licenses, card.license_name.lower()):
        if _LATER_CARD.fullmatch(license):
            _not_of_the_family(evidence, f"its card says {license}")
    for name in (*evidence.names, *card.base_models):
        if _LATER_NAME.search(name.rpartition("/")[2]) and not _LLAMA_2_NAME.search(name):
            _not_of_the_family(evidence, f"the name {name!r} says so")


def _not_of_the_family(evidence: Evidence, why: str) -> NoReturn:
    raise IntegrityError(
        f"{evidence.where} is a model of a later family than Llama 2: {why}",
        hint="llama-hub models   (lists models of the family; any fine-tune of them will do)",
    )


def _refuse_stated(evidence: Evidence, stated: str, gated: dict[str, str]) -> NoReturn:
    known, why = next(iter(gated.items()))
    raise LicenseError(
        f"{evidence.where} cannot be taken under {stated}: {why}, so it inherits {known}",
        hint=f"leave --license out, or --license {known}; whoever has other terms from the "
        "licensor writes a catalogue entry (docs/catalog.md)",
    )


def _ask(evidence: Evidence, gated: dict[str, str]) -> NoReturn:
    card = evidence.card
    reasons = "; ".join(f"{why}: {license}" for license, why in gated.items())
    if not reasons:
        says = [f"license: {license}" for license in card.licenses]
        says += [f"license_name: {card.license_name}"] * bool(card.license_name)
        says += [f"base_model: {base}" for base in card.base_models]
        reasons = f"its model card says {', '.join(says) or 'nothing'}"
    reasons += f"; {card.problem}" if card.problem else ""
    raise LicenseError(
        f"the licence of {evidence.where} cannot be told: {reasons}",
        hint=f"read its page, then say it: --license {' | '.join(_ids(gated))}   "
        "(llama-hub license list)",
    )


def _ids(gated: Iterable[str]) -> list[str]:
    return list(gated) or [LLAMA_2, OPEN]
