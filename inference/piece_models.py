"""Models that cut the text between two added tokens: SentencePiece, or ``tokenizers``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Protocol

from llama_hub.hub.conversion import sentencepiece_model
from llama_hub.hub.tokenizer import compare, json_model, token_files
from llama_hub.hub.tokenizer.token_files import TokenizerSettings
from llama_hub.hub.tokenizer.vocabulary import ModelVocabulary


class PieceModel(Protocol):
    """Text to ids; nothing in a text is a special token here."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text of its own, with the space that the model puts before it."""
        ...

    def encode_inside(self, text: str) -> list[int]:
        """Ids of a text that continues another: no space is put before it."""
        ...


class SentencePieceModel:
    """``tokenizer.model``."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.library = compare.sentencepiece_processor(data)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.library.encode(text.encode())
        return ids

    def encode_inside(self, text: str) -> list[int]:
        ids: list[int] = self._bare.encode(text.encode())
        return ids

    @cached_property
    def _bare(self) -> Any:
        return compare.sentencepiece_processor(sentencepiece_model.without_dummy_prefix(self._data))


class JsonModel:
    """``tokenizer.json``, as transformers uses it."""

    def __init__(self, vocabulary: ModelVocabulary, settings: TokenizerSettings) -> None:
        assert vocabulary.tokenizer_json is not None
        document = dict(token_files.tokenizer_json(vocabulary.tokenizer_json))
        json_model.check(document)
        if settings.is_llama:
            document |= _llama(document, vocabulary)
        self.strips_space = _strips_space(document)
        self.byte_level = any(
            part.get("type") == "ByteLevel"
            for part in json_model.steps(document.get("decoder"), "decoders")
        )
        self._plain = compare.fast_tokenizer(json.dumps(document | {"added_tokens": []}).encode())
        listed = [_entry(token, known) for token, known in vocabulary.added.items()]
        self._whole = compare.fast_tokenizer(
            json.dumps(document | {"added_tokens": listed}).encode()
        )
        self._newline = self.encode("\n")

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        return ids

    def encode_inside(self, text: str) -> list[int]:
        ids = self.encode("\n" + text)
        return ids[len(self._newline) :] if ids[: len(self._newline)] == self._newline else ids

    def encode_special(self, text: str) -> list[int]:
        """Ids of a text in which added tokens are tokens."""
        ids: list[int] = self._whole.encode(text, add_special_tokens=False).ids
        return ids


def _llama(document: Mapping[str, Any], vocabulary: ModelVocabulary) -> dict[str, Any]:
    """transformers' own Llama tokenizer: pieces and merges of the file, spaces by ``legacy``."""
    scheme = vocabulary.prefix_rule
    model = dict(document["model"]) | {"fuse_unk": True, "byte_fallback": True, "unk_token": None}
    space: dict[str, Any] = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
    steps = [space, {"type": "ByteFallback"}, {"type": "Fuse"}]
    if scheme != "never":
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "model": model,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": False,
        },
        "decoder": {"type": "Sequence", "decoders": steps},
    }  # fmt: skip


def _strips_space(document: Mapping[str, Any]) -> bool:
    """Whether decoding drops the space at the beginning of a text."""
    for part in json_model.steps(document.get("decoder"), "decoders"):
        if part.get("type") == "Strip" and part.get("start"):
            return True
        if part.get("type") == "Metaspace":
            return bool(part.get("prepend_scheme", "always") != "never")
    return False


def _entry(token: int, known: Any) -> dict[str, Any]:
    return {
        "id": token, "content": known.text, "single_word": known.single_word,
        "lstrip": known.lstrip, "rstrip": known.rstrip, "normalized": known.normalized,
        "special": known.special,
    }  # fmt: skip


def byte_level_table() -> dict[str, int]:
    """The byte that each character of a byte-level piece stands for (GPT-2's own table)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in shown}
    hidden = [byte for byte in range(256) if byte not in set(shown)]
    return table | {chr(256 + place): byte for place, byte in enumerate(hidden)}
