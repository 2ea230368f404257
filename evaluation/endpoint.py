"""The endpoint that is scored: what it serves, and which kinds of questions it answers.

Everything it says is untrusted: read with bounds, shown, and compared, never believed to be more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from llama_hub.errors import AccessError, IntegrityError, UnreachableError, UsageError
from llama_hub.evaluation.record import Subject
from llama_hub.hub.manifest import Manifest, parse
from llama_hub.hub.transfer import bounded_httpx
from llama_hub.strict import FileKind, parse_json

ANSWER = FileKind("the endpoint's answer", max_bytes=32 << 20, max_values=400_000)
SECONDS = 120.0


@dataclass(frozen=True)
class Endpoint:
    """Where it is, and what it can."""

    url: str  # without /v1
    headers: Mapping[str, str] = field(repr=False)
    model: str
    stated: Mapping[str, Any] | None = None  # a llama-hub service's word at /manifest
    context: int | None = None  # tokens, where it says
    completions: bool = True
    no_logprobs: str = ""  # why a task that needs them cannot be asked; empty if it can

    @property
    def manifest(self) -> Manifest | None:
        """Of the served weights, checked against its own digest; ``None`` where none is given."""
        document = (self.stated or {}).get("document")
        return None if document is None else parse(document, f"{self.url}/manifest")

    def subject(self, name: str, kind: Any, **more: Any) -> Subject:
        """What a record says of it; ``IntegrityError`` if it contradicts itself."""
        stated = self.stated or {}
        engine = stated.get("engine") if isinstance(stated.get("engine"), dict) else {}
        policy = stated.get("moderation") if isinstance(stated.get("moderation"), dict) else {}
        manifest = self.manifest
        digest = stated.get("manifest")
        if manifest is not None and manifest.digest != digest:
            raise IntegrityError(f"{self.url} states the manifest {digest!r:.90} and shows another")

        def word(table: Any, key: str) -> str | None:
            value = (table or {}).get(key)
            return value[:200] if isinstance(value, str) and value else None

        return Subject(
            name=name[:200], kind=kind, model=self.model[:200],
            manifest=manifest.digest if manifest else None,
            engine=word(engine, "engine"), device=word(engine, "device"),
            dtype=word(engine, "dtype"),
            quantization=word(engine, "quantization"),
            bytes=_bytes(manifest, word(engine, "quantization")),
            policy=word(policy, "policy"), **more,
        )  # fmt: skip


def _bytes(manifest: Manifest | None, quantization: str | None) -> int | None:
    """Of the files that are served; ``None`` where they were quantised while loading."""
    if manifest is None or manifest.quantization != quantization:
        return None
    return manifest.bytes


def base_of(url: str) -> str:
    """``url`` without ``/v1`` and what follows; ``UsageError`` if it is no address."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.username
        _ = parts.port
    except ValueError:
        good = False
    if not good:
        raise UsageError(
            f"{url[:200]!r} is no address of an endpoint",
            hint="https://HOST/v1, and the key in --api-key or LLAMA_HUB_API_KEY",
        )
    base, mark, rest = url.partition("/v1")
    return base if mark and rest.partition("/")[0] == "" else url.rstrip("/")


def probe(url: str, headers: Mapping[str, str], model: str | None = None) -> Endpoint:
    """Ask the endpoint what it is and what it can.

    ``AccessError`` for a wrong key, ``UnreachableError`` if nobody answers, ``UsageError`` if it
    has several models and none is named.
    """
    import httpx

    base = base_of(url)
    try:
        with bounded_httpx.client(
            limit=ANSWER.max_bytes, seconds=SECONDS, timeout=SECONDS, headers=dict(headers)
        ) as client:
            stated = _stated(client, base)
            name, context = _model(client, base, model, stated)
            can, why = _logprobs(client, base, name)
    except httpx.HTTPError as error:
        raise UnreachableError(
            f"{base} did not answer: {type(error).__name__}: {error}", hint="is it running?"
        ) from error
    return Endpoint(base, dict(headers), name, stated, context, can, why)


def _get(client: Any, url: str) -> Any:
    """The document at ``url``; ``None`` where there is none."""
    answer = client.get(url)
    if answer.status_code in (401, 403):
        raise AccessError(f"{url} answered {answer.status_code}", hint="--api-key KEY|@FILE")
    if answer.status_code != 200:
        return None
    return parse_json(answer.content, url, ANSWER)


def _stated(client: Any, base: str) -> Mapping[str, Any] | None:
    try:
        document = _get(client, f"{base}/manifest")
    except (AccessError, IntegrityError):  # what is no service of ours may have anything there
        return None
    known = isinstance(document, dict) and {"manifest", "version", "engine"} <= document.keys()
    return document if known else None


def _model(
    client: Any, base: str, wanted: str | None, stated: Mapping[str, Any] | None
) -> tuple[str, int | None]:
    listed = _get(client, f"{base}/v1/models")
    entries = listed.get("data") if isinstance(listed, dict) else None
    models = {
        each["id"]: each
        for each in (entries if isinstance(entries, list) else [])
        if isinstance(each, dict) and isinstance(each.get("id"), str)
    }
    if wanted is None and len(models) != 1:
        raise UsageError(
            f"{base} lists {len(models)} models at /v1/models: which one?",
            hint="--model NAME" + (f", one of {', '.join(list(models)[:8])}" if models else ""),
        )
    name = wanted or next(iter(models))
    length = models.get(name, {}).get("max_model_len")
    return name, length if isinstance(length, int) and 0 < length < 1 << 30 else None


def _logprobs(client: Any, base: str, model: str) -> tuple[bool, str]:
    """Whether there are completions at all, and why a prompt's probabilities cannot be had."""
    body = {
        "model": model, "prompt": "one two", "max_tokens": 1, "echo": True, "logprobs": 1,
        "temperature": 0,
    }  # fmt: skip
    answer = client.post(
        f"{base}/v1/completions",
        content=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    if answer.status_code in (401, 403):
        raise AccessError(
            f"{base} answered {answer.status_code}: the key is missing or wrong",
            hint="--api-key KEY|@FILE, or LLAMA_HUB_API_KEY",
        )
    if answer.status_code in (404, 405):
        return False, "the endpoint has no /v1/completions, only chat: it gives no probabilities"
    why = "the endpoint gives no log-probabilities of a prompt (echo with logprobs)"
    if answer.status_code != 200:
        return True, f"{why}: it answered {answer.status_code}"
    try:
        document = parse_json(answer.content, base, ANSWER)
        listed = document["choices"][0]["logprobs"]["token_logprobs"]
        known = len(listed) >= 2 and all(isinstance(each, int | float) for each in listed[1:])
    except (KeyError, IndexError, TypeError, IntegrityError):
        known = False
    return True, "" if known else why
