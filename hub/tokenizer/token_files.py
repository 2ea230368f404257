"""The small files beside the weights that speak of tokens: each file's own shape, strictly read.

``tokenizer_config.json``, ``special_tokens_map.json``, ``generation_config.json`` and
``config.json`` hold many keys of other programs; only those that speak of tokens are read here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, TypeVar

from annotated_types import Ge, Le, MaxLen

from llama_hub.hub.tokenizer.vocabulary import DEFAULT_TEMPLATE, AddedToken
from llama_hub.schema import conform
from llama_hub.strict import FileKind, decode, parse_json

Find = Callable[[str], bytes | None]  # the content of a file of the folder, if it is there

_HINT = "download it again, or take the file that came with the model"
SETTINGS = FileKind("the tokenizer's settings", max_bytes=16 << 20, max_values=1 << 21, hint=_HINT)
ADDED_TOKENS = FileKind("the added tokens", max_bytes=4 << 20, hint=_HINT)
GENERATION = FileKind("the generation settings", hint=_HINT)
CONFIG = FileKind("the model's configuration", hint="download config.json again")
TEMPLATE = FileKind("the chat template", max_bytes=1 << 20, hint=_HINT)
TOKENIZER_JSON = FileKind(
    "the tokenizer", max_bytes=64 << 20, max_values=1 << 23, hint="download tokenizer.json again"
)

_MAX_ID = 1 << 20
Text = Annotated[str, MaxLen(1024)]
Id = Annotated[int, Ge(0), Le(_MAX_ID)]
AnyId = Annotated[int, Ge(-1), Le(_MAX_ID)]  # older files write -1 for "none"
Ids = AnyId | list[AnyId] | None
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class TokenEntry:
    """A token with its flags, as ``tokenizers`` writes it."""

    content: Text
    special: bool = False
    normalized: bool | None = None
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False

    @property
    def token(self) -> AddedToken:
        """The same in our terms; a special token is not normalised unless it says so."""
        normalized = not self.special if self.normalized is None else self.normalized
        return AddedToken(
            self.content, self.special, normalized, self.lstrip, self.rstrip, self.single_word
        )


Named = str | TokenEntry | None


@dataclass(frozen=True, kw_only=True)
class NamedTokens:
    """``special_tokens_map.json``, and the same keys of ``tokenizer_config.json``."""

    bos_token: Named = None
    eos_token: Named = None
    unk_token: Named = None
    sep_token: Named = None
    pad_token: Named = None
    cls_token: Named = None
    mask_token: Named = None
    additional_special_tokens: list[str | TokenEntry] | None = None

    def name(self, key: str) -> str | None:
        """The text of ``bos``, ``eos`` …; an empty one, as Llama 1's had, is none."""
        named = getattr(self, f"{key}_token")
        return (named.content if isinstance(named, TokenEntry) else named) or None

    def entries(self) -> list[TokenEntry]:
        """All of them in transformers' order, as special tokens."""
        keys = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
        named = [getattr(self, f"{key}_token") for key in keys]
        listed = [*named, *(self.additional_special_tokens or ())]
        return [
            one if isinstance(one, TokenEntry) else TokenEntry(content=one, special=True)
            for one in listed
            if one and (one if isinstance(one, str) else one.content)
        ]


@dataclass(frozen=True, kw_only=True)
class NamedTemplate:
    """One entry of a list of chat templates."""

    name: Text
    template: str


@dataclass(frozen=True, kw_only=True)
class TokenizerSettings(NamedTokens):
    """What ``tokenizer_config.json`` says that changes tokens or prompts."""

    tokenizer_class: str | None = None
    add_bos_token: bool | None = None
    add_eos_token: bool | None = None
    add_prefix_space: bool | None = None
    legacy: bool | None = None
    extra_special_tokens: list[str | TokenEntry] | dict[str, str | TokenEntry] | None = None
    added_tokens_decoder: Mapping[str, TokenEntry] = field(default_factory=dict)
    chat_template: str | list[NamedTemplate] | dict[str, str] | None = None

    @property
    def templates(self) -> dict[str, str]:
        """The chat templates by name."""
        given = self.chat_template
        if isinstance(given, str):
            return {DEFAULT_TEMPLATE: given}
        if isinstance(given, list):
            return {one.name: one.template for one in given}
        return dict(given or {})

    @property
    def is_llama(self) -> bool:
        """Whether transformers builds its own Llama tokenizer, with ``legacy`` as its switch."""
        return (self.tokenizer_class or "").removesuffix("Fast") in (
            "LlamaTokenizer", "CodeLlamaTokenizer",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TokenIds:
    """The ids that ``config.json`` and ``generation_config.json`` state."""

    bos_token_id: Ids = None
    eos_token_id: Ids = None
    pad_token_id: Ids = None

    @property
    def ends(self) -> list[int]:
        """Every id that ends a text, in the file's order."""
        given = self.eos_token_id
        listed = given if isinstance(given, list) else [given]
        return [token for token in listed if token is not None and token >= 0]

    @property
    def pad(self) -> int:
        """The id of padding, -1 without one."""
        given = self.pad_token_id
        first = (given[0] if given else None) if isinstance(given, list) else given
        return -1 if first is None else first


def settings(find: Find) -> TokenizerSettings:
    """``tokenizer_config.json``; everything unset without it."""
    return _picked(TokenizerSettings, _object(find, "tokenizer_config.json", SETTINGS), SETTINGS)


def special_tokens_map(find: Find) -> NamedTokens:
    """``special_tokens_map.json``; everything unset without it."""
    return _picked(NamedTokens, _object(find, "special_tokens_map.json", SETTINGS), SETTINGS)


def token_ids(find: Find, name: str) -> TokenIds:
    """The ids in ``config.json`` or ``generation_config.json``; unset without the file."""
    kind = CONFIG if name == "config.json" else GENERATION
    return _picked(TokenIds, _object(find, name, kind), kind, name)


def added_tokens(find: Find) -> dict[str, int]:
    """``added_tokens.json``: id by text; empty without it."""
    name = "added_tokens.json"
    listed = conform(dict[Text, Id], _object(find, name, ADDED_TOKENS), name, ADDED_TOKENS)
    if len(set(listed.values())) != len(listed):
        raise ADDED_TOKENS.invalid(name, "two texts have the same id")
    return listed


@functools.lru_cache(maxsize=1)  # it is megabytes, and read several times in one conversion
def tokenizer_json(data: bytes) -> Mapping[str, Any]:
    """The document in ``tokenizer.json``."""
    return _object({"tokenizer.json": data}.get, "tokenizer.json", TOKENIZER_JSON)


def template_file(find: Find) -> str | None:
    """``chat_template.jinja``."""
    data = find("chat_template.jinja")
    return None if data is None else decode(data, "chat_template.jinja", TEMPLATE)


def has_chat_template(find: Find) -> bool:
    """Whether the folder has a chat template of its own."""
    return template_file(find) is not None or bool(settings(find).templates)


def _object(find: Find, name: str, kind: FileKind) -> dict[str, Any]:
    data = find(name)
    if data is None:
        return {}
    document = parse_json(data, name, kind)
    if not isinstance(document, dict):
        raise kind.invalid(name, f"is a {type(document).__name__}, not an object with keys")
    return document


def _picked(
    type_: type[T], document: Mapping[str, Any], kind: FileKind, name: str | None = None
) -> T:
    """The keys that ``type_`` has, checked; others are another program's."""
    known = {one.name for one in fields(type_)}  # type: ignore[arg-type]
    picked = {key: _flags(value) for key, value in document.items() if key in known}
    where = name or "tokenizer_config.json"
    return conform(type_, {k: v for k, v in picked.items() if v is not None}, where, kind)


_FLAGS = {one.name for one in fields(TokenEntry)}


def _flags(value: Any) -> Any:
    """Tokens without the keys that only tell their class (``__type``) or id."""
    if isinstance(value, dict) and "content" in value:
        return {key: inner for key, inner in value.items() if key in _FLAGS}
    if isinstance(value, dict):
        return {key: _flags(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_flags(inner) for inner in value]
    return value
