"""The seven items of the release, and of each whether a folder has it, where else it stands, or
that the source lacked it: model code, weights, user guide, responsible-use guide, use policy, model
card, licence.

A short README.md beside every download and conversion says so. It is made of the manifest, so that
it can always be made again, and is not listed there; where the source has a README.md of its own,
which is its model card, ours is called ``README.llama-hub.md``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llama_hub import __version__
from llama_hub.files import write_atomic
from llama_hub.hub.manifest import Manifest
from llama_hub.licenses import terms
from llama_hub.licenses.terms import License

NAMES = ("README.md", "README.llama-hub.md")
MARK = "<!-- made of llama-hub.json by the program of that name -->\n"
CODE = "https://github.com/facebookresearch/llama"
GUIDE = "https://ai.meta.com/llama/responsible-use-guide"
META = "llama-2-community"
GUIDE_FILES = ("responsible-use-guide", "responsible_use_guide")
WEIGHTS = (".pth", ".safetensors", ".gguf", ".bin")
State = Literal["here", "elsewhere", "lacking"]


@dataclass(frozen=True)
class Item:
    """One of the seven."""

    name: str
    state: State
    where: str


def items(manifest: Manifest) -> tuple[Item, ...]:
    """All seven, in the order of the release."""
    listed = {entry.path for entry in manifest.files}
    license = terms_of(manifest.license)
    of_meta = manifest.license == META
    return (
        Item("model code", "elsewhere", _code(of_meta)),
        _weights(manifest),
        Item("user guide", "elsewhere", _user_guide(of_meta)),
        _use_guide(listed, of_meta),
        _document("use policy", listed, ("USE_POLICY.md", "USE_POLICY"), license.policy_url),
        _document("model card", listed, ("MODEL_CARD.md", "README.md"), None),
        _document("licence", listed, ("LICENSE", "LICENSE.txt", "LICENSE.md"), license.url),
    )


def terms_of(license_id: str) -> License:
    """The licence's terms; one that this machine does not describe has no addresses."""
    known = {each.id: each for each in terms.all_licenses()}
    return known.get(license_id) or License(license_id, license_id, "NOASSERTION", gated=True)


def _code(of_meta: bool) -> str:
    ours = f"llama-hub {__version__} serves it with code of its own (llama_hub.inference)"
    return f"{ours}; Meta's is at {CODE}" if of_meta else ours


def _user_guide(of_meta: bool) -> str:
    ours = "the documentation of llama-hub"
    return f"{ours}; Meta's is the README at {CODE}" if of_meta else ours


def _use_guide(listed: set[str], of_meta: bool) -> Item:
    name = "responsible-use guide"
    found = next((path for path in sorted(listed) if path.lower().startswith(GUIDE_FILES)), None)
    if found is not None:
        return Item(name, "here", found)
    if of_meta:
        return Item(name, "elsewhere", GUIDE)
    return Item(name, "lacking", "none is known of for this licence")


def _weights(manifest: Manifest) -> Item:
    files = [entry for entry in manifest.files if entry.path.endswith(WEIGHTS)]
    size = sum(entry.size for entry in files)
    if not files:
        return Item("weights", "lacking", "the manifest lists no file of weights")
    return Item("weights", "here", f"{len(files)} files, {size} bytes, {manifest.format} format")


def _document(name: str, listed: set[str], names: Iterable[str], url: str | None) -> Item:
    """A text of the release: in the folder, else the source did not have it."""
    found = next((each for each in names if each in listed), None)
    if found is not None:
        return Item(name, "here", found)
    lacking = "the source did not have it"
    return Item(name, "lacking", f"{lacking}; it is at {url}" if url else lacking)


def text(manifest: Manifest) -> str:
    """The README: what this is, where it comes from, the seven items."""
    lines = [MARK + f"# {manifest.model}", "", *_about(manifest), ""]
    lines += ["| of the release | | where |", "|---|---|---|"]
    lines += [f"| {each.name} | {each.state} | {each.where} |" for each in items(manifest)]
    license = terms_of(manifest.license)
    if license.notice:
        lines += ["", license.notice]
    more = f"`llama-hub card {manifest.model}` says more"
    lines += ["", f"`llama-hub verify` checks the files; {more}."]
    return "\n".join(lines) + "\n"


def _about(manifest: Manifest) -> list[str]:
    made = str(manifest.made_by.get("operation") or "made")
    quantized = f", quantised to {manifest.quantization}" if manifest.quantization else ""
    lines = [f"Weights in {manifest.format} format ({made}{quantized})."]
    lines.append(f"Licence: {terms_of(manifest.license).name}. Manifest: `{manifest.digest}`.")
    if manifest.parent:
        lines.append(f"Made from the manifest `{manifest.parent}`.")
    return lines


def write(folder: Path, manifest: Manifest) -> None:
    """Put the README beside the weights, under the first name that is free."""
    listed = {entry.path for entry in manifest.files}
    name = next(each for each in NAMES if each not in listed)
    write_atomic(folder / name, text(manifest).encode())


def is_ours(name: str, listed: set[str]) -> bool:
    """Whether ``name`` is that of our README in a folder whose manifest lists ``listed``."""
    return name in NAMES and name not in listed


def is_marked(data: bytes) -> bool:
    """Whether these bytes are a README of ours and no model card."""
    return data.startswith(MARK.encode())
