"""``llama-hub download``: from a source into the store, verified."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
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
from llama_hub.cli.options import CatalogFile, Json, Quiet
from llama_hub.cli.output import Output, duration_text, output, size_text
from llama_hub.cli.sources import (
    AllowHost,
    FormatName,
    License,
    Name,
    Revision,
    SourceName,
    Token,
    Url,
    wanted,
)
from llama_hub.errors import UnreachableError, UsageError
from llama_hub.hub.catalog import listed

if TYPE_CHECKING:
    from llama_hub.hub.catalog import Catalog, Model
    from llama_hub.hub.download import Downloaded
    from llama_hub.hub.manifest import FileEntry, Format
    from llama_hub.hub.sources.base import FetchPlan, Source
    from llama_hub.hub.sources.repository import Request
    from llama_hub.hub.sources.resolve import SourceRequest

app = typer.Typer(add_completion=False)


@app.command()
def download(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|ORG/NAME[:FILE][@REV]",
            help="A catalogue id, or any repository of the Llama 2 family on the Hugging Face Hub "
            "(also hf://ORG/NAME); ORG/NAME:Q4_K_M is one of its GGUF files.",
            autocompletion=completion.catalogued,
        ),
    ],
    source: SourceName = None,
    url: Url = None,
    token: Token = None,
    format: FormatName = None,
    revision: Revision = None,
    allow_host: AllowHost = None,
    license: License = None,
    name: Name = None,
    files: Annotated[int, typer.Option(min=1, max=32, help="Files at a time.")] = 4,
    connections: Annotated[
        int | None,
        typer.Option(min=1, max=32, help="Ranges of one file at a time.", show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be fetched; fetch no weights.")
    ] = False,
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
    """Download a model into the store, verified; resumes an interrupted download."""
    from llama_hub.cli.in_use import check_unused
    from llama_hub.hub.catalog import load
    from llama_hub.hub.download import Job
    from llama_hub.hub.download import download as run
    from llama_hub.hub.inspection import inspect

    out = output(json, quiet)
    given = wanted(out, source, format, url, token, revision, allow_host)
    request = _request(model, given, license, name)
    if request is None:
        entry = load(catalog).get(model)
        chosen, fmt = _choose(entry, given)
    else:
        entry, chosen, fmt = _find(request, load(catalog))
    if dry_run:
        out.status(chosen.about)
        with closing(chosen):
            plan = chosen.plan(entry)
            inspect(plan)
        _show_plan(out, entry.id, fmt, plan)
        return
    flags = Flags(accept_license, licensee, email, organization, confirm_mau, text_sha256)
    with out.progress() as progress:
        job = Job(
            entry,
            chosen,
            fmt,
            accept=acceptance(out, flags),
            progress=progress,
            replace=lambda stored: check_unused([stored]),
            files=files,
            connections=connections,
        )
        done = run(job)
    report(out, done)


def _request(
    model: str, given: SourceRequest, license: str | None, name: str | None
) -> Request | None:
    """The repository that is meant; ``None`` for a model of the catalogue.

    What the store has of a repository is asked for by its name there too.
    """
    from llama_hub.hub.repository_id import RepositoryId, is_repository, parse
    from llama_hub.hub.sources.repository import Request
    from llama_hub.hub.store import Store

    repository = parse(model)
    if repository is None and not listed(model):
        stored = Store().named(model)
        source = stored.manifest.source if stored else {}
        if source.get("kind") == "huggingface" and is_repository(source.get("repository")):
            commit = None if given.revision else str(source["commit"])
            file = str(source["file"]) if "file" in source else None
            repository = RepositoryId(str(source["repository"]), commit, file)
            name = name or model
    if repository is not None:
        return Request(repository, given, license, name)
    if license or name:
        raise UsageError(
            f"--license and --name are for models outside the catalogue, not for {model!r}",
            hint="leave them out, or name a repository: ORG/NAME",
        )
    return None


def _find(request: Request, known: Catalog) -> tuple[Model, Source, Format]:
    """The model in the repository; where the Hub cannot be reached, what the store has of it."""
    from llama_hub.hub.sources.repository import find

    try:
        return find(request, known)
    except UnreachableError:
        if held := _held(request):
            return held
        raise


def _held(request: Request) -> tuple[Model, Source, Format] | None:
    """What the store has of the repository, if it is of the revision that was asked for."""
    from llama_hub.hub.sources.hub_gguf import type_of
    from llama_hub.hub.sources.repository import of_manifest
    from llama_hub.hub.sources.resolve import recorded
    from llama_hub.hub.store import Store

    variant = type_of(request.repository.file or "")
    stored = Store().named(request.name or request.repository.variant_id(variant))
    entry = of_manifest(stored.manifest) if stored else None
    if stored is None or entry is None:
        return None
    repository, commit = (str(stored.manifest.source.get(key)) for key in ("repository", "commit"))
    asked = request.repository.revision or request.source.revision
    if repository.lower() != request.repository.name.lower() or asked not in (None, commit):
        return None
    return entry, recorded(entry, stored.manifest, request.source), stored.manifest.format


def _choose(model: Model, given: SourceRequest) -> tuple[Source, Format]:
    """The source that was named; without one, that of what is in the store already."""
    from llama_hub.hub.catalog import SOURCES
    from llama_hub.hub.manifest import FORMATS
    from llama_hub.hub.sources.resolve import choose, named, recorded
    from llama_hub.hub.store import Store

    for fmt in () if named(given) else FORMATS:
        stored = Store().complete(model.id, fmt) if given.format in (None, fmt) else None
        if stored and stored.manifest.source.get("kind") in SOURCES:
            return recorded(model, stored.manifest, given), fmt
    return choose(model, given)


def report(out: Output, done: Downloaded) -> None:
    """The answer of ``download`` and of ``import``."""
    manifest = done.manifest
    document = {
        "model": manifest.model,
        "path": str(done.path),
        "manifest": manifest.digest,
        "receipt": done.receipt,
        "source": manifest.source.get("kind"),
        "format": manifest.format,
        "bytes": manifest.bytes,
        "bytes_transferred": done.received,
        "seconds": round(done.seconds, 3),
        "reused": done.reused,
        "lacks": list(done.lacks),
        "files": [_file(entry) for entry in sorted(manifest.files)],
    }
    out.result(document, _summary(done))


def _file(entry: FileEntry) -> dict[str, Any]:
    document: dict[str, Any] = {"path": entry.path, "size": entry.size, "sha256": entry.sha256}
    if entry.md5:
        document["md5"] = entry.md5
    return document | {"pinned": entry.pinned}


def _summary(done: Downloaded) -> str:
    manifest = done.manifest
    if done.reused:
        return (
            f"{manifest.model} is already in the local store: {done.path}\n"
            f"  check its bytes with: llama-hub verify {manifest.model}"
        )
    pinned = sum(entry.pinned for entry in manifest.files)
    pinning = f", {pinned} against digests pinned in llama-hub" if pinned else ""
    lines = [
        f"{manifest.model} is in the local store, verified: {done.path}",
        f"  {size_text(manifest.bytes)} in {len(manifest.files)} files{pinning}; "
        f"{size_text(done.received)} fetched in {duration_text(done.seconds)}",
        f"  manifest {manifest.digest}",
        f"  receipt  {done.receipt}",
    ]
    if done.lacks:
        lines.append(f"  the source has no {', no '.join(done.lacks)}")
    lines.append(f"  next: llama-hub serve {manifest.model}   or llama-hub chat {manifest.model}")
    return "\n".join(lines)


def _show_plan(out: Output, model: str, fmt: Format, plan: FetchPlan) -> None:
    document = {
        "model": model,
        "format": fmt,
        "source": dict(plan.source),
        "bytes": plan.size,
        "lacks": list(plan.lacks),
        "files": [
            {
                "path": file.path,
                "size": file.size,
                "digests": dict(file.digests),
                "pinned": file.pinned,
            }
            for file in plan.files
        ],
    }
    out.result(document, "\n".join(_plan_lines(document["files"], plan)))


def _plan_lines(files: Any, plan: FetchPlan) -> Sequence[str]:
    lines = [f"{size_text(plan.size)} in {len(files)} files; nothing was fetched"]
    for file in files:
        checked = ", ".join(file["digests"]) or "no digest"
        pinning = " (pinned)" if file["pinned"] else ""
        lines.append(f"  {file['path']:36} {size_text(file['size']):>10}  {checked}{pinning}")
    return lines
