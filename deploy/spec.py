"""The spec of a deployment: one language for every backend.

A ``DeploymentSpec`` comes from Python, from flags, or from a YAML file::

    name: support-chat
    backend: sagemaker
    model: llama-2-7b-chat
    quantization: int8
    replicas_max: 2
    options:                 # the backend's own, typed block
      role: arn:aws:iam::1:role/x

``llama-hub backends schema sagemaker`` prints the JSON Schema for editors.
Reading a file or ``--set`` goes through pydantic; flags alone do not, so that
planning stays quick.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from llama_hub.errors import UsageError
from llama_hub.hub.manifest import canonical
from llama_hub.hub.model_id import reference, shown
from llama_hub.schema import conform
from llama_hub.strict import checked, parse_yaml, read_yaml, text_kind

Quantization = Literal["int8", "int4"]
Access = Literal["private", "authenticated", "public"]

NAME = re.compile(r"[a-z](?:-?[a-z0-9])*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DURATION = re.compile(r"(\d{1,12})\s*([smhd]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
NAME_LENGTH = 32  # characters; the shortest limit of the clouds

MAX_CONTEXT = 1 << 30  # tokens
MAX_COUNT = 10_000  # replicas, and requests at once in each
MAX_MINUTES = 366 * 24 * 60
MAX_TTL = 10 * 366 * 24 * 3600  # seconds
_RANGES = {
    "context": (1, MAX_CONTEXT),
    "concurrency": (1, MAX_COUNT),
    "replicas_min": (0, MAX_COUNT),
    "replicas_max": (1, MAX_COUNT),
    "scale_to_zero_minutes": (1, MAX_MINUTES),
    "ttl": (60, MAX_TTL),
}
MAX_DOTS = 16  # parts of a key in --set

# What only scales, labels or places a deployment; the rest makes a new revision.
_IN_PLACE = (
    "name", "backend", "replicas_min", "replicas_max", "scale_to_zero", "scale_to_zero_minutes",
    "tags", "ttl",
)  # fmt: skip


class SpecError(UsageError, ValueError):
    """What no deployment can be; a ``ValueError`` so that pydantic says in which file it stands."""


@dataclass(frozen=True, kw_only=True)
class DeploymentSpec:
    """What is wanted; checked once, here."""

    name: str
    """Lower case letters, digits and single hyphens, at most 32 characters."""
    backend: str
    """Where it runs: see llama-hub backends."""
    model: str
    """Catalogue id, or path of a model folder."""
    format: Literal["hf"] = "hf"
    """The layout that is served."""
    quantization: Quantization | None = None
    """Weights as 8-bit or 4-bit integers instead of the model's own type."""
    context: Annotated[int, Ge(1), Le(MAX_CONTEXT)] = 4096
    """Tokens that prompt and answer may have together; the model's own, if those are fewer."""
    concurrency: Annotated[int, Ge(1), Le(MAX_COUNT)] = 8
    """Requests per replica that decode together, each with a full context."""
    replicas_min: Annotated[int, Ge(0), Le(MAX_COUNT)] = 1
    """Instances that always run."""
    replicas_max: Annotated[int, Ge(1), Le(MAX_COUNT)] = 1
    """Instances that run at most."""
    scale_to_zero: bool = False
    """Whether an idle deployment stops its last instance, where the backend can."""
    scale_to_zero_minutes: Annotated[int, Ge(1), Le(MAX_MINUTES)] | None = None
    """Idle minutes before that; none: the platform's own."""
    instance: str = "auto"
    """Machine type, or auto: the cheapest that fits."""
    access: Access = "private"
    """Who may call it: you and your organisation, any account of the platform, or anyone."""
    region: str | None = None
    """Region of the cloud; none: the backend's setting."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of the service. Not for secrets: anyone who may describe it can read them."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Your own tags, put on every resource beside those of llama-hub."""
    moderation: Mapping[str, Any] = field(default_factory=dict)
    """The moderation policy of the service: mode and moderators, see docs/moderation.md."""
    ttl: Annotated[int, Ge(60), Le(MAX_TTL)] | None = None
    """Seconds after which gc offers to remove the deployment; files may say 90m, 12h or 7d."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The backend's own settings."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
        "title": "llama-hub deployment",
    }

    def __post_init__(self) -> None:
        for problem, found in self._problems():
            if found:
                raise SpecError(f"the deployment spec is wrong: {problem}", hint=HINT)

    def _problems(self) -> Iterable[tuple[str, bool]]:
        yield from self._wrong_words()
        yield from self._wrong_numbers()
        yield from self._wrong_pairs()
        if self.moderation:
            from llama_hub.inference.service.moderators import policy

            policy.of_spec(self.moderation)

    def _wrong_words(self) -> Iterable[tuple[str, bool]]:
        yield (
            f"name {self.name!r} must be lower case letters, digits and single hyphens, "
            f"start with a letter and have at most {NAME_LENGTH} characters",
            not is_name(self.name),
        )
        yield "model is empty", not self.model
        wrong = shown(self.model)
        yield f"model {wrong} is neither an id nor a path", not _is_reference(self.model)
        yield f"format {self.format!r} is not hf, the one that is served", self.format != "hf"
        yield (
            f"quantization {self.quantization!r} is neither int8 nor int4",
            self.quantization not in (None, "int8", "int4"),
        )
        yield (
            f"access {self.access!r} is none of private, authenticated, public",
            self.access not in ("private", "authenticated", "public"),
        )

    def _wrong_numbers(self) -> Iterable[tuple[str, bool]]:
        for key, (least, most) in _RANGES.items():
            value = getattr(self, key)
            yield (
                f"{key} {value} is not between {least} and {most}",
                value is not None and not least <= value <= most,
            )
        yield (
            f"replicas_min {self.replicas_min} is more than replicas_max {self.replicas_max}",
            self.replicas_min > self.replicas_max,
        )

    def _wrong_pairs(self) -> Iterable[tuple[str, bool]]:
        for key, value in self.environment.items():
            yield f"environment: {key!r} is no variable name", not _VARIABLE.fullmatch(key)
            yield f"environment: {key} is not a string", not isinstance(value, str)
        for key, value in self.tags.items():
            yield f"tags: {key!r} belongs to llama-hub", key.startswith("llama-hub:")
            yield f"tags: {key} is not a string", not isinstance(value, str)

    def revision(self, manifest_digest: str) -> str:
        """Ten hexadecimal digits of all that a running replica depends on.

        Two specs that differ only in scaling, tags or time to live have the same revision.
        """
        fields = {key: value for key, value in self.to_json().items() if key not in _IN_PLACE}
        if not self.moderation:  # what ran before there was such a key is still the same
            del fields["moderation"]
        content = canonical(fields | {"manifest": manifest_digest, "model": ""})
        return hashlib.sha256(content).hexdigest()[:10]

    def to_json(self) -> dict[str, Any]:
        """All fields as a JSON document."""
        return dataclasses.asdict(self)


def is_name(text: str) -> bool:
    """Whether a deployment can have that name, which is part of paths and of names in clouds."""
    return len(text) <= NAME_LENGTH and bool(NAME.fullmatch(text))


def _is_reference(text: str) -> bool:
    try:
        return bool(reference(text))
    except ValueError:
        return False


HINT = "llama-hub backends schema   (prints every key and what it may be)"
KIND = text_kind("the spec", max_bytes=64 << 10, max_values=10_000, hint=HINT)
KEYS = tuple(known.name for known in dataclasses.fields(DeploymentSpec))


def from_file(path: Path) -> dict[str, Any]:
    """The keys that a YAML file sets; whether they are right is found out by ``build``."""
    document = read_yaml(path, KIND)
    if not isinstance(document, dict):
        raise KIND.invalid(path, "is not a table of keys and values")
    return document


def from_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """The keys that ``a.b=c`` words set; values are read as YAML (``2``, ``true``, ``[a, b]``).

    ``UsageError`` for words of another form, or that contradict each other.
    """
    document: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not all(path.split(".")) or path.count(".") >= MAX_DOTS:
            raise UsageError(f"--set {assignment!r} is not of the form key=value or a.b=value")
        inner = document
        *parents, last = path.split(".")
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise UsageError(f"--set {assignment!r} contradicts an earlier --set")
        inner[last] = _value(text)
    return document


def _value(text: str) -> Any:
    try:
        return parse_yaml(text, "--set", KIND)
    except UsageError:
        return text


def merge(*documents: Mapping[str, Any]) -> dict[str, Any]:
    """Later documents over earlier ones; tables are merged key by key."""
    merged: dict[str, Any] = {}
    for document in documents:
        for key, value in document.items():
            below = merged.get(key)
            both = isinstance(below, Mapping) and isinstance(value, Mapping)
            merged[key] = merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def build(document: Mapping[str, Any], where: str = "of the deployment") -> DeploymentSpec:
    """The spec that a document of unchecked types describes; ``UsageError`` names the key."""
    fields = dict(document)
    for key, value in fields.items():
        if isinstance(value, str) and key in _NOT_TEXT:  # of a variable, or in quotes
            fields[key] = duration(value) if key == "ttl" else _value(value)
    for key in ("environment", "tags"):
        if isinstance(fields.get(key), Mapping):
            fields[key] = {name: _text(value) for name, value in fields[key].items()}
    return conform(DeploymentSpec, checked(fields, where, KIND), where, KIND)


_NOT_TEXT = (*_RANGES, "scale_to_zero")


def _text(value: Any) -> Any:
    """YAML reads ``LEVEL: 3`` as a number; variables and tags are text."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


def duration(text: str) -> int:
    """Seconds of ``90``, ``90s``, ``15m``, ``12h`` or ``7d``; ``UsageError`` for anything else."""
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise UsageError(f"{text!r} is not a duration such as 90m, 12h or 7d")
    return int(match[1]) * _SECONDS[match[2]]
