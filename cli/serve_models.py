"""Several models behind one address: ``llama-hub serve A B``, or one that is unloaded when idle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from llama_hub.child_environment import child_environment
from llama_hub.cli.output import Output
from llama_hub.errors import ProvisioningError, UsageError

if TYPE_CHECKING:
    from llama_hub.backends.local.model_front import ModelFacts, ModelFront
    from llama_hub.backends.local.model_memory import Arrangement
    from llama_hub.backends.local.model_pool import PooledModel
    from llama_hub.cli.door import Door
    from llama_hub.inference.service.served_model import Servable
    from llama_hub.inference.service.settings import ServiceSettings

SERVE = (sys.executable, "-m", "llama_hub", "serve")
MAX_MODELS = 32
# What the front does itself, or decides for each process.
_OURS = frozenset(
    "models host port api_key no_api_key served_name json quiet plan cors_origin allowed_host "
    "trusted_proxy root_path drain_timeout gpu_memory_utilization kv_cache_bytes idle_unload "
    "load_timeout check_model".split()
)


def run(
    out: Output,
    ctx: typer.Context,
    models: Mapping[str, Servable],
    settings: ServiceSettings,
    door: Door,
    *,
    plan: bool,
) -> None:
    """Serve ``models`` (by the words that name them), or only print their memory (``plan``).

    ``UsageError`` for an idle time that is none, ``NotEnoughError`` if they do not fit.
    """
    from llama_hub.backends.local.model_memory import arrange

    idle = _idle(ctx.params["idle_unload"])
    options = child_options(ctx) + ["--quiet"] * out.quiet
    out.status("reading how much memory each model needs")
    plans = _plans(list(models), options)
    needs = [
        _need(each.served.name, made) for each, made in zip(models.values(), plans, strict=True)
    ]
    memory = plans[0]["device_memory"]
    if plan:
        _print(out, models, plans)
    arrangement = arrange(needs, memory, unloads=idle is not None)
    if plan:
        return
    facts = [
        _facts(where, made, str(ctx.params["engine"]))
        for where, made in zip(models.values(), plans, strict=True)
    ]
    pooled = _pooled(
        models, plans, options, arrangement, float(ctx.params["gpu_memory_utilization"])
    )
    _serve(out, facts, pooled, arrangement, settings, door, idle, float(ctx.params["load_timeout"]))


def _idle(text: str | None) -> float | None:
    from llama_hub.deploy.spec import duration

    if text is None:
        return None
    seconds = duration(text)
    if seconds < 1:
        raise UsageError(f"--idle-unload {text!r} is no time", hint="--idle-unload 10m")
    return float(seconds)


def by_word(words: Sequence[str], models: Sequence[Servable]) -> dict[str, Servable]:
    """``models`` by the words that name them; ``UsageError`` if two have one name, or for many."""
    if not words:
        raise UsageError(
            "--idle-unload is not for what a platform mounted, which scales to zero by itself",
            hint="leave it out, or name the model",
        )
    names = [each.served.name for each in models]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(
            f"{twice} is named twice; requests choose a model by its name", hint="llama-hub list"
        )
    if len(names) > MAX_MODELS:
        raise UsageError(f"{len(names)} models in one service; at most {MAX_MODELS}")
    return dict(zip(words, models, strict=True))


def child_options(ctx: typer.Context) -> list[str]:
    """The options of this command that the process of a model gets, too, as words."""
    words: list[str] = []
    for parameter in ctx.command.params:
        value = ctx.params.get(parameter.name or "")
        if parameter.name in _OURS or value is None:
            continue
        if isinstance(value, bool):
            chosen = parameter.opts if value else parameter.secondary_opts
            words += chosen[:1]
            continue
        for each in value if isinstance(value, list | tuple) else [value]:
            words += [parameter.opts[0], str(each)]
    return words


def _plans(models: Sequence[str], options: Sequence[str]) -> list[dict[str, Any]]:
    """``serve MODEL --plan --json`` of each, in processes of their own: torch stays out of this
    one."""
    children = [
        subprocess.Popen(
            [*SERVE, model, *options, "--plan", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=child_environment(),
        )
        for model in models
    ]
    try:
        return [
            _plan(model, *child.communicate())
            for model, child in zip(models, children, strict=True)
        ]
    finally:
        for child in children:
            child.kill()
            child.wait()


def _plan(model: str, said: str, errors: str) -> dict[str, Any]:
    from llama_hub.inference.service.launch import its_own

    try:
        document: dict[str, Any] = json.loads(said)
    except ValueError as error:
        raise ProvisioningError(
            f"the memory of {model} could not be planned: {errors.strip()[-500:]}",
            hint=f"llama-hub serve {model} --plan",
        ) from error
    if "error" in document:
        raise its_own(document["error"])
    return document


def _need(name: str, made: Mapping[str, Any]) -> Any:
    from llama_hub.backends.local.model_memory import MemoryNeed

    weights, workspace = made["weights_bytes"], made["workspace_bytes"]
    return MemoryNeed(name, weights, workspace, made["least_bytes"], made["total_bytes"])


def _facts(where: Servable, made: Mapping[str, Any], engine: str) -> ModelFacts:
    from llama_hub.backends.local.model_front import ModelFacts
    from llama_hub.inference.engine import EngineInfo

    info = EngineInfo(
        engine=engine,
        device=made["device"],
        dtype=made["dtype"],
        quantization=made["quantization"],
        context=made["context"],
        vocab_size=made["vocab_size"],
        max_batch=made["max_batch"],
    )
    return ModelFacts(where.served, info)


def _pooled(
    models: Mapping[str, Servable],
    plans: Sequence[Mapping[str, Any]],
    options: Sequence[str],
    arrangement: Arrangement,
    utilization: float,
) -> list[PooledModel]:
    from llama_hub.backends.local.model_pool import PooledModel

    key = os.environ.get("LLAMA_HUB_MODERATOR_KEY")
    environment = {"LLAMA_HUB_MODERATOR_KEY": key} if key else {}
    pooled: list[PooledModel] = []
    for index, (word, where) in enumerate(models.items()):
        need = arrangement.needs[index]
        cache = need - plans[index]["weights_bytes"] - plans[index]["workspace_bytes"]
        argv = (
            *SERVE, word, *options, "--json",
            "--host", "127.0.0.1", "--port", "0", "--root-path", "",
            "--served-name", where.served.name,
            "--drain-timeout", "0",
            "--gpu-memory-utilization", f"{max(0.01, utilization * arrangement.share(index)):.4f}",
            "--kv-cache-bytes", str(max(1, cache)),
        )  # fmt: skip
        pooled.append(PooledModel(where.served.name, argv, need, environment))
    return pooled


def _serve(
    out: Output,
    facts: Sequence[ModelFacts],
    pooled: Sequence[PooledModel],
    arrangement: Arrangement,
    settings: ServiceSettings,
    door: Door,
    idle: float | None,
    patience: float,
) -> None:
    """Listen, say so when ready, serve until told to stop."""
    from llama_hub.backends.local.model_front import ModelFront, create_front
    from llama_hub.backends.local.model_pool import ModelPool
    from llama_hub.inference.service.api_key import new_key
    from llama_hub.inference.service.server import bind, run, url_of

    pool = ModelPool(
        pooled,
        memory=None if idle is None else arrangement.memory,
        idle=idle,
        patience=patience,
        secret=new_key(),
        log=lambda name, line: (out.warn if out.quiet else out.status)(f"[{name}] {line}"),
    )
    front = ModelFront(pool, facts, settings)
    bound = bind(door.host, door.port)
    url = url_of(bound)
    names = ", ".join(front.facts)
    out.status(f"listening on {url}; loading {names if idle is None else pooled[0].name}")

    def ready() -> None:
        document = _ready_document(front, url)
        if door.new_key:
            document["api_key"] = str(door.key)
        out.result(document, lambda: _ready_text(front, url, door, arrangement), compact=True)

    run(create_front(front), bound, on_ready=ready)
    out.status("stopped")


def _ready_document(front: ModelFront, url: str) -> dict[str, Any]:
    """As of one model, which is the first; and all of them."""
    first = next(iter(front.facts.values()))
    return {
        "url": url,
        "model": first.served.name,
        "manifest": first.manifest_digest,
        "engine": first.info.engine,
        "device": first.info.device,
        "dtype": first.info.dtype,
        "models": [
            {
                "model": name,
                "manifest": facts.manifest_digest,
                "state": front.pool.slots[name].word,
            }
            for name, facts in front.facts.items()
        ],
    }


def _ready_text(front: ModelFront, url: str, door: Door, arrangement: Arrangement) -> Any:
    from rich.text import Text

    lines = [f"{len(front.facts)} models are ready on {url}"]
    for (name, facts), need in zip(front.facts.items(), arrangement.needs, strict=True):
        info = facts.info
        lines.append(
            f"  {name}  {front.pool.slots[name].word}; {info.engine} on {info.device}, "
            f"{info.quantization or info.dtype}, context {info.context}, "
            f"up to {need / 2**30:.2f} GiB"
        )
    if front.pool.idle is not None:
        fit = "all fit at once" if arrangement.together else "not all fit at once"
        lines.append(f"  loaded on demand, unloaded after {front.pool.idle:.0f} s; {fit}")
    lines += [f"  chat page  {url}/", f"  API        {url}/v1   (documented on {url}/docs)"]
    if door.new_key:
        lines.append(f"  API key    {door.key}   (made for this run and shown only here)")
    notices = dict.fromkeys(facts.served.notice for facts in front.facts.values())
    lines += [f"  {notice}" for notice in notices if notice]
    return Text("\n".join(lines))


def _print(out: Output, models: Mapping[str, Servable], plans: Sequence[Mapping[str, Any]]) -> None:
    """The memory arithmetic of all."""
    rows = {each.served.name: made for each, made in zip(models.values(), plans, strict=True)}
    least = sum(made["least_bytes"] for made in plans)
    memory = plans[0]["device_memory"]
    together = memory is None or least <= memory
    document = {
        "fits": together,
        "least_bytes": least,
        "total_bytes": sum(made["total_bytes"] for made in plans),
        "device_memory": memory,
        "models": [{"model": name, **made} for name, made in rows.items()],
    }
    lines = [
        f"{name}: {made['least_bytes'] / 2**30:.2f} to {made['total_bytes'] / 2**30:.2f} GiB"
        for name, made in rows.items()
    ]
    free = "unknown" if memory is None else f"{memory / 2**30:.2f} GiB"
    verdict = "they fit together" if together else "they do not fit together"
    out.result(
        document, "\n".join([*lines, f"at least {least / 2**30:.2f} GiB; free: {free}: {verdict}"])
    )
