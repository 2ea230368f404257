"""``llama-hub serve``: one model behind every API, on this machine or in a cloud's container."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from llama_hub.cli.door import Door, open_door
from llama_hub.cli.options import CatalogFile, Json, Quiet
from llama_hub.cli.output import Output, output
from llama_hub.cli.printable import PrintableFormatter
from llama_hub.cli.serve_options import (
    EVERYWHERE,
    MAX_SERVED_NAME,
    AllowedHost,
    ApiKey,
    AsChat,
    CheckModel,
    Context,
    CorsOrigin,
    Device,
    DrainTimeout,
    Dtype,
    EngineName,
    GpuMemoryUtilization,
    Host,
    IdleUnload,
    KvCacheBytes,
    LoadTimeout,
    LogPrompts,
    MaxBatch,
    MaxPrompt,
    MaxQueue,
    Models,
    ModerationMode,
    Moderator,
    NoApiKey,
    ParseSpecial,
    PlanOnly,
    Port,
    Quantize,
    RequestTimeout,
    RootPath,
    ServedName,
    Speculate,
    Strict,
    TensorParallel,
    TrustedProxy,
)
from llama_hub.errors import UsageError

if TYPE_CHECKING:
    from llama_hub.inference.config import EngineOptions
    from llama_hub.inference.engine import Engine, EngineInfo
    from llama_hub.inference.service.platforms.container import Platform
    from llama_hub.inference.service.served_model import Servable
    from llama_hub.inference.service.settings import Moderation

app = typer.Typer(add_completion=False)
_MODES = {"before": "is judged before generation", "parallel": "is judged beside generation"}


@app.command()
def serve(
    ctx: typer.Context,
    models: Models = None,
    host: Host = None,
    port: Port = None,
    engine: EngineName = "torch",
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    context: Context = None,
    max_batch: MaxBatch = 16,
    tensor_parallel: TensorParallel = 1,
    gpu_memory_utilization: GpuMemoryUtilization = 0.92,
    kv_cache_bytes: KvCacheBytes = None,
    speculate: Speculate = None,
    idle_unload: IdleUnload = None,
    load_timeout: LoadTimeout = 120.0,
    api_key: ApiKey = None,
    no_api_key: NoApiKey = False,
    max_queue: MaxQueue = 256,
    max_prompt: MaxPrompt = None,
    request_timeout: RequestTimeout = 600.0,
    drain_timeout: DrainTimeout = 25.0,
    cors_origin: CorsOrigin = None,
    allowed_host: AllowedHost = None,
    trusted_proxy: TrustedProxy = None,
    root_path: RootPath = "",
    check_model: CheckModel = False,
    strict: Strict = False,
    served_name: ServedName = None,
    log_prompts: LogPrompts = False,
    parse_special: ParseSpecial = True,
    moderator: Moderator = None,
    moderation_mode: ModerationMode = None,
    chat: AsChat = False,
    plan: PlanOnly = False,
    catalog: CatalogFile = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Serve models: OpenAI, SageMaker, Azure ML and Hugging Face routes, a chat page.

    Without MODEL it serves what a cloud mounted (/opt/ml/model, AZUREML_MODEL_DIR, /repository,
    or LLAMA_HUB_MODEL_DIR). In a container, options are set by variables of the same name:
    LLAMA_HUB_CONTEXT=2048, LLAMA_HUB_MAX_BATCH=8 and so on. Several models have a process each
    behind the one address, and requests choose by `model`.
    """
    out = output(json, quiet)
    from llama_hub.inference.config import EngineOptions
    from llama_hub.inference.service.settings import ServiceSettings

    options = EngineOptions(
        device=device,
        dtype=dtype,
        quantize=quantize,
        context=context,
        max_batch=max_batch,
        max_queue=max_queue + max_batch,
        tensor_parallel=tensor_parallel,
        gpu_memory_utilization=gpu_memory_utilization,
        kv_cache_bytes=kv_cache_bytes,
        speculate=speculate,
    )
    several = len(models or ()) > 1 or idle_unload is not None
    moderators, moderation = _moderators(out, moderator or [], moderation_mode)
    packed = engine == "torch" and quantize is None
    found = [_what(out, model, catalog, packed=packed) for model in (models or (None,))]
    where, platform = found[0]
    if served_name is not None:
        _check_name(served_name, several=len(found) > 1)
        where = replace(where, served=replace(where.served, name=served_name))
    chosen = [where, *(each for each, _ in found[1:])]
    if chat:
        chosen = [replace(each, served=replace(each.served, chat=True)) for each in chosen]
    for each in chosen:
        if each.loss:
            out.status(each.loss)
    if plan and not several:
        _print_plan(out, where.folder, options)
        return
    door = open_door(host, port, platform, api_key, no_api_key)
    settings = ServiceSettings(
        api_key=door.key,
        check_host=door.check_host,
        check_model=check_model,
        strict=strict,
        cors_origins=tuple(cors_origin or ()),
        allowed_hosts=tuple(allowed_host or ()),
        trusted_proxies=_proxies(trusted_proxy),
        root_path=_root(root_path),
        max_prompt_tokens=max_prompt,
        max_queue=max_queue,
        request_timeout=request_timeout,
        drain_timeout=drain_timeout,
        log_prompts=log_prompts,
        parse_special=parse_special,
        moderators=moderators,
        moderation=moderation,
    )
    _log_to_stderr(quiet)
    if several:
        from llama_hub.cli import serve_models

        by_word = serve_models.by_word(models or [], chosen)
        serve_models.run(out, ctx, by_word, settings, door, plan=plan)
        return
    _run(out, chosen[0], lambda: make_engine(engine, where.folder, options), settings, door)


def _proxies(named: list[str] | None) -> tuple[str, ...]:
    from llama_hub.inference.service.proxies import networks
    from llama_hub.inference.service.settings import ServiceSettings

    networks(named or ())
    return (*ServiceSettings().trusted_proxies, *(named or ()))


def _root(path: str) -> str:
    if path and not (path.startswith("/") and path.isprintable()):
        raise UsageError(f"--root-path {path!r} must begin with /", hint="--root-path /llama")
    return path


def _check_name(name: str, *, several: bool) -> None:
    if several:
        raise UsageError(
            "--served-name is for one model; several have the names that they have in the store",
            hint="llama-hub list",
        )
    if not name.isprintable() or not 0 < len(name) <= MAX_SERVED_NAME:
        raise UsageError(
            f"--served-name must be 1 to {MAX_SERVED_NAME} printable characters",
            hint="clients send it as `model`",
        )


def _what(
    out: Output, model: str | None, catalog: Path | None, *, packed: bool
) -> tuple[Servable, Platform | None]:
    """The model that is named, else the one that the platform mounted."""
    from llama_hub.hub.catalog import load
    from llama_hub.inference.service import served_model
    from llama_hub.inference.service.platforms import container

    catalogue = load(catalog)
    if model is not None:
        with out.progress() as progress:
            return served_model.stored(model, catalogue, packed=packed, progress=progress), None
    platform = container.detect()
    if platform is None:
        raise UsageError(
            "which model? No platform has mounted one here",
            hint="llama-hub serve llama-demo-chat   (llama-hub list shows what is there)",
        )
    out.status(f"{platform.name or 'container'}: serving {platform.folder}")
    return served_model.mounted(platform.folder, catalogue), platform


def _moderators(
    out: Output, named: list[str], mode: Literal["before", "parallel"] | None
) -> tuple[tuple[Any, ...], Moderation]:
    """Those of the policy, then those of installed packages."""
    from llama_hub.inference.service import moderation
    from llama_hub.inference.service.moderators import policy
    from llama_hub.inference.service.settings import Moderation

    handed = os.environ.get(policy.VARIABLE)
    chosen = policy.Policy()
    if named:
        chosen = policy.from_words(named)
    elif handed:
        chosen = policy.from_variable(handed)
    chosen = replace(chosen, mode=mode or chosen.mode)
    moderators = (*chosen.moderators(), *moderation.installed().values())
    if moderators:
        names = ", ".join(moderation.name_of(each) for each in moderators)
        out.status(f"moderation: {names}; the prompt {_MODES[chosen.mode]}")
    elif mode is not None:
        raise UsageError(
            "--moderation-mode without a moderator", hint="--moderator words:FILE, or a policy"
        )
    return moderators, Moderation(chosen.mode, chosen.digest if chosen.rules else None)


def make_engine(name: str, folder: Path, options: EngineOptions) -> Engine:
    """The engine called ``name`` (torch or vllm) for ``folder``, not started yet."""
    if name == "vllm":
        from llama_hub.inference.vllm_engine import VllmEngine

        return VllmEngine(folder, options)
    from llama_hub.inference.torch_engine import TorchEngine

    return TorchEngine(folder, options)


def _run(
    out: Output, what: Servable, make: Callable[[], Engine], settings: Any, door: Door
) -> None:
    """Listen, say so when ready, serve until told to stop."""
    from llama_hub.inference.service.server import bind

    # Before the engine's module imports torch: a port that is taken is told seconds earlier.
    with closing(bind(door.host, door.port)) as bound:
        _serve(out, what, make(), settings, door, bound)


def _serve(
    out: Output, what: Servable, engine: Engine, settings: Any, door: Door, bound: socket.socket
) -> None:
    from llama_hub.inference.service.app import create_app
    from llama_hub.inference.service.server import run, url_of
    from llama_hub.inference.tokenizer import tokenizer_of

    app = create_app(engine, tokenizer_of(what.folder), what.served, settings)
    url = url_of(bound)
    out.status(f"listening on {url}; loading {what.served.name} from {what.folder}")

    def ready() -> None:
        info = engine.info
        document = {
            "url": url,
            "model": what.served.name,
            "manifest": what.manifest.digest,
            "engine": info.engine,
            "device": info.device,
            "dtype": info.dtype,
        }
        if door.new_key:
            document["api_key"] = str(door.key)
        out.result(document, lambda: _ready_text(what, engine, url, door), compact=True)

    run(app, bound, on_ready=ready, on_report=out.status)
    out.status("stopped")


def _ready_text(what: Servable, engine: Engine, url: str, door: Door) -> Any:
    from rich.text import Text

    from llama_hub.inference.service.auth import is_loopback

    info, memory = engine.info, engine.stats().memory_bytes / 2**30
    lines = [
        f"{what.served.name} is ready on {url}",
        f"  {_computed(info)} on {info.device}, {info.quantization or info.dtype}, "
        f"context {info.context}, {memory:.2f} GiB for weights and cache",
        f"  chat page  {url}/",
        f"  API        {url}/v1   (documented on {url}/docs)",
    ]
    if not is_loopback(door.host):
        port = url.rpartition(":")[2]
        lines.append(f"  network    port {port} of {_address(door.host)}")
    if door.new_key:
        lines.append(f"  API key    {door.key}   (made for this run and shown only here)")
    if what.served.notice:
        lines.append(f"  {what.served.notice}")
    return Text("\n".join(lines))


def _address(host: str) -> str:
    """Where other machines reach the server."""
    if host in (EVERYWHERE, "::"):
        return f"every address of this machine ({socket.gethostname()})"
    return host


def _computed(info: EngineInfo) -> str:
    """The engine; where every step is computed in one way, that too."""
    mode = info.step_modes.get("all")
    return info.engine if mode in (None, info.engine) else f"{info.engine}, {mode},"


def _log_to_stderr(quiet: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("llama_hub")
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)


def _print_plan(out: Output, folder: Path, options: EngineOptions) -> None:
    """The memory arithmetic; ``NotEnoughError`` (exit 7) after it if the model does not fit."""
    from llama_hub.inference.loading import make_plan

    plan = make_plan(folder, replace(options, check_memory=False))
    fit, grows = plan.fit, plan.device.type == "cpu"
    document = {
        "fits": fit.fits,
        "device": str(plan.device),
        "vocab_size": plan.architecture.vocab_size,
        "weights_bytes": fit.weights_bytes,
        "kv_bytes": fit.kv_bytes,
        "least_kv_bytes": fit.least_kv_bytes,
        "workspace_bytes": fit.workspace_bytes,
        "total_bytes": fit.total_bytes,
        "least_bytes": fit.least_bytes,
        "kv_grows": grows,
        "device_memory": fit.device_memory,
        "dtype": fit.dtype,
        "quantization": fit.quantization,
        "context": fit.context,
        "max_batch": fit.max_batch,
        "alternatives": fit.alternatives() if not fit.fits else [],
    }
    verdict = "it fits" if fit.fits else "it does not fit"
    growth = "\nthe KV cache takes memory as it is written, nothing at the start"
    out.result(document, f"{fit.explain()}: {verdict}{growth if grows else ''}")
    fit.require()
