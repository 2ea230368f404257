"""The transparency card: what a reader and an auditor want to know of a model, with every source.

Each line is a name, a value and where the value comes from: the manifest, the ledger, the licence's
terms as data, what Meta published, a record of an evaluation. What is not known is said to be not
known; nothing is filled in.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from llama_hub import __version__
from llama_hub.evaluation import page, report
from llama_hub.evaluation.page import Raw
from llama_hub.evaluation.record import Record
from llama_hub.evaluation.redteam import RedTeamRecord
from llama_hub.hub import release_items
from llama_hub.hub.catalog import Model
from llama_hub.hub.manifest import Manifest
from llama_hub.licenses.ledger import Receipt
from llama_hub.licenses.terms import License

MANIFEST = "llama-hub.json, the manifest beside the weights"
UNKNOWN = "not known"


@dataclass(frozen=True)
class Line:
    """One fact and its source."""

    name: str
    value: str
    source: str


@dataclass(frozen=True)
class Section:
    """Facts of one kind."""

    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class About:
    """Everything that a card is made of."""

    manifest: Manifest
    license: License
    catalog: Model | None = None
    receipt: Receipt | None = None
    function: Mapping[str, Any] = field(default_factory=dict)  # the architecture's numbers
    records: Sequence[Record] = ()
    redteams: Sequence[RedTeamRecord] = ()
    deployment: Mapping[str, str] = field(default_factory=dict)  # name → value, as it states
    policy: str | None = None  # of moderation, as the service states it


@cache
def published() -> Mapping[str, Any]:
    """What Meta published, as data."""
    text = (files("llama_hub.evaluation") / "published_card.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def sections(about: About) -> tuple[Section, ...]:
    """The whole card."""
    made = [
        Section("What it is", tuple(_identity(about))),
        Section("Licence and duties", tuple(_license(about))),
        Section("The release's seven items", tuple(_items(about))),
        Section("Data and training, as Meta published it", tuple(_training(about))),
        Section("Evaluation", tuple(_scores(about))),
        Section("Red team", tuple(_redteam(about))),
        Section("Moderation", tuple(_moderation(about))),
        Section("Limits", tuple(_limits(about))),
        Section("Energy, as Meta published it", tuple(_energy(about))),
    ]
    if about.deployment:
        stated = [Line(k, v, "the deployment's own word") for k, v in about.deployment.items()]
        made.insert(1, Section("Deployment", tuple(stated)))
    return tuple(made)


def _identity(about: About) -> Iterator[Line]:
    manifest = about.manifest
    yield Line("model", manifest.model, MANIFEST)
    if about.catalog is not None:
        entry = about.catalog
        said = " ".join(filter(None, (entry.family, entry.size, entry.variant)))
        yield Line("family, size, variant", said, "the catalogue")
    yield Line("manifest", manifest.digest, MANIFEST)
    yield Line("format, bytes", f"{manifest.format}, {manifest.bytes}", MANIFEST)
    yield Line("quantisation", manifest.quantization or "none", MANIFEST)
    made = manifest.made_by
    yield Line("made by", str(made.get("operation") or UNKNOWN)[:200], MANIFEST)
    if manifest.parent:
        yield Line("made from", manifest.parent, MANIFEST)
    origin = {k: v for k, v in manifest.source.items() if k in ("kind", "host", "repo", "commit")}
    said = ", ".join(f"{key} {str(value)[:200]}" for key, value in origin.items())
    yield Line("obtained from", said or UNKNOWN, MANIFEST)
    yield Line("obtained at", manifest.created or UNKNOWN, MANIFEST)
    for key, value in about.function.items():
        yield Line(key, str(value)[:200], "config.json or params.json beside the weights")


def _license(about: About) -> Iterator[Line]:
    license = about.license
    source = f"the terms of {license.id} as data"
    dated = f" of {license.version_date}" if license.version_date else ""
    yield Line("licence", f"{license.name}{dated} ({license.spdx})", source)
    if license.licensor:
        yield Line("licensor", license.licensor, source)
    if license.notice:
        yield Line("notice", license.notice, source)
    if license.mau_limit is not None:
        yield Line("user limit", f"{license.mau_limit:,} monthly active users", source)
    for number, duty in enumerate(license.obligations, 1):
        yield Line(f"duty {number}", duty, source)
    if not license.gated:
        yield Line("acceptance", "nobody has to accept it", source)
    elif about.receipt is None:
        stated = about.manifest.receipt
        told = f"receipt {stated}, which is not in this ledger" if stated else "none on record here"
        yield Line("acceptance", told, "the ledger of this machine")
    else:
        who = about.receipt.licensee
        name = (who.organization or who.name) if who else UNKNOWN
        told = f"receipt {about.receipt.id}, {name}, {about.receipt.at}"
        yield Line("acceptance", told, "the ledger of this machine")


def _items(about: About) -> Iterator[Line]:
    for item in release_items.items(about.manifest):
        yield Line(item.name, f"{item.state}: {item.where}", MANIFEST)


def _of_meta(about: About) -> Mapping[str, Any]:
    """What was published of the family; empty for what is not Meta's own."""
    entry = about.catalog
    if entry is None or about.license.id != "llama-2-community":
        return {}
    found = published().get(entry.family, {})
    return found if isinstance(found, Mapping) else {}


def _training(about: About) -> Iterator[Line]:
    known = _of_meta(about)
    if not known:
        yield Line("training data", UNKNOWN, "nothing is on record here of this model")
        return
    source = known["source"]
    for key in ("pretraining", "pretraining_cutoff", "user_data", "languages", "hardware"):
        yield Line(key.replace("_", " "), known[key], source)
    if about.catalog is not None and about.catalog.variant == "chat":
        chat = known["chat"]
        yield Line("tuning", chat["tuning"], chat["source"])
        yield Line("tuning cutoff", chat["tuning_cutoff"], chat["source"])


def _scores(about: About) -> Iterator[Line]:
    if not about.records:
        yield Line("scores", "none on record", "llama-hub eval writes them")
    for record in about.records:
        source = f"record {record.digest}, {record.harness.name} {record.harness.version}"
        source += f", {record.started[:10]}{_form(about, record.subject.manifest)}"
        limit = "" if record.limit is None else f", first {record.limit} documents"
        kind = record.subject.quantization or record.subject.dtype
        for score in record.scores:
            setting = ", ".join(filter(None, (score.setting, kind, f"n={score.n}{limit}")))
            said = f"{report.value_text(score)} ({setting})"
            yield Line(f"{score.task} {score.metric}", said, source)


def _form(about: About, manifest: str | None) -> str:
    """Which form of the weights was asked, where it is another than the card's."""
    return "" if manifest == about.manifest.digest else f", of the manifest {manifest}"


def _redteam(about: About) -> Iterator[Line]:
    if not about.redteams:
        yield Line("replay", "none on record", "llama-hub redteam writes them")
    for record in about.redteams:
        source = f"record {record.digest}, judged by {record.judge}, {record.started[:10]}"
        source += _form(about, record.subject.manifest)
        for name, bad, count, low, high in record.rates():
            said = f"{bad} of {count} answered ({100 * low:.0f} to {100 * high:.0f} %)"
            yield Line(f"suite {record.suite}, {name}", said, source)
        refused = len(record.over_refusals)
        yield Line(f"suite {record.suite}, harmless", f"{refused} refused", source)


def _moderation(about: About) -> Iterator[Line]:
    if about.policy:
        yield Line("policy", about.policy, "the service's own word at /manifest")
    elif about.deployment:
        yield Line("policy", "none", "the service's own word at /manifest")
    else:
        yield Line("policy", "a matter of the service, not of the weights", "docs/moderation.md")


def _limits(about: About) -> Iterator[Line]:
    known = _of_meta(about)
    if not known:
        yield Line("limits", UNKNOWN, "nothing is on record here of this model")
    for number, limit in enumerate(known.get("limits", ()), 1):
        yield Line(f"limit {number}", limit, known["source"])
    dequantized = about.manifest.made_by.get("dequantized")
    if about.manifest.quantization or dequantized:
        told = "quantised: its answers differ from the original's; eval compare says by how much"
        yield Line("quantisation", told, MANIFEST)


def _energy(about: About) -> Iterator[Line]:
    known = _of_meta(about)
    size = about.catalog.size if about.catalog is not None else ""
    found = known.get("energy", {}).get(size)
    if found is None:
        yield Line("energy", UNKNOWN, "nothing is on record here of this model")
        return
    yield Line("pretraining", f"{found['gpu_hours']:,} GPU hours", known["source"])
    yield Line("power", f"{found['watts']} W a GPU, at most", known["source"])
    yield Line("emissions", f"{found['tco2eq']} t CO2 equivalent, offset by Meta", known["source"])


# --- forms --------------------------------------------------------------------------------------


def to_json(about: About) -> dict[str, Any]:
    """The card as a document."""
    return {
        "model": about.manifest.model,
        "manifest": about.manifest.digest,
        "tool": f"llama-hub {__version__}",
        "sections": [
            {
                "title": section.title,
                "lines": [
                    {"name": line.name, "value": line.value, "source": line.source}
                    for line in section.lines
                ],
            }
            for section in sections(about)
        ],
    }


def markdown(about: About) -> str:
    """The card as Markdown."""
    lines = [f"# {report.plain(about.manifest.model)}"]
    for section in sections(about):
        lines += ["", f"## {section.title}", ""]
        rows = [(line.name, line.value, line.source) for line in section.lines]
        lines += report.table(("", "", "source"), rows)
    return "\n".join(lines) + "\n"


def html(about: About) -> str:
    """The card as one HTML file."""
    parts = []
    for section in sections(about):
        rows = [
            (line.name, line.value, Raw(f"<span class='note'>{escape(line.source)}</span>"))
            for line in section.lines
        ]
        parts += [f"<h2>{escape(section.title)}</h2>", page.table(("", "", "source"), rows)]
    return page.page(f"Transparency card: {about.manifest.model}", *parts)
