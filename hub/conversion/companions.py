"""Companions of the weights: licence, policy, notice, model card, tokenizer, configuration.

Every output carries them, whatever its format. What the source has is taken over; what only the
other format needs is made here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llama_hub.errors import NotFoundError
from llama_hub.hub import release_items
from llama_hub.hub.architecture import Architecture, to_config, to_params
from llama_hub.hub.chat_template import CHAT_TEMPLATE
from llama_hub.hub.manifest import Format
from llama_hub.hub.tokenizer import token_files, writing
from llama_hub.hub.tokenizer.reading import read_vocabulary
from llama_hub.hub.tokenizer.vocabulary import DEFAULT_TEMPLATE, ModelVocabulary
from llama_hub.licenses.gate import notice_text
from llama_hub.licenses.terms import License
from llama_hub.strict import FileKind, read_bytes

COMPANION = FileKind("the file", max_bytes=64 << 20)  # a tokenizer.json is a few megabytes
_LICENSE_NAMES = ("LICENSE", "LICENSE.txt", "LICENSE.md")
_POLICY_NAMES = ("USE_POLICY.md", "USE_POLICY")
_CARD_NAMES = ("MODEL_CARD.md", "README.md")
# What only a fine-tune's own folder says of its tokens; and what may stand beside any model.
_OWN_SETTINGS = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
_TOKENIZER_FILES = (*_OWN_SETTINGS, "chat_template.jinja", "generation_config.json")
_HUB_LICENSES = {"llama-2-community": "llama2"}  # as model cards on the Hugging Face hub say it


@dataclass(frozen=True)
class Subject:
    """What the companions are about."""

    folder: Path  # of the source
    format: Format  # of the source
    model: str
    license: License
    architecture: Architecture
    is_chat: bool
    accepted_license: str | None = None  # text of the receipt, where the source has none
    accepted_policy: str | None = None
    stated: ModelVocabulary | None = None  # by the weights' own file, as GGUF does
    alone: str | None = None  # the name of a file among others, without its ending
    listed: frozenset[str] = frozenset()  # by the source's manifest

    def find(self, *names: str) -> bytes | None:
        """The first of these files in the source's folder.

        Meta keeps licence and tokenizer one level up, shared by its models; the folder above
        counts only if the tokenizer is there, since any other LICENSE would be another's. Beside a
        file that stands alone counts what its manifest lists, or what is called after it.
        """
        if self.alone is not None:
            listed = [name for name in names if name in self.listed]
            names = (*(f"{self.alone}.{name}" for name in names), *listed)
        folders = [self.folder]
        if self.format == "meta" and (self.folder.parent / "tokenizer.model").is_file():
            folders.append(self.folder.parent)
        for folder in folders:
            for name in names:
                if (folder / name).is_file():
                    return read_bytes(folder / name, COMPANION)
        return None


def vocabulary(subject: Subject) -> ModelVocabulary | None:
    """All tokens of the model; ``None`` where neither a file nor the weights' own tells them.

    ``IntegrityError`` for files that are not of one model. A chat model without a template of its
    own has Meta's.
    """
    stated = subject.stated
    if stated is None:
        where = str(subject.folder)
        try:
            stated = read_vocabulary(subject.find, subject.architecture.vocab_size, where=where)
        except NotFoundError:
            return None
    if subject.is_chat and not stated.chat_templates:
        return replace(stated, chat_templates={DEFAULT_TEMPLATE: CHAT_TEMPLATE})
    return stated


def legal(subject: Subject) -> dict[str, bytes]:
    """LICENSE, USE_POLICY.md and NOTICE, as far as there are any."""
    documents = {
        "LICENSE": subject.find(*_LICENSE_NAMES) or _encoded(subject.accepted_license),
        "USE_POLICY.md": subject.find(*_POLICY_NAMES) or _encoded(subject.accepted_policy),
        "NOTICE": _encoded(notice_text(subject.license)) or subject.find("NOTICE"),
    }
    return {name: data for name, data in documents.items() if data}


def _encoded(text: str | None) -> bytes | None:
    return text.encode() if text else None


def for_meta(subject: Subject) -> dict[str, bytes]:
    """Companions of Meta's layout; an original ``params.json`` is kept as it is.

    Meta's ``tokenizer.model`` cannot hold what a fine-tune added: its own files come along.
    """
    kept = subject.find("params.json") if subject.format == "meta" else None
    params = kept or json.dumps(to_params(subject.architecture)).encode() + b"\n"
    return (
        legal(subject)
        | _tokenizer(subject)
        | _card(subject, "MODEL_CARD.md")
        | {"params.json": params}
    )


def for_gguf(subject: Subject) -> dict[str, bytes]:
    """Companions of a GGUF file; the tokenizer is inside it too."""
    return legal(subject) | _tokenizer(subject) | _card(subject, "README.md")


def beside_gguf(subject: Subject) -> dict[str, bytes]:
    """What a GGUF file that stands by itself has beside it: the tokenizer is inside it."""
    return legal(subject)


def for_hf(subject: Subject, dtype: str, extra_config: Mapping[str, Any]) -> dict[str, bytes]:
    """Companions of a Hugging Face folder; ``extra_config`` goes into ``config.json``."""
    config = to_config(subject.architecture, dtype) | dict(extra_config)
    documents = legal(subject) | _card(subject, "README.md")
    tokens = vocabulary(subject)
    own = _found(subject)
    if subject.format != "hf" and tokens is not None and not set(own) & set(_OWN_SETTINGS):
        own = writing.hf_files(tokens, subject.architecture.context) | own
    if tokens is not None:
        config |= _ids(subject, tokens)
    return documents | own | {"config.json": _json(config)}


def _ids(subject: Subject, known: ModelVocabulary) -> dict[str, Any]:
    """``bos_token_id`` … of ``config.json``: as the source's own says, else as its tokenizer."""
    ids: dict[str, Any] = {"bos_token_id": known.bos_id, "eos_token_id": writing.end_ids(known)}
    if known.pad_id >= 0:
        ids["pad_token_id"] = known.pad_id
    stated = token_files.token_ids(subject.find, "config.json") if subject.format == "hf" else None
    if stated is not None:
        ids |= {key: value for key, value in vars(stated).items() if value is not None}
    return ids


def _found(subject: Subject) -> dict[str, bytes]:
    """The source's own tokenizer files, as they are."""
    if subject.stated is not None:
        return {}
    names = ("tokenizer.model", *_TOKENIZER_FILES)
    return {name: data for name in names if (data := subject.find(name)) is not None}


def _tokenizer(subject: Subject) -> dict[str, bytes]:
    """All that a layout without ``config.json`` needs to tell the same of the tokens."""
    files = _found(subject)
    tokens = vocabulary(subject)
    if tokens is None:
        return files
    if subject.stated is not None and (_was_added_to(tokens) or tokens.chat_template):
        return writing.hf_files(tokens, subject.architecture.context)
    if "tokenizer.model" not in files and (data := writing.sentencepiece_bytes(tokens)):
        files["tokenizer.model"] = data
    # What config.json or the weights' own file said besides these files.
    read_back = read_vocabulary(files.get, tokens.rows)
    if read_back.end_ids != tokens.end_ids or read_back.pad_id != tokens.pad_id:
        ids = {"bos_token_id": tokens.bos_id, "eos_token_id": writing.end_ids(tokens)}
        if tokens.pad_id >= 0:
            ids["pad_token_id"] = tokens.pad_id
        files["generation_config.json"] = _json(_document(files) | ids)
    return files


def _was_added_to(known: ModelVocabulary) -> bool:
    """Whether there are tokens that ``tokenizer.model`` cannot hold."""
    return any(token >= len(known.pieces) for token in known.added)


def _document(found: Mapping[str, bytes]) -> dict[str, Any]:
    """``generation_config.json`` as it is."""
    document: dict[str, Any] = json.loads(found.get("generation_config.json", b"{}"))
    return document


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True).encode() + b"\n"


def _card(subject: Subject, name: str) -> dict[str, bytes]:
    """The model card; on the way to Hugging Face it gets the metadata that the hub reads."""
    data = subject.find(*_CARD_NAMES)
    if data is not None and release_items.is_marked(data):  # ours, made of the manifest
        data = None
    text = data.decode("utf-8", "replace") if data else f"# {subject.model}\n"
    if name == "MODEL_CARD.md":
        return {name: without_front_matter(text).encode()} if data else {}
    return {name: (text if text.startswith("---\n") else _front_matter(subject) + text).encode()}


def without_front_matter(text: str) -> str:
    """A model card without the metadata block at its head."""
    if text.startswith("---\n") and "\n---\n" in text:
        return text.split("\n---\n", 1)[1].lstrip("\n")
    return text


def _front_matter(subject: Subject) -> str:
    license = subject.license
    listed = _HUB_LICENSES.get(license.id)
    lines = [f"license: {listed}"] if listed else ["license: other", f"license_name: {license.id}"]
    if not listed:
        lines.append("license_link: LICENSE")
    lines += ["library_name: transformers", "pipeline_tag: text-generation", "tags:", "- llama"]
    return "---\n" + "\n".join(lines) + "\n---\n\n"
