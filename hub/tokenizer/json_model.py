"""The file ``tokenizer.json`` (of the ``tokenizers`` library): its pieces and prefixes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llama_hub.errors import IntegrityError
from llama_hub.hub.conversion.sentencepiece_model import (
    BYTE,
    CONTROL,
    MAX_LETTERS,
    MAX_PIECES,
    NORMAL,
    UNKNOWN,
    Piece,
)
from llama_hub.hub.tokenizer.token_files import TOKENIZER_JSON, Id, TokenEntry
from llama_hub.hub.tokenizer.vocabulary import PrefixRule
from llama_hub.schema import conform

NAME = "tokenizer.json"
# What the tokenizers library may be asked to run; a regular expression of a stranger could run for
# ever, so none is among them.
_COMPONENTS = {
    "normalizer": {"Prepend", "Replace", "NFC", "NFD", "NFKC", "NFKD", "Strip", "Precompiled"},
    "pre_tokenizer": {"Metaspace", "ByteLevel", "Digits"},
    "decoder": {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace", "ByteLevel"},
    "post_processor": {"TemplateProcessing", "ByteLevel"},
}
_LISTS = {
    "normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders",
    "post_processor": "processors",
}  # fmt: skip
_ENTRY = ("content", "special", "normalized", "lstrip", "rstrip", "single_word")


def check(document: Mapping[str, Any]) -> None:
    """``IntegrityError`` that names a component which is not run here."""
    _model(document)
    for key, known in _COMPONENTS.items():
        for part in steps(document.get(key), _LISTS[key]):
            pattern = part.get("pattern")
            if part.get("type") not in known or (pattern and "String" not in pattern):
                shown = f"{part.get('type')!r}" + (" with a pattern" if pattern else "")
                raise TOKENIZER_JSON.invalid(NAME, f"{shown} is not run here", key)


def added_tokens(document: Mapping[str, Any]) -> Iterator[tuple[int, TokenEntry]]:
    """(id, token) of ``added_tokens``."""
    listed = document.get("added_tokens") or []
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise TOKENIZER_JSON.invalid(NAME, "is no list of tokens", "added_tokens")
    for one in listed:
        token: int = conform(Id, one.get("id"), f"{NAME}: added_tokens", TOKENIZER_JSON)
        picked = {key: one[key] for key in _ENTRY if key in one}
        yield token, conform(TokenEntry, picked, f"{NAME}: added_tokens", TOKENIZER_JSON)


def pieces(document: Mapping[str, Any]) -> tuple[Piece, ...]:
    """The model's vocabulary by id, ``IntegrityError`` unless it is a BPE without holes.

    A piece's score is minus the rank of the first merge that makes it, which is the order in which
    SentencePiece would join; ids that only ``added_tokens`` names behind the vocabulary are no
    pieces.
    """
    model = _model(document)
    ids = conform(dict[str, Id], model["vocab"], f"{NAME}: model.vocab", TOKENIZER_JSON)
    if len(ids) > MAX_PIECES or any(len(text) > MAX_LETTERS for text in ids):
        raise TOKENIZER_JSON.invalid(
            NAME, "more or longer pieces than any model has", "model.vocab"
        )
    special = {token: entry.special for token, entry in added_tokens(document)}
    texts = {token: text for text, token in ids.items()}
    last = max((token for token in texts if token not in special), default=-1)
    hole = next((token for token in range(last) if token not in texts), None)
    if hole is not None:
        raise TOKENIZER_JSON.invalid(NAME, f"no piece has the id {hole}", "model.vocab")
    ranks = _ranks(model)
    return tuple(
        _piece(texts[token], model, special.get(token, False), ranks) for token in range(last + 1)
    )


def _model(document: Mapping[str, Any]) -> Mapping[str, Any]:
    model = document.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    if kind is None and isinstance(model, dict) and "merges" in model:
        kind = "BPE"  # older files do not say it
    if not isinstance(model, dict) or kind != "BPE" or not isinstance(model.get("vocab"), dict):
        raise IntegrityError(
            f"{NAME} holds a model of type {str(kind)[:40]!r}; Llama's are BPE",
            hint="is this folder a Llama model?",
        )
    return model


def _piece(text: str, model: Mapping[str, Any], special: bool, ranks: Mapping[str, int]) -> Piece:
    if special:
        return Piece(text, 0.0, UNKNOWN if text == "<unk>" else CONTROL)
    if model.get("byte_fallback") and len(text) == 6 and text.startswith("<0x"):
        return Piece(text, 0.0, BYTE)
    return Piece(text, -float(ranks.get(text, len(ranks))), NORMAL)


def _ranks(model: Mapping[str, Any]) -> dict[str, int]:
    """For each piece the number of pieces that are joined before it."""
    ranks: dict[str, int] = {}
    for merge in model.get("merges") or ():
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            raise TOKENIZER_JSON.invalid(NAME, "is no list of pairs", "model.merges")
        ranks.setdefault("".join(parts), len(ranks))
    return ranks


def prefix_rule(document: Mapping[str, Any]) -> PrefixRule:
    """Before which runs of text the file puts a space."""
    for part in steps(document.get("normalizer"), "normalizers"):
        if part.get("type") == "Prepend":
            return "each"
    for part in steps(document.get("pre_tokenizer"), "pretokenizers"):
        if part.get("type") == "Metaspace":
            scheme = part.get("prepend_scheme", "always")
            if part.get("add_prefix_space") is False:
                scheme = "never"
            return scheme if scheme in ("always", "first", "never") else "always"
    return "never"


def steps(part: Any, key: str) -> Iterator[Mapping[str, Any]]:
    """A component, or the components of a sequence."""
    if not isinstance(part, dict):
        return
    inner = part.get(key)
    if part.get("type") != "Sequence":
        yield part
    elif isinstance(inner, list):
        for one in inner:
            if isinstance(one, dict):
                yield one


def adds(document: Mapping[str, Any], key: str) -> bool:
    """Whether the post-processor puts a token before (``bos``) or behind (``eos``) a text."""
    for part in steps(document.get("post_processor"), "processors"):
        single = part.get("single")
        if part.get("type") == "TemplateProcessing" and isinstance(single, list) and single:
            at = single[0] if key == "bos" else single[-1]
            if isinstance(at, dict) and "SpecialToken" in at:
                return True
    return False
