"""What a user wants to run: one language for every backend.

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
import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge

from llama_hub.errors import UsageError
from llama_hub.hub.manifest import canonical

if TYPE_CHECKING:
    from llama_hub.deploy.backend import Backend

Quantization = Literal["int8", "int4"]
Access = Literal["private", "authenticated", "public"]

_NAME = re.compile(r"[a-z](?:-?[a-z0-9])*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DURATION = re.compile(r"(\d+)\s*([smhd]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
NAME_LENGTH = 32  # characters; the shortest limit of the clouds

# What only scales, labels or places a deployment; the rest makes a new revision.
_IN_PLACE = (
    "name", "backend", "replicas_min", "replicas_max", "scale_to_zero", "scale_to_zero_minutes",
    "tags", "ttl",
)  # fmt: skip


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
    context: Annotated[int, Ge(1)] = 4096
    """Tokens that prompt and answer may have together."""
    concurrency: Annotated[int, Ge(1)] = 8
    """Requests per replica that decode together, each with a full context."""
    replicas_min: Annotated[int, Ge(0)] = 1
    """Instances that always run."""
    replicas_max: Annotated[int, Ge(1)] = 1
    """Instances that run at most."""
    scale_to_zero: bool = False
    """Whether an idle deployment stops its last instance, where the backend can."""
    scale_to_zero_minutes: Annotated[int, Ge(1)] | None = None
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
    ttl: Annotated[int, Ge(60)] | None = None
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
                raise UsageError(f"the deployment spec is wrong: {problem}", hint=_HINT)

    def _problems(self) -> Iterable[tuple[str, bool]]:
        yield from self._wrong_words()
        yield from self._wrong_numbers()
        yield from self._wrong_pairs()

    def _wrong_words(self) -> Iterable[tuple[str, bool]]:
        yield (
            f"name {self.name!r} must be lower case letters, digits and single hyphens, "
            f"start with a letter and have at most {NAME_LENGTH} characters",
            not _NAME.fullmatch(self.name) or len(self.name) > NAME_LENGTH,
        )
        yield "model is empty", not self.model
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
        least = {"context": 1, "concurrency": 1, "replicas_min": 0, "replicas_max": 1}
        for key, bound in least.items():
            value = getattr(self, key)
            yield f"{key} {value} is less than {bound}", value < bound
        yield "ttl is less than 60 seconds", self.ttl is not None and self.ttl < 60
        yield (
            f"replicas_min {self.replicas_min} is more than replicas_max {self.replicas_max}",
            self.replicas_min > self.replicas_max,
        )
        minutes = self.scale_to_zero_minutes
        yield "scale_to_zero_minutes is less than 1", minutes is not None and minutes < 1

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
        known = canonical(fields | {"manifest": manifest_digest, "model": ""})
        return hashlib.sha256(known).hexdigest()[:10]

    def to_json(self) -> dict[str, Any]:
        """All fields as a JSON document."""
        return dataclasses.asdict(self)


_HINT = "llama-hub backends schema   (prints every key and what it may be)"
KEYS = tuple(known.name for known in dataclasses.fields(DeploymentSpec))


def from_file(path: Path) -> dict[str, Any]:
    """The keys that a YAML file sets; whether they are right is found out by ``build``."""
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"the spec {path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise UsageError(f"the spec {path} is not a table of keys and values", hint=_HINT)
    return document


def from_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """The keys that ``a.b=c`` words set; values are read as YAML (``2``, ``true``, ``[a, b]``)."""
    import yaml

    document: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not all(path.split(".")):
            raise UsageError(f"--set {assignment!r} is not of the form key=value or a.b=value")
        inner = document
        *parents, last = path.split(".")
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise UsageError(f"--set {assignment!r} contradicts an earlier --set")
        inner[last] = _value(text, yaml)
    return document


def _value(text: str, yaml: Any) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
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


def build(document: Mapping[str, Any], where: str = "the deployment spec") -> DeploymentSpec:
    """The spec that a document of unchecked types describes; ``UsageError`` names the key."""
    unknown = [key for key in document if key not in KEYS]
    if unknown:
        raise _unknown_key(str(unknown[0]), where, KEYS)
    from pydantic import TypeAdapter, ValidationError

    known = dict(document)
    if isinstance(known.get("ttl"), str):
        known["ttl"] = duration(known["ttl"])
    for key in ("environment", "tags"):
        if isinstance(known.get(key), Mapping):
            known[key] = {name: _text(value) for name, value in known[key].items()}
    try:
        return TypeAdapter(DeploymentSpec).validate_python(known)
    except ValidationError as error:
        raise _invalid(error, where) from error


def _text(value: Any) -> Any:
    """YAML reads ``LEVEL: 3`` as a number; variables and tags are text."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


def duration(text: str) -> int:
    """Seconds of ``90``, ``90s``, ``15m``, ``12h`` or ``7d``."""
    found = _DURATION.fullmatch(text.strip())
    if not found:
        raise UsageError(f"{text!r} is not a duration such as 90m, 12h or 7d")
    return int(found[1]) * _SECONDS[found[2]]


def check_options(spec: DeploymentSpec, backend: Backend) -> None:
    """``UsageError`` unless ``spec.options`` are what the backend takes."""
    model = backend.options_model
    if model is None:
        if spec.options:
            raise UsageError(f"the backend {backend.name!r} has no options", hint=_HINT)
        return
    from pydantic import ValidationError

    where = f"options of {backend.name}"
    unknown = [key for key in spec.options if key not in model.model_fields]
    if unknown:
        raise _unknown_key(unknown[0], where, model.model_fields)
    try:
        model.model_validate(dict(spec.options))
    except ValidationError as error:
        raise _invalid(error, where) from error


def json_schema(backend: Backend | None = None) -> dict[str, Any]:
    """JSON Schema of the file, with the backend's options filled in where one is given."""
    from pydantic import TypeAdapter

    schema = TypeAdapter(DeploymentSpec).json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"]["ttl"]["anyOf"].insert(1, {"type": "string", "pattern": r"^\d+[smhd]?$"})
    if backend is not None:
        schema["properties"]["backend"] |= {"const": backend.name}
        if backend.options_model is not None:
            schema["properties"]["options"] = backend.options_model.model_json_schema()
    return schema


def _unknown_key(key: str, where: str, known: Iterable[str]) -> UsageError:
    near = difflib.get_close_matches(key, list(known), n=1)
    guess = f"; did you mean {near[0]!r}?" if near else ""
    return UsageError(f"{where}: unknown key {key!r}{guess}", hint=_HINT)


def _invalid(error: Any, where: str) -> UsageError:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    given = "" if first["type"] == "missing" else f" (given: {first['input']!r})"
    return UsageError(f"{where}: {key}: {first['msg']}{given}", hint=_HINT)
