"""The moderation policy: which moderators judge what, as one document with one digest.

::

    mode: parallel                # before (default): generation starts when the prompt has passed
    moderators:
      - kind: words
        file: words.txt           # or words: [..]
      - kind: moderations         # any service with /v1/moderations
        url: https://moderation.example
        key_variable: MODERATION_KEY
      - kind: llama-guard         # a deployment of Llama Guard 1
        url: http://guard:8000
        model: llama-guard-7b
        stages: [input, output]

A service takes it from ``serve --moderator FILE.yaml``, a deployment from ``moderation`` in its
spec. The digest is over what decides: words, addresses, thresholds; never over a key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from llama_hub.errors import UsageError
from llama_hub.hub.manifest import canonical
from llama_hub.inference.service.moderation import Moderator, Passage, Verdict
from llama_hub.inference.service.moderators import remote, words
from llama_hub.inference.service.moderators.llama_guard import LlamaGuard
from llama_hub.inference.service.moderators.moderation_service import ModerationService
from llama_hub.inference.service.moderators.remote import Remote
from llama_hub.schema import conform, did_you_mean
from llama_hub.strict import checked, parse_json, read_yaml, text_kind

VARIABLE = "LLAMA_HUB_MODERATION"
KEY_VARIABLE = "LLAMA_HUB_MODERATOR_KEY"
MAX_MODERATORS = 8
HINT = "docs/moderation.md"
KIND = text_kind("the moderation policy", max_bytes=4 << 20, max_values=20_000, hint=HINT)
Stage = Literal["input", "output"]
Mode = Literal["before", "parallel"]
Seconds = Annotated[float, Gt(0), Le(120)]
Share = Annotated[float, Ge(0), Le(1)]
Window = Annotated[int, Ge(200), Le(100_000)]
BOTH: tuple[Stage, ...] = ("input", "output")
_STRICT: Mapping[str, Any] = {"extra": "forbid"}


@dataclass(frozen=True, kw_only=True)
class WordsRule:
    """A word list."""

    kind: Literal["words"] = "words"
    words: tuple[str, ...] = ()
    file: str | None = None  # one term a line; relative to the policy's own folder
    stages: tuple[Stage, ...] = BOTH

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT

    def resolved(self, folder: Path) -> WordsRule:
        """With the words themselves in place of the file."""
        if self.file is None:
            return self
        listed = words.read_terms(folder / Path(self.file).expanduser())
        return replace(self, words=(*self.words, *listed), file=None)

    def check(self) -> None:
        """``UsageError`` for a list that is none."""
        problem = words.problem_of(self.words)
        if problem:
            raise UsageError(f"the word list {problem}", hint=HINT)

    def moderator(self) -> Moderator:
        """The moderator."""
        return words.word_list(self.words)


@dataclass(frozen=True, kw_only=True)
class ModerationsRule:
    """A service with ``/v1/moderations``."""

    kind: Literal["moderations"] = "moderations"
    url: str
    model: str | None = None
    thresholds: Mapping[str, Share] = field(default_factory=dict)
    timeout: Seconds = 10.0
    window: Window = 8000
    key_variable: str = KEY_VARIABLE
    key_file: str | None = None
    stages: tuple[Stage, ...] = BOTH

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT

    def resolved(self, folder: Path) -> ModerationsRule:
        """Itself."""
        return self

    def check(self) -> None:
        """``UsageError`` for an address that cannot be one."""
        remote.check_url(self.url)

    def moderator(self) -> Moderator:
        """The moderator; ``UsageError`` for a key that cannot be one."""
        return ModerationService(_remote(self), self.model, self.window, dict(self.thresholds))


@dataclass(frozen=True, kw_only=True)
class LlamaGuardRule:
    """A deployment of Llama Guard 1."""

    kind: Literal["llama-guard"] = "llama-guard"
    url: str
    model: str = "llama-guard-7b"
    threshold: Share = 0.5
    form: Literal["template", "own"] = "template"
    timeout: Seconds = 10.0
    window: Window = 4000
    key_variable: str = KEY_VARIABLE
    key_file: str | None = None
    stages: tuple[Stage, ...] = BOTH

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT

    def resolved(self, folder: Path) -> LlamaGuardRule:
        """Itself."""
        return self

    def check(self) -> None:
        """``UsageError`` for an address that cannot be one."""
        remote.check_url(self.url)

    def moderator(self) -> Moderator:
        """The moderator; ``UsageError`` for a key that cannot be one."""
        return LlamaGuard(_remote(self), self.model, self.threshold, self.form, self.window)


Rule = WordsRule | ModerationsRule | LlamaGuardRule
RULES: Mapping[str, type[Rule]] = {
    "words": WordsRule,
    "moderations": ModerationsRule,
    "llama-guard": LlamaGuardRule,
}


@dataclass(frozen=True)
class Policy:
    """What judges, and whether the prompt is judged before generation or beside it."""

    rules: tuple[Rule, ...] = ()
    mode: Mode = "before"

    def to_json(self) -> dict[str, Any]:
        """The document; of a word list the words, of a key only where it is found."""
        rules = [_without_nothing(asdict(rule)) for rule in self.rules]
        return {"mode": self.mode, "moderators": rules}

    @property
    def digest(self) -> str:
        """``sha256:…`` of all that decides."""
        document = self.to_json()
        for rule in document["moderators"]:
            for key in ("key_variable", "key_file"):
                rule.pop(key, None)
        plain = json.loads(json.dumps(document))
        return "sha256:" + hashlib.sha256(canonical(plain)).hexdigest()

    def moderators(self) -> tuple[Moderator, ...]:
        """The moderators in order, each for its stages; ``UsageError`` if one cannot be."""
        return tuple(Staged(rule.moderator(), rule.stages, rule.kind) for rule in self.rules)


@dataclass(frozen=True)
class Staged:
    """A moderator that is asked at some stages only."""

    moderator: Moderator
    stages: tuple[Stage, ...]
    name: str

    def judges(self, stage: str) -> bool:
        """Whether it is asked at ``stage``."""
        return stage in self.stages

    def close(self) -> None:
        """Let go of what the moderator holds open."""
        remote = getattr(self.moderator, "remote", None)
        if remote is not None:
            remote.close()

    def __call__(self, passage: Passage) -> Verdict | Awaitable[Verdict]:
        """Its verdict."""
        return self.moderator(passage)


def _remote(rule: ModerationsRule | LlamaGuardRule) -> Remote:
    return Remote(rule.url, remote.key_of(rule.key_variable, rule.key_file), rule.timeout)


def parse(document: Any, where: object, folder: Path | None = None) -> Policy:
    """The policy in a document; files of words are read, from ``folder`` where they are relative.

    ``InvalidFileError`` names the key.
    """
    if not isinstance(document, Mapping):
        raise KIND.invalid(where, "is not a table of keys and values")
    for key in document:
        if key not in ("mode", "moderators"):
            raise KIND.invalid(where, "unknown key", str(key)[:64])
    mode = document.get("mode", "before")
    if mode not in ("before", "parallel"):
        raise KIND.invalid(where, "is neither before nor parallel", "mode")
    listed = document.get("moderators")
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
        raise KIND.invalid(where, "must be a list with at least one moderator", "moderators")
    if len(listed) > MAX_MODERATORS:
        raise KIND.invalid(where, f"holds more than {MAX_MODERATORS}", "moderators")
    rules = tuple(_rule(each, where, number) for number, each in enumerate(listed))
    made = Policy(tuple(rule.resolved(folder or Path()) for rule in rules), mode)
    for number, rule in enumerate(made.rules):
        try:
            rule.check()
        except UsageError as error:
            raise KIND.invalid(where, error.message, f"moderators.{number}") from error
    return made


def _rule(document: Any, where: object, number: int) -> Rule:
    at = f"moderators.{number}"
    if not isinstance(document, Mapping):
        raise KIND.invalid(where, "is not a table of keys and values", at)
    kind = document.get("kind")
    if not isinstance(kind, str) or kind not in RULES:
        near = did_you_mean(str(kind)[:64], RULES)
        raise KIND.invalid(where, f"is none of {', '.join(RULES)}{near}", f"{at}.kind")
    rule = conform(RULES[kind], dict(document), f"{where}, {at}", KIND)
    if not rule.stages:
        raise KIND.invalid(where, "is empty: it would judge nothing", f"{at}.stages")
    return rule


def read(path: Path) -> Policy:
    """The policy in a YAML file."""
    return parse(read_yaml(path, KIND), path, path.parent)


def from_variable(text: str) -> Policy:
    """The policy that a deployment hands to its service, as JSON."""
    return parse(parse_json(text, VARIABLE, KIND), VARIABLE)


def to_variable(policy: Policy) -> str:
    """What ``from_variable`` reads."""
    return canonical(json.loads(json.dumps(policy.to_json()))).decode()


def of_spec(document: Mapping[str, Any]) -> Policy:
    """The policy in a deployment's spec, which is all there: ``InvalidFileError`` for a file."""
    for number, rule in enumerate(document.get("moderators") or ()):
        if isinstance(rule, Mapping) and rule.get("file") is not None:
            raise KIND.invalid(
                "of the spec", "write the words into the spec", f"moderators.{number}.file"
            )
    return parse(document, "of the spec")


def from_words(given: Sequence[str]) -> Policy:
    """The policy of ``--moderator`` options: a policy's file, or ``KIND:WHAT`` (several).

    ``UsageError`` for a word that is neither.
    """
    rules: list[Rule] = []
    for word in given:
        kind, colon, what = word.partition(":")
        if colon and what and kind in RULES:
            key = "file" if kind == "words" else "url"
            rules.append(_rule({"kind": kind, key: what}, f"--moderator {kind}", 0))
        elif len(given) == 1 and word.endswith((".yaml", ".yml", ".json")):
            return read(Path(word).expanduser())
        else:
            raise UsageError(
                f"--moderator {word[:200]!r} is neither a policy's file (alone) nor KIND:WHAT",
                hint="--moderator words:FILE, moderations:URL, llama-guard:URL or POLICY.yaml",
            )
    document = {"moderators": [_without_nothing(asdict(rule)) for rule in rules]}
    return parse(checked(json.loads(json.dumps(document)), "--moderator", KIND), "--moderator")


def _without_nothing(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if value not in (None, (), {})}
