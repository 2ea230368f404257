"""``llama-hub list``, ``path``, ``remove`` and ``import``: the local store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_hub.cli import completion
from llama_hub.cli.acceptance import (
    AcceptLicense,
    ConfirmMau,
    Email,
    Flags,
    LicenseeName,
    Organization,
    TextSha256,
    acceptance,
)
from llama_hub.cli.options import CatalogFile, Json, Quiet, Yes
from llama_hub.cli.output import output, size_text
from llama_hub.cli.sources import License, Name
from llama_hub.errors import UsageError

if TYPE_CHECKING:
    from llama_hub.hub.store import Partial, StoredModel, Variant

list_app = typer.Typer(add_completion=False)
path_app = typer.Typer(add_completion=False)
remove_app = typer.Typer(add_completion=False)
import_app = typer.Typer(add_completion=False)

StoredFormat = Annotated[
    str | None, typer.Option("--format", metavar="meta|hf|gguf", help="Only in this format.")
]


@list_app.command()
def list_(json: Json = False, quiet: Quiet = False) -> None:
    """List the models in the store, and unfinished downloads."""
    from llama_hub.hub.store import Store

    out = output(json, quiet)
    store = Store()
    models, partials = store.all(), store.partials()
    document = {
        "models": [_model(one) for one in models],
        "partials": [_partial(one) for one in partials],
    }
    out.result(document, lambda: _table(models, partials))


@path_app.command()
def path(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A model in the store.", autocompletion=completion.stored
        ),
    ],
    format: StoredFormat = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """The folder of a model in the store."""
    from llama_hub.hub.store import Store

    out = output(json, quiet)
    stored = Store().find(model, stored_format(format))
    out.result(_model(stored), str(stored.path))


@remove_app.command()
def remove(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]", help="A model in the store.", autocompletion=completion.stored
        ),
    ] = None,
    format: StoredFormat = None,
    partials: Annotated[
        bool, typer.Option("--partials", help="Only unfinished downloads, of all models or MODEL.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also a model that is deployed.", show_default=False)
    ] = False,
    yes: Yes = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Delete a model from the store, or unfinished downloads."""
    from llama_hub.hub.store import Store

    out = output(json, quiet)
    store = Store()
    if partials:
        gone = store.collect_partials(model)
        freed = sum(one.bytes for one in gone)
        document: dict[str, Any] = {"partials": [_partial(one) for one in gone], "bytes": freed}
        out.result(document, f"{len(gone)} unfinished downloads deleted, {size_text(freed)} freed")
        return
    if model is None:
        raise UsageError("which model?", hint="llama-hub remove MODEL   or --partials")
    place = stored_format(format)
    entry = store.present(model, place)
    if not force:
        from llama_hub.cli.in_use import check_unused

        check_unused(entry)
    what = f"{model} ({place})" if place else f"{model} in every format"
    if entry and not yes and not out.confirm(f"Delete {what}?", flag="--yes"):
        out.result({"models": [], "bytes": 0}, "nothing was deleted")
        return
    removed = store.remove(model, place)
    freed = sum(one.manifest.bytes for one in removed)
    out.result(
        {"models": [_model(one) for one in removed], "bytes": freed},
        "\n".join(f"deleted {one.path}" for one in removed) + f"\n{size_text(freed)} freed",
    )


@import_app.command("import")
def import_(
    folder: Annotated[
        str,
        typer.Argument(
            help="What Meta's script or hf downloaded, a GGUF file, or ollama://NAME[:TAG], "
            "lmstudio://PUBLISHER/MODEL, hf://ORG/NAME (of the local cache)."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="Catalogue id; left out, the folder's name tells."),
    ] = None,
    license: License = None,
    name: Name = None,
    accept_license: AcceptLicense = False,
    licensee: LicenseeName = "",
    email: Email = "",
    organization: Organization = "",
    confirm_mau: ConfirmMau = False,
    text_sha256: TextSha256 = "",
    catalog: CatalogFile = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Import a folder or GGUF file of another tool; verified, linked rather than copied."""
    from llama_hub.cli.download import report
    from llama_hub.cli.in_use import check_unused
    from llama_hub.hub import importing_ollama
    from llama_hub.hub.catalog import load
    from llama_hub.hub.download import Job
    from llama_hub.hub.importing import (
        ImportedFolder,
        Naming,
        entry_of,
        import_folder,
        locate,
        place_of,
    )
    from llama_hub.hub.importing_gguf import ImportedFile, gguf_file_at

    out = output(json, quiet)
    catalogue = load(catalog)
    named = Path(folder)
    folder_source: ImportedFolder | None = importing_ollama.find(folder)
    if folder_source is None:
        path = place_of(folder)
        file = gguf_file_at(path)
        named = file or path
        folder_source = ImportedFolder(*locate(path)) if file is None else ImportedFile(file)
    entry, source = entry_of(folder_source, Naming(named, model, license, name), catalogue)
    flags = Flags(accept_license, licensee, email, organization, confirm_mau, text_sha256)
    with out.progress() as progress:
        job = Job(
            entry,
            source,
            folder_source.format,
            accept=acceptance(out, flags),
            progress=progress,
            replace=lambda stored: check_unused([stored]),
        )
        done = import_folder(job)
    report(out, done)


def stored_format(name: str | None) -> Variant | None:
    """The store's name for a format; ``UsageError`` if there is none such."""
    from llama_hub.hub.store import VARIANTS

    name = "meta" if name == "original" else name
    for known in VARIANTS:
        if name == known:
            return known
    if name is None:
        return None
    raise UsageError(f"there is no format {name!r}", hint=f"--format {' | '.join(VARIANTS)}")


def _model(one: StoredModel) -> dict[str, Any]:
    return {
        "id": one.id,
        "format": one.manifest.format,
        "path": str(one.path),
        "manifest": one.manifest.digest,
        "bytes": one.manifest.bytes,
        **({"quantization": kind} if (kind := one.manifest.quantization) else {}),
    }


def _partial(one: Partial) -> dict[str, Any]:
    return {"id": one.model, "format": one.format, "path": str(one.path), "bytes": one.bytes}


def _table(models: list[StoredModel], partials: list[Partial]) -> Any:
    from rich.table import Table

    if not models and not partials:
        return "the store is empty; llama-hub models lists the available models"
    table = Table(box=None, pad_edge=False)
    for name in ("model", "format", "bytes", "manifest", "path"):
        table.add_column(name, overflow="fold")
    for one in models:
        manifest = one.manifest
        table.add_row(
            one.id,
            " ".join(filter(None, (manifest.format, manifest.quantization))),
            size_text(manifest.bytes),
            manifest.digest[:19] + "…",
            str(one.path),
        )
    for part in partials:
        table.add_row(part.model, part.format, size_text(part.bytes), "unfinished", str(part.path))
    return table
