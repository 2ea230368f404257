"""``llama-hub adapter``: LoRA adapters of the models in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_hub.cli import completion
from llama_hub.cli.options import Json, Quiet, Yes, secret
from llama_hub.cli.output import output, size_text
from llama_hub.cli.sources import Revision, Token

if TYPE_CHECKING:
    from rich.console import RenderableType

    from llama_hub.hub.adapters.store import StoredAdapter

app = typer.Typer(
    help="LoRA adapters: import, check against the base, list, remove.",
    no_args_is_help=True,
    add_completion=False,
)

Adapter = Annotated[
    str,
    typer.Argument(
        metavar="ADAPTER", help="An adapter in the store.", autocompletion=completion.adapters
    ),
]


@app.command("import")
def import_(
    place: Annotated[
        str,
        typer.Argument(
            metavar="DIR|FILE.gguf|ORG/NAME[@REV]",
            help="The folder that peft saved, a GGUF adapter, or a repository on the Hub.",
        ),
    ],
    base: Annotated[
        str,
        typer.Option(
            "--base",
            metavar="MODEL",
            help="The model in the store that it was trained on.",
            autocompletion=completion.stored,
            show_default=False,
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="ID", help="What it is called in the store."),
    ] = None,
    other_base: Annotated[
        bool,
        typer.Option(
            "--other-base",
            help="Take it although it says that it was trained on another model of the catalogue.",
        ),
    ] = False,
    token: Token = None,
    revision: Revision = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take an adapter into the store: checked against its base, under the base's licence."""
    from llama_hub.hub.adapters.importing import Request, import_adapter
    from llama_hub.hub.adapters.store import AdapterStore
    from llama_hub.hub.store import Store

    out = output(json, quiet)
    store = Store()
    with out.progress() as progress:
        request = Request(
            place, store.find(base), name, secret(token, "HF_TOKEN"), revision, other_base,
            progress=progress,
        )  # fmt: skip
        stored, reused = import_adapter(request, store, AdapterStore())
    lines = [
        f"{stored.id} is {'already ' if reused else ''}in the local store: {stored.path}",
        *_lines(stored),
        f"  look at it again with: llama-hub adapter show {stored.id}",
    ]
    out.result(_document(stored) | {"reused": reused}, "\n".join(lines))


@app.command("list")
def list_(json: Json = False, quiet: Quiet = False) -> None:
    """Adapters in the store."""
    from llama_hub.hub.adapters.store import AdapterStore

    out = output(json, quiet)
    adapters = AdapterStore().all()
    out.result({"adapters": [_document(one) for one in adapters]}, lambda: _table(adapters))


@app.command()
def show(adapter: Adapter, json: Json = False, quiet: Quiet = False) -> None:
    """One adapter: its base, its matrices, its files; exit 5 if a file was changed."""
    from llama_hub.hub.adapters.store import AdapterStore, check_files

    out = output(json, quiet)
    stored = AdapterStore().find(adapter)
    check_files(stored)
    manifest = stored.manifest
    document = _document(stored) | {
        "content": manifest.content,
        "receipt": manifest.receipt,
        "source": dict(manifest.source),
        "files": [
            {"path": e.path, "size": e.size, "sha256": e.sha256} for e in sorted(manifest.files)
        ],
        "tensors": [
            {"name": e.name, "dtype": e.dtype, "shape": list(e.shape), "sha256": e.sha256}
            for e in manifest.tensors
        ],
    }
    out.result(document, "\n".join([f"{stored.id}: {stored.path}", *_lines(stored)]))


@app.command()
def remove(adapter: Adapter, yes: Yes = False, json: Json = False, quiet: Quiet = False) -> None:
    """Delete an adapter from the store."""
    from llama_hub.hub.adapters.store import AdapterStore

    out = output(json, quiet)
    store = AdapterStore()
    if adapter in store.names() and not yes:
        if not out.confirm(f"Delete the adapter {adapter}?", flag="--yes"):
            out.result({"adapters": []}, "nothing was deleted")
            return
    folder = store.remove(adapter)
    out.result({"adapters": [{"id": adapter, "path": str(folder)}]}, f"deleted {folder}")


def _document(stored: StoredAdapter) -> dict[str, Any]:
    manifest = stored.manifest
    return {
        "id": stored.id,
        "path": str(stored.path),
        "format": manifest.format,
        "base": manifest.base.model,
        "base_manifest": manifest.base.manifest,
        "rank": manifest.rank,
        "alpha": manifest.alpha,
        "modules": len(manifest.tensors) // 2,
        "manifest": manifest.digest,
        "license": manifest.license,
        "bytes": manifest.bytes,
    }


def _lines(stored: StoredAdapter) -> list[str]:
    manifest = stored.manifest
    alpha = "several" if manifest.alpha is None else f"{manifest.alpha:g}"
    return [
        f"  rank {manifest.rank}, alpha {alpha}, {len(manifest.tensors) // 2} matrices, "
        f"{size_text(manifest.bytes)}",
        f"  base     {manifest.base.model} {manifest.base.manifest}",
        f"  manifest {manifest.digest}",
        f"  licence  {manifest.license}, receipt {manifest.receipt}",
    ]


def _table(adapters: list[StoredAdapter]) -> RenderableType:
    from rich.table import Table

    if not adapters:
        return "there is no adapter here; llama-hub adapter import DIR --base MODEL takes one in"
    table = Table(box=None, pad_edge=False)
    for name in ("adapter", "base", "rank", "alpha", "bytes", "manifest"):
        table.add_column(name, overflow="fold")
    for one in adapters:
        manifest = one.manifest
        table.add_row(
            one.id,
            manifest.base.model,
            str(manifest.rank),
            "" if manifest.alpha is None else f"{manifest.alpha:g}",
            size_text(manifest.bytes),
            manifest.digest[:19] + "…",
        )
    return table
