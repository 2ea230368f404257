"""What goes with the weights: licence, policy, notice, model card, tokenizer, configuration.

Every output carries them, whatever its format. What the source has is taken over; what only the
other format needs is made here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_hub.errors import IntegrityError
from llama_hub.hub.architecture import Architecture, to_config, to_params
from llama_hub.hub.chat_template import CHAT_TEMPLATE
from llama_hub.hub.conversion import sentencepiece_model
from llama_hub.hub.conversion.sentencepiece_model import CONTROL, Piece, Vocabulary
from llama_hub.hub.conversion.tokenizer_json import tokenizer_json
from llama_hub.hub.manifest import Format
from llama_hub.hub.model_config import TokenId
from llama_hub.licenses.gate import notice_text
from llama_hub.licenses.terms import License
from llama_hub.schema import conform
from llama_hub.strict import FileKind, parse_json, read_bytes

COMPANION = FileKind("the file", max_bytes=64 << 20)  # a tokenizer.json is a few megabytes
ADDED_TOKENS = FileKind("the added tokens", max_bytes=4 << 20, hint="download it again")
_LICENSE_NAMES = ("LICENSE", "LICENSE.txt", "LICENSE.md")
_POLICY_NAMES = ("USE_POLICY.md", "USE_POLICY")
_CARD_NAMES = ("MODEL_CARD.md", "README.md")
_HF_TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "generation_config.json",
)  # fmt: skip
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

    def find(self, *names: str) -> bytes | None:
        """The first of these files in the source's folder.

        Meta keeps licence and tokenizer one level up, shared by its models; the folder above
        counts only if the tokenizer is there, since any other LICENSE would be another's.
        """
        folders = [self.folder]
        if self.format == "meta" and (self.folder.parent / "tokenizer.model").is_file():
            folders.append(self.folder.parent)
        for folder in folders:
            for name in names:
                if (folder / name).is_file():
                    return read_bytes(folder / name, COMPANION)
        return None


def vocabulary(subject: Subject) -> Vocabulary | None:
    """The tokenizer's pieces; ``None`` without ``tokenizer.model``.

    ``IntegrityError`` if it has more pieces than the embedding has rows.
    """
    data = subject.find("tokenizer.model")
    if data is None:
        return None
    try:
        found = sentencepiece_model.parse(data)
    except ValueError as error:
        raise IntegrityError(f"tokenizer.model is damaged: {error}") from error
    rows = subject.architecture.vocab_size
    if len(found.pieces) > rows:
        raise IntegrityError(
            f"tokenizer.model has {len(found.pieces)} pieces, the embedding {rows} rows: they are "
            "not of one model",
            hint="take the tokenizer.model that came with these weights",
        )
    return found


def added_pieces(subject: Subject) -> dict[int, Piece]:
    """Tokens that a fine-tune added behind the tokenizer's, by id (``added_tokens.json``)."""
    name = "added_tokens.json"
    data = subject.find(name)
    if data is None:
        return {}
    listed = conform(dict[str, TokenId], parse_json(data, name, ADDED_TOKENS), name, ADDED_TOKENS)
    pieces = {token: Piece(text, 0.0, CONTROL) for text, token in listed.items()}
    if len(pieces) != len(listed):
        raise ADDED_TOKENS.invalid(name, "two texts have the same id")
    return pieces


def legal(subject: Subject) -> dict[str, bytes]:
    """LICENSE, USE_POLICY.md and NOTICE, as far as there are any."""
    found = {
        "LICENSE": subject.find(*_LICENSE_NAMES) or _encoded(subject.accepted_license),
        "USE_POLICY.md": subject.find(*_POLICY_NAMES) or _encoded(subject.accepted_policy),
        "NOTICE": _encoded(notice_text(subject.license)) or subject.find("NOTICE"),
    }
    return {name: data for name, data in found.items() if data}


def _encoded(text: str | None) -> bytes | None:
    return text.encode() if text else None


def for_meta(subject: Subject) -> dict[str, bytes]:
    """Companions of Meta's layout; an original ``params.json`` is kept as it is."""
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
    found = legal(subject) | _tokenizer(subject) | _card(subject, "README.md")
    vocabulary_ = vocabulary(subject)
    if subject.format == "hf":
        found |= {name: data for name in _HF_TOKENIZER if (data := subject.find(name))}
    elif vocabulary_ is not None:
        found |= _hf_tokenizer(subject, vocabulary_)
    if vocabulary_ is not None:
        config |= {"bos_token_id": vocabulary_.bos_id, "eos_token_id": vocabulary_.eos_id}
    return found | {"config.json": _json(config)}


def _tokenizer(subject: Subject) -> dict[str, bytes]:
    data = subject.find("tokenizer.model")
    return {"tokenizer.model": data} if data else {}


def _hf_tokenizer(subject: Subject, vocabulary: Vocabulary) -> dict[str, bytes]:
    """Settings with which transformers tokenizes as Meta does.

    ``add_bos_token`` stands there because transformers adds none by default; the chat template is
    both a file (new transformers) and a setting (old ones).
    """
    names = {
        f"{kind}_token": text
        for kind in ("bos", "eos", "unk")
        if (text := vocabulary.text(getattr(vocabulary, f"{kind}_id"))) is not None
    }
    settings: dict[str, Any] = {
        **names,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": subject.architecture.context,
        "padding_side": "left",
    }
    faithful = tokenizer_json(vocabulary)
    # LlamaTokenizer of transformers 5 would not take tokenizer.json as it is.
    settings["tokenizer_class"] = "PreTrainedTokenizerFast" if faithful else "LlamaTokenizer"
    generation = {
        "bos_token_id": vocabulary.bos_id,
        "do_sample": True,
        "eos_token_id": vocabulary.eos_id,
        "max_length": subject.architecture.context,
        "pad_token_id": vocabulary.unk_id,
        "temperature": 0.6,
        "top_p": 0.9,
    }
    found = {
        "special_tokens_map.json": _json(names),
        "generation_config.json": _json(generation),
    }
    if subject.is_chat:
        settings["chat_template"] = CHAT_TEMPLATE
        found["chat_template.jinja"] = CHAT_TEMPLATE.encode()
    if faithful:
        found["tokenizer.json"] = faithful
    return found | {"tokenizer_config.json": _json(settings)}


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True).encode() + b"\n"


def _card(subject: Subject, name: str) -> dict[str, bytes]:
    """The model card; on the way to Hugging Face it gets the metadata that the hub reads."""
    data = subject.find(*_CARD_NAMES)
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
