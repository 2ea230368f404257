"""``llama-hub models``: the models that can be downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llama_hub.cli import completion
from llama_hub.cli.options import CatalogFile, Json, Quiet
from llama_hub.cli.output import output, size_text
from llama_hub.hub.catalog import Catalog, Model, load

app = typer.Typer(add_completion=False)


def _show_all(catalog: Path | None, json: bool, quiet: bool) -> None:
    out = output(json, quiet)
    catalogue = load(catalog)
    out.result({"models": [_document(model) for model in catalogue]}, lambda: _table(catalogue))


@app.callback(invoke_without_command=True)
def models(
    context: typer.Context, catalog: CatalogFile = None, json: Json = False, quiet: Quiet = False
) -> None:
    """The catalogue: models, their sizes, licences and sources."""
    if context.invoked_subcommand is not None:
        return
    _show_all(catalog, json, quiet)


@app.command("list")
def list_models(catalog: CatalogFile = None, json: Json = False, quiet: Quiet = False) -> None:
    """The catalogue; the same as models alone."""
    _show_all(catalog, json, quiet)


@app.command()
def show(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A catalogue id.", autocompletion=completion.catalogued
        ),
    ],
    catalog: CatalogFile = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """All that is known of one model, and what of it is in the store."""
    from llama_hub.hub.store import Store

    out = output(json, quiet)
    found = load(catalog).get(model)
    stored = [one for one in Store().all() if one.id == found.id]
    document = _document(found) | {
        "folder": found.folder,
        "huggingface": found.huggingface,
        "huggingface_original": found.huggingface_original,
        "pinned": dict(found.digests),
        "stored": [
            {
                "format": one.manifest.format,
                "path": str(one.path),
                "manifest": one.manifest.digest,
                "receipt": one.manifest.receipt,
                "source": dict(one.manifest.source),
                "files": [entry.path for entry in sorted(one.manifest.files)],
            }
            for one in stored
        ],
    }
    out.result(document, _description(document))


def _document(model: Model) -> dict[str, Any]:
    return {
        "id": model.id,
        "family": model.family,
        "size": model.size,
        "variant": model.variant,
        "shards": model.shards,
        "context": model.context,
        "license": model.license,
        "sources": list(model.sources),
        "bytes": model.bytes,
    }


def _table(known: Catalog) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("model", "size", "variant", "shards", "context", "licence", "sources", "weights"):
        table.add_column(name, no_wrap=name != "sources")
    for model in known:
        size = size_text(model.bytes) if model.bytes else ""
        table.add_row(
            model.id,
            model.size,
            model.variant,
            str(model.shards),
            str(model.context),
            model.license,
            ", ".join(model.sources),
            size,
        )
    return table


def _description(document: dict[str, Any]) -> str:
    stored = document["stored"]
    lines = [
        f"{document['id']}: {document['family']} {document['size']} {document['variant']}, "
        f"{document['shards']} shards, context {document['context']} tokens",
        f"  weights   {size_text(document['bytes'])} in Meta's layout",
        f"  licence   {document['license']}",
        f"  sources   {', '.join(document['sources'])}",
    ]
    for key in ("huggingface", "huggingface_original"):
        if document[key]:
            lines.append(f"  {key.replace('huggingface', 'hub', 1):9} {document[key]}")
    lines += [f"  pinned    {name} {digest}" for name, digest in document["pinned"].items()]
    for one in stored:
        lines += _stored_lines(one)
    if not stored:
        lines.append(f"  not in the store; llama-hub download {document['id']}")
    return "\n".join(lines)


def _stored_lines(one: dict[str, Any]) -> list[str]:
    source = one["source"]
    origin = " ".join(
        str(source[key])
        for key in ("kind", "base", "host", "repository", "commit")
        if key in source
    )
    lines = [
        f"  here      {one['format']}: {one['path']}",
        f"            {one['manifest']}, receipt {one['receipt']}",
        f"            from {origin or 'a conversion'}",
        f"            files: {', '.join(one['files'])}",
    ]
    if source.get("lacks"):
        lines.append(f"            the source has no {', no '.join(source['lacks'])}")
    return lines
