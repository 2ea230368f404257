"""The target of an evaluation, opened: a model is served for it, a deployment or URL is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_hub.errors import LlamaHubError, UsageError

if TYPE_CHECKING:
    from llama_hub.cli.output import Output
    from llama_hub.evaluation.endpoint import Endpoint
    from llama_hub.evaluation.record import Subject


@dataclass(frozen=True)
class Opened:
    """An endpoint that answers, what a record says of it, and its tokenizer's folder if here."""

    endpoint: Endpoint
    subject: Subject
    folder: Path | None
    cost_per_hour: float | None = None  # US dollars


@dataclass(frozen=True)
class Wishes:
    """How a model that is here is to be served, and how others are asked."""

    serve: tuple[str, ...] = ()  # options of ``llama-hub serve``
    key: str | None = None
    model: str | None = None
    tokenizer: Path | None = None
    catalog: Path | None = None


def is_url(target: str) -> bool:
    """Whether the target is an address."""
    return target.startswith(("http://", "https://"))


def serve_options(quantize: str | None, given: list[str]) -> tuple[str, ...]:
    """Words for ``llama-hub serve``; ``UsageError`` for an option that is not free."""
    words: list[str] = [] if quantize is None else ["--quantize", quantize]
    for each in given:
        name, equals, value = each.removeprefix("--").partition("=")
        if not name or not equals or name in ("json", "port", "host", "api-key"):
            raise UsageError(
                f"--serve-option {each[:100]!r} is not OPTION=VALUE of an option that is free",
                hint="--serve-option dtype=float32",
            )
        words += [f"--{name}", value]
    return tuple(words)


@contextmanager
def opened(out: Output, target: str, wishes: Wishes) -> Iterator[Opened]:
    """The target while the block runs; what was started for it ends with it.

    The errors of ``serve`` and of the backends; ``UsageError`` for options that do not fit.
    """
    from llama_hub.cli.chat import bearer
    from llama_hub.evaluation.endpoint import probe

    if is_url(target):
        _no_serve_options(wishes, "a URL")
        endpoint = probe(target, bearer(wishes.key), wishes.model)
        yield Opened(
            endpoint, endpoint.subject(_shown(target), "endpoint"), _folder(endpoint, wishes)
        )
    elif _is_deployment(target, wishes):
        _no_serve_options(wishes, "a deployment")
        yield _deployed(target, wishes)
    else:
        with _served(out, target, wishes) as made:
            yield made


def _shown(url: str) -> str:
    return url.partition("?")[0]


def _no_serve_options(wishes: Wishes, what: str) -> None:
    if wishes.serve:
        raise UsageError(
            f"{' '.join(wishes.serve)}: {what} is served already",
            hint="such options are for a model or folder of this machine",
        )


def _is_deployment(target: str, wishes: Wishes) -> bool:
    from llama_hub.hub.catalog import load
    from llama_hub.hub.model_id import is_path
    from llama_hub.hub.store import Store

    if is_path(target) or target in load(wishes.catalog) or Store().named(target) is not None:
        return False
    from llama_hub.cli.chat import _is_there

    return not _is_there(target)


def _deployed(name: str, wishes: Wishes) -> Opened:
    from llama_hub.backends.lookup import find
    from llama_hub.cli.chat import bearer
    from llama_hub.deploy.backend import Invoker
    from llama_hub.evaluation.endpoint import probe

    backend = find(name).backend
    status = backend.status(name)
    if isinstance(backend, Invoker):
        raise UsageError(
            f"{name} runs on {status.backend}, which has no address with /v1/completions",
            hint="evaluate the model itself, or a deployment elsewhere with the same manifest",
        )
    place = backend.endpoint(name)
    endpoint = probe(place.url, {**place.headers, **bearer(wishes.key)}, wishes.model)
    more = {"backend": status.backend, "revision": status.generation}
    subject = endpoint.subject(name, "deployment", **more)
    return Opened(endpoint, subject, _folder(endpoint, wishes), status.cost_per_hour)


@contextmanager
def _served(out: Output, target: str, wishes: Wishes) -> Iterator[Opened]:
    from llama_hub.evaluation.endpoint import probe
    from llama_hub.hub.catalog import load
    from llama_hub.inference.service import served_model
    from llama_hub.inference.service.launch import launched

    packed = "--quantize" not in wishes.serve
    with out.progress() as progress:
        what = served_model.stored(target, load(wishes.catalog), packed=packed, progress=progress)
    out.status(f"serving {what.served.name} for this evaluation")
    more = () if wishes.catalog is None else ("--catalog", str(wishes.catalog))
    with launched([target, "--port", "0", *wishes.serve, *more]) as document:
        endpoint = probe(document["url"], {}, wishes.model)
        subject = replace(
            endpoint.subject(target, "model", backend="local"),
            bytes=_weights_bytes(what.folder, wishes.serve),
        )
        yield Opened(endpoint, subject, wishes.tokenizer or what.folder)


def _weights_bytes(folder: Path, options: tuple[str, ...]) -> int:
    """Of the weights in memory, by the same arithmetic that serving does."""
    from llama_hub.inference.config import EngineOptions
    from llama_hub.inference.loading import make_plan

    given = dict(zip(options[::2], options[1::2], strict=False))
    wanted: dict[str, Any] = {"quantize": given.get("--quantize")}
    if "--dtype" in given:
        wanted["dtype"] = given["--dtype"]
    chosen = EngineOptions(device="cpu", check_memory=False, **wanted)
    return make_plan(folder, chosen).fit.weights_bytes


def _folder(endpoint: Endpoint, wishes: Wishes) -> Path | None:
    """Where the tokenizer is: named, or the stored folder with the manifest that is served."""
    from llama_hub.hub.store import Store

    if wishes.tokenizer is not None:
        if not wishes.tokenizer.is_dir():
            raise UsageError(f"--tokenizer {wishes.tokenizer} is no folder")
        return wishes.tokenizer
    stated: Mapping[str, Any] = endpoint.stated or {}
    try:
        stored = Store().all()
    except LlamaHubError:
        return None
    return next((s.path for s in stored if s.manifest.digest == stated.get("manifest")), None)
