"""``llama-hub chat``: talk to a model, a folder, a server or a deployment."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama_hub.cli import completion
from llama_hub.cli.chat_clients import InvokedSpeaker, LocalSpeaker, RemoteSpeaker, Speaker, Style
from llama_hub.cli.conversation import Conversation, Prompt
from llama_hub.cli.options import CatalogFile, Json, Quiet, secret
from llama_hub.cli.output import Output, output
from llama_hub.cli.serve import make_engine
from llama_hub.cli.serve_options import AsChat, Context, Device, Dtype, Quantize
from llama_hub.errors import LlamaHubError, NotFoundError, UsageError

if TYPE_CHECKING:
    from llama_hub.inference.config import EngineOptions

app = typer.Typer(add_completion=False)

Target = Annotated[
    str,
    typer.Argument(
        metavar="MODEL|PATH|URL|DEPLOYMENT",
        help="Model to chat with.",
        autocompletion=completion.conversable,
    ),
]
Once = Annotated[
    str | None, typer.Option(metavar="TEXT|-", help="Ask this one thing and print the answer.")
]
System = Annotated[str | None, typer.Option(help="System prompt.")]
Temperature = Annotated[
    float | None, typer.Option(help="0 is greedy.", show_default="0.6", min=0, max=2)
]
TopP = Annotated[float | None, typer.Option(show_default="0.9", min=0, max=1)]
MaxTokens = Annotated[
    int | None, typer.Option(help="Longest answer in tokens.", show_default="what fits", min=1)
]
Seed = Annotated[int | None, typer.Option(help="Same seed, same answer.")]
Key = Annotated[
    str | None,
    typer.Option("--api-key", metavar="KEY|@FILE|-", help="Key of a server; or LLAMA_HUB_API_KEY."),
]


@app.command()
def chat(
    target: Target,
    once: Once = None,
    system: System = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    max_tokens: MaxTokens = None,
    seed: Seed = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    context: Context = None,
    force: AsChat = False,
    api_key: Key = None,
    catalog: CatalogFile = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Chat with a model, a folder, a server or a deployment."""
    out = output(json, quiet)
    if json and once is None:
        raise UsageError("--json needs --once", hint="llama-hub chat MODEL --once TEXT --json")
    question = _question(once)
    key = secret(api_key, "LLAMA_HUB_API_KEY")

    def open_speaker(called: str) -> Speaker:
        own = key if called == target else None  # no other server gets this one's key
        if called.startswith(("http://", "https://")):
            return RemoteSpeaker(called, bearer(own))
        from llama_hub.inference.config import EngineOptions

        # One person asks one thing at a time: a batch of one leaves the memory to the context.
        options = EngineOptions(
            device=device, dtype=dtype, quantize=quantize, context=context, max_batch=1
        )
        return _here_or_deployed(out, called, options, catalog, own, force)

    style = Style(temperature, top_p, max_tokens, seed)
    conversation = Conversation(open_speaker(target), style, system)
    try:
        if question is not None:
            _once(out, conversation, question)
        else:
            _greet(out, conversation.speaker)
            Prompt(out, conversation, open_speaker).run()
    finally:
        conversation.speaker.close()


def _question(once: str | None) -> str | None:
    question = sys.stdin.read() if once == "-" else once
    if question is not None and not question.strip():
        raise UsageError("the question is empty", hint="--once TEXT")
    return question


def bearer(key: str | None) -> dict[str, str]:
    """The header that carries ``key``."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def _here_or_deployed(
    out: Output,
    target: str,
    options: EngineOptions,
    catalog: Path | None,
    key: str | None,
    force: bool,
) -> Speaker:
    """A model of the store, else a deployment of that name, else a folder or file of that name."""
    from llama_hub.hub.catalog import load
    from llama_hub.hub.model_id import is_path
    from llama_hub.hub.store import Store
    from llama_hub.inference.service import served_model

    catalogue = load(catalog)
    if not is_path(target) and target not in catalogue and Store().named(target) is None:
        deployed = _deployed(target, key)
        if deployed is not None:
            return deployed
    with out.progress() as progress:
        packed = options.quantize is None
        what = served_model.stored(target, catalogue, packed=packed, progress=progress)
    if force:
        what = replace(what, served=replace(what.served, chat=True))
    if not what.served.chat:
        raise UsageError(
            f"{what.served.name} is a base model: it continues texts and was not trained to chat",
            hint=f"llama-hub serve {target}, then POST /v1/completions; or chat all the same: "
            f"llama-hub chat {target} --chat",
        )
    if what.loss:
        out.status(what.loss)
    out.status(f"loading {what.served.name} …")
    return LocalSpeaker(what, make_engine("torch", what.folder, options))


def _deployed(name: str, key: str | None) -> Speaker | None:
    from llama_hub.backends.lookup import find
    from llama_hub.deploy.backend import Invoker

    try:
        backend = find(name).backend
    except NotFoundError:
        if _is_there(name):
            return None
        raise NotFoundError(
            f"{name} is neither a model of this machine nor a deployment",
            hint="llama-hub list, llama-hub ps, or llama-hub models for what can be downloaded",
        ) from None
    except LlamaHubError:  # a backend that could not be asked
        if _is_there(name):
            return None
        raise
    if isinstance(backend, Invoker):
        return InvokedSpeaker(name, backend, backend.status(name).model or name)
    endpoint = backend.endpoint(name)
    return RemoteSpeaker(endpoint.url, {**endpoint.headers, **bearer(key)})


def _is_there(name: str) -> bool:
    """Whether a folder or a GGUF file is called so."""
    from llama_hub.hub.checkpoints import gguf_types
    from llama_hub.hub.store import path_of

    path = path_of(name)
    return path.is_dir() or gguf_types.is_file(path)


def _once(out: Output, conversation: Conversation, question: str) -> None:
    """Ask one thing; its answer is all that goes to stdout."""
    reply = conversation.ask(question, out.stream)
    document = {
        "reply": reply.text,
        "usage": reply.usage,
        "finish_reason": reply.finish_reason,
        "model": conversation.speaker.name,
    }
    if out.as_json:
        out.result(document, "")
    else:
        out.stream("\n")


def _greet(out: Output, speaker: Speaker) -> None:
    out.status(f"{speaker.name} is listening; /help for commands, Ctrl-D to leave")
    if speaker.notice:
        out.status(speaker.notice)
