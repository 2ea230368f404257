"""``llama-hub verify``: is a model still what it was; ``--repair``: make it so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_hub.cli import completion
from llama_hub.cli.options import CatalogFile, Json, Quiet
from llama_hub.cli.output import output, size_text
from llama_hub.cli.sources import AllowHost, Revision, SourceName, Token, Url, wanted
from llama_hub.errors import IntegrityError

if TYPE_CHECKING:
    from pathlib import Path

    from llama_hub.hub.sources.resolve import SourceRequest
    from llama_hub.hub.verify import FileCheck, Verification
    from llama_hub.progress import Progress

app = typer.Typer(add_completion=False)


@app.command()
def verify(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|PATH", help="A model or its folder.", autocompletion=completion.stored
        ),
    ],
    format: Annotated[
        str | None, typer.Option("--format", metavar="meta|hf|gguf", help="Only in this format.")
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every tensor too, and compare its digest.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Fetch the damaged blocks again, from the source.")
    ] = False,
    source: SourceName = None,
    url: Url = None,
    token: Token = None,
    revision: Revision = None,
    allow_host: AllowHost = None,
    catalog: CatalogFile = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check a model's files against its manifest, offline; exit 5 names the damaged blocks."""
    from llama_hub.cli.store import stored_format
    from llama_hub.hub.store import Store
    from llama_hub.hub.verify import verify as check

    out = output(json, quiet)
    stored = Store().find(model, stored_format(format))
    received = 0
    with out.progress() as progress:
        verification = check(stored.path, deep=deep, progress=progress)
        if repair and verification.damaged:
            given = wanted(out, source, None, url, token, revision, allow_host)
            received = _repair(verification, given, catalog, progress)
            verification = check(stored.path, deep=deep, progress=progress)
    out.result(_document(verification, received), _text(verification, received))
    if not verification.ok:
        raise IntegrityError(
            f"{len(verification.damaged) + len(verification.damaged_tensors)} of "
            f"{len(verification.files)} files "
            f"in {verification.path} are not what the manifest says",
            hint=f"llama-hub verify {model} --repair   (fetches only what is damaged)",
        )


def _repair(
    found: Verification, given: SourceRequest, catalog: Path | None, progress: Progress
) -> int:
    from llama_hub.hub.catalog import load
    from llama_hub.hub.repair import repair
    from llama_hub.hub.sources.repository import of_manifest
    from llama_hub.hub.sources.resolve import recorded

    catalogue = load(catalog)
    unlisted = None if found.manifest.model in catalogue else of_manifest(found.manifest)
    model = unlisted or catalogue.get(found.manifest.model)
    return repair(found, model, recorded(model, found.manifest, given), progress=progress)


def _document(found: Verification, received: int) -> dict[str, Any]:
    document: dict[str, Any] = {
        "ok": found.ok,
        "path": str(found.path),
        "manifest": found.manifest.digest,
        "files": [_file(check) for check in found.files],
        "bytes_transferred": received,
    }
    if found.tensors is not None:
        document["tensors"] = {"read": found.tensors, "damaged": list(found.damaged_tensors)}
    return document


def _file(check: FileCheck) -> dict[str, Any]:
    document: dict[str, Any] = {"path": check.path, "status": check.status}
    if check.blocks:
        document["blocks"] = list(check.blocks)
    if check.detail:
        document["detail"] = check.detail
    return document


def _text(found: Verification, received: int) -> str:
    lines = [_line(check) for check in found.files if check.status != "ok"]
    lines += [f"  tensor {name} is not what the manifest says" for name in found.damaged_tensors]
    right = sum(check.status == "ok" for check in found.files)
    lines.insert(0, f"{found.path}: {'ok' if found.ok else 'DAMAGED'}, {right} files as listed")
    if found.tensors is not None:
        lines.append(f"  {found.tensors} tensors read")
    if received:
        lines.append(f"  {size_text(received)} fetched for the repair")
    return "\n".join(lines)


def _line(check: FileCheck) -> str:
    where = f", blocks {', '.join(map(str, check.blocks))} (of 16 MiB)" if check.blocks else ""
    return f"  {check.path}: {check.status}{where}" + (f", {check.detail}" if check.detail else "")
