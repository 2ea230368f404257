"""Reading a folder's files into one ``ModelVocabulary``; contradictions are refused by name."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_hub.errors import IntegrityError, NotFoundError
from llama_hub.hub.conversion import sentencepiece_model
from llama_hub.hub.conversion.sentencepiece_model import CONTROL, UNKNOWN, Piece, Vocabulary
from llama_hub.hub.tokenizer import json_model, token_files
from llama_hub.hub.tokenizer.token_files import Find, NamedTokens, TokenEntry, TokenizerSettings
from llama_hub.hub.tokenizer.vocabulary import (
    DEFAULT_TEMPLATE,
    AddedToken,
    ModelVocabulary,
    PrefixRule,
)
from llama_hub.strict import FileKind, read_bytes

FILE = FileKind("the file", max_bytes=64 << 20, hint="download it again")
MODEL, JSON = "tokenizer.model", "tokenizer.json"
# Texts that no fine-tune adds as a word: they stand for something.
_CONTROL_LIKE = re.compile(r"<\|.*\|>|<｜.*｜>|</?[A-Za-z_0-9]+>|\[[A-Z_]+\]", re.DOTALL)


def folder_files(folder: Path) -> Find:
    """How to find a file in ``folder``."""

    def find(name: str) -> bytes | None:
        path = folder / name
        return read_bytes(path, FILE) if path.is_file() else None

    return find


def read_vocabulary(find: Find, rows: int, *, where: str = "the folder") -> ModelVocabulary:
    """The vocabulary of a model whose embedding has ``rows``.

    ``NotFoundError`` without a tokenizer, ``IntegrityError`` for files that contradict each other
    or are of another model.
    """
    sources = _Sources.read(find)
    base = _base(sources, where)
    if len(base.pieces) > rows:
        raise IntegrityError(
            f"{MODEL if sources.model else JSON} has {len(base.pieces)} pieces, the embedding "
            f"{rows} rows: they are not of one model",
            hint=f"take the {MODEL} that came with these weights",
        )
    added = _added(sources, base.pieces, rows)
    return _assembled(sources, base, added, rows)


@dataclass(frozen=True)
class _Sources:
    """The files, parsed."""

    model: Vocabulary | None
    model_bytes: bytes | None
    json: Mapping[str, Any] | None
    json_bytes: bytes | None
    settings: TokenizerSettings
    named: NamedTokens
    listed: Mapping[str, int]  # added_tokens.json
    config: token_files.TokenIds
    generation: token_files.TokenIds
    template: str | None

    @classmethod
    def read(cls, find: Find) -> _Sources:
        data, document = find(MODEL), find(JSON)
        return cls(
            model=None if data is None else _parsed(data),
            model_bytes=data,
            json=None if document is None else token_files.tokenizer_json(document),
            json_bytes=document,
            settings=token_files.settings(find),
            named=token_files.special_tokens_map(find),
            listed=token_files.added_tokens(find),
            config=token_files.token_ids(find, "config.json"),
            generation=token_files.token_ids(find, "generation_config.json"),
            template=token_files.template_file(find),
        )

    def name(self, key: str) -> str | None:
        """The text of ``bos``, ``eos``, ``unk`` or ``pad``, if any file says it."""
        return self.settings.name(key) or self.named.name(key)


@functools.lru_cache(maxsize=1)
def _parsed(data: bytes) -> Vocabulary:
    try:
        return sentencepiece_model.parse(data)
    except ValueError as error:
        raise IntegrityError(
            f"{MODEL} is damaged: {error}", hint=f"download {MODEL} again"
        ) from error


@dataclass(frozen=True)
class _Base:
    """The tokenizer's own pieces and special ids."""

    pieces: tuple[Piece, ...]
    bos_id: int
    eos_id: int
    unk_id: int
    pad_id: int
    add_dummy_prefix: bool


def _base(sources: _Sources, where: str) -> _Base:
    if sources.model is not None:
        known = sources.model
        return _Base(
            known.pieces, known.bos_id, known.eos_id, known.unk_id, known.pad_id,
            known.add_dummy_prefix,
        )  # fmt: skip
    if sources.json is None:
        raise NotFoundError(
            f"{where} has neither {MODEL} nor {JSON}",
            hint=f"put the model's {MODEL} or {JSON} into that folder",
        )
    json_model.check(sources.json)
    pieces = json_model.pieces(sources.json)
    ids = {piece.text: token for token, piece in enumerate(pieces)}
    bos, eos, unk = (ids.get(text, -1) for text in ("<s>", "</s>", "<unk>"))
    rule = json_model.prefix_rule(sources.json)
    return _Base(pieces, bos, eos, unk, -1, rule != "never")


def _added(sources: _Sources, pieces: tuple[Piece, ...], rows: int) -> dict[int, AddedToken]:
    """Every added token by id, of all files; those beyond the embedding are left out."""
    register = _Register(pieces)
    names = {entry.content: entry for entry in (*sources.settings.entries(), *_extra(sources))}
    names |= {entry.content: entry for entry in sources.named.entries()}
    for text, token in sources.listed.items():
        entry = TokenEntry(
            content=text, special=text in names or bool(_CONTROL_LIKE.fullmatch(text))
        )
        register.add("added_tokens.json", token, entry)
    for key, entry in sources.settings.added_tokens_decoder.items():
        register.add(
            "tokenizer_config.json (added_tokens_decoder)", _id(key), _special(entry, names)
        )
    for token, entry in json_model.added_tokens(sources.json or {}):
        register.add(f"{JSON} (added_tokens)", token, _special(entry, names))
    for entry in names.values():
        register.name(entry)
    return {token: each for token, each in register.tokens.items() if token < rows}


def _extra(sources: _Sources) -> Iterator[TokenEntry]:
    given = sources.settings.extra_special_tokens or ()
    for one in given.values() if isinstance(given, dict) else given:
        yield one if isinstance(one, TokenEntry) else TokenEntry(content=one, special=True)


def _special(entry: TokenEntry, names: Mapping[str, TokenEntry]) -> TokenEntry:
    """A token that a role or a list of special tokens names is special."""
    if entry.special or entry.content not in names:
        return entry
    return TokenEntry(
        content=entry.content, special=True, normalized=entry.normalized, lstrip=entry.lstrip,
        rstrip=entry.rstrip, single_word=entry.single_word,
    )  # fmt: skip


def _id(key: str) -> int:
    if not key.isascii() or not key.isdigit() or len(key) > 7:
        raise token_files.SETTINGS.invalid(
            "tokenizer_config.json", f"{key[:20]!r} is no token id", "added_tokens_decoder"
        )
    return int(key)


class _Register:
    """Collects (file, id, text) and refuses what cannot be true together."""

    def __init__(self, pieces: tuple[Piece, ...]) -> None:
        self.tokens: dict[int, AddedToken] = {}
        self._names = {token: (piece.text, MODEL) for token, piece in enumerate(pieces)}
        self._ids = {piece.text: token for token, piece in reversed(list(enumerate(pieces)))}
        self._end = len(pieces)

    def add(self, file: str, token: int, entry: TokenEntry) -> None:
        """A token with its id."""
        text, other = self._names.get(token, (entry.content, file))
        if text != entry.content:
            raise IntegrityError(
                f"{file} calls token {token} {entry.content!r}, {other} calls it {text!r}",
                hint="take all tokenizer files from one place",
            )
        known = self._ids.get(entry.content, token)
        if known != token:
            raise IntegrityError(
                f"{file} gives {entry.content!r} the id {token}, "
                f"{self._names[known][1]} the id {known}",
                hint="take all tokenizer files from one place",
            )
        self._take(token, entry, file)

    def name(self, entry: TokenEntry) -> None:
        """A special token without an id: a known one's, else the next free, as transformers."""
        token = self._ids.get(entry.content, self._end)
        if token not in self.tokens:
            self._take(token, entry, "tokenizer_config.json")

    def _take(self, token: int, entry: TokenEntry, file: str) -> None:
        self.tokens[token] = entry.token
        self._names.setdefault(token, (entry.content, file))
        self._ids[entry.content] = token
        self._end = max(self._end, token + 1)


def _assembled(
    sources: _Sources, base: _Base, added: Mapping[int, AddedToken], rows: int
) -> ModelVocabulary:
    ids = {piece.text: token for token, piece in reversed(list(enumerate(base.pieces)))}
    ids |= {token.text: number for number, token in added.items()}

    def role(key: str, default: int) -> int:
        name = sources.name(key)
        return default if name is None else ids.get(name, default)

    bos = role("bos", base.bos_id)
    stated = _stated_ends(sources, rows, bos, base.eos_id)
    eos = role("eos", stated[0] if stated and sources.name("eos") is None else base.eos_id)
    pads = (sources.generation.pad, sources.config.pad, base.pad_id)
    pad = role("pad", next((token for token in pads if 0 <= token < rows), -1))
    templates = sources.settings.templates
    if sources.template is not None:
        templates = {**templates, DEFAULT_TEMPLATE: sources.template}
    return ModelVocabulary(
        pieces=base.pieces,
        rows=rows,
        added=with_controls(added, base.pieces),
        bos_id=bos,
        eos_id=eos,
        unk_id=role("unk", base.unk_id),
        pad_id=pad,
        end_ids=frozenset([*stated, eos]) - {-1},
        add_bos=_stated(sources.settings.add_bos_token, sources, "bos"),
        add_eos=_stated(sources.settings.add_eos_token, sources, "eos"),
        add_dummy_prefix=base.add_dummy_prefix,
        prefix_rule=_prefix_rule(sources),
        chat_templates=templates,
        sentencepiece=sources.model_bytes,
        tokenizer_json=sources.json_bytes,
    )


def _stated_ends(sources: _Sources, rows: int, bos: int, eos: int) -> list[int]:
    """The end tokens of config.json and generation_config.json.

    BOS is none of them: the first conversions of Llama 1 stated every id one too low.
    """
    listed = [token for ids in (sources.config, sources.generation) for token in ids.ends]
    return [token for token in listed if token < rows and (token != bos or bos == eos)]


def with_controls(
    added: Mapping[int, AddedToken], pieces: tuple[Piece, ...]
) -> dict[int, AddedToken]:
    """The tokenizer's own control pieces parse as special tokens too."""
    own = {
        token: AddedToken(piece.text)
        for token, piece in enumerate(pieces)
        if piece.type in (CONTROL, UNKNOWN) and piece.text
    }
    return dict(sorted((own | dict(added)).items()))


def _stated(given: bool | None, sources: _Sources, key: str) -> bool:
    """Whether BOS or EOS is put to a text: as stated, else as ``tokenizer.json`` does it."""
    if given is not None:
        return given
    if sources.model is None and sources.json is not None:
        return json_model.adds(sources.json, key)
    return key == "bos"


def _prefix_rule(sources: _Sources) -> PrefixRule:
    """As transformers does it: ``tokenizer.json`` as it is, unless the class is Llama's own."""
    settings = sources.settings
    if sources.json is not None and not settings.is_llama:
        return json_model.prefix_rule(sources.json)
    if settings.add_prefix_space is False:
        return "never"
    return "always" if settings.legacy else "first"


def sampled_tokens(folder: Path, rows: int) -> tuple[frozenset[int], frozenset[int]]:
    """What an engine has to know: the end tokens, and the nameless rows, which it never samples.

    A folder without a tokenizer has the ends of its configuration, and no row is nameless.
    """
    find = folder_files(folder)
    try:
        known = read_vocabulary(find, rows, where=str(folder))
    except NotFoundError:
        stated = token_files.token_ids(find, "config.json").ends
        return frozenset(stated) or frozenset({ModelVocabulary.eos_id}), frozenset()
    return known.end_ids, known.nameless
