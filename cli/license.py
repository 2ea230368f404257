"""``llama-hub license``: read terms, accept them, and prove it."""

from __future__ import annotations

import json as json_format
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
from llama_hub.cli.output import output
from llama_hub.errors import NotFoundError, UsageError
from llama_hub.licenses import gate, terms, wording
from llama_hub.licenses.ledger import Ledger, Receipt, in_force
from llama_hub.licenses.terms import License

if TYPE_CHECKING:
    from rich.console import RenderableType

app = typer.Typer(
    help="Read the licences of models, accept them, and prove it.",
    no_args_is_help=True,
    add_completion=False,
)

Name = Annotated[
    str,
    typer.Argument(
        metavar="LICENSE|MODEL",
        help="A licence, or a model under it.",
        autocompletion=completion.licensed,
    ),
]
OptionalName = Annotated[
    str | None,
    typer.Argument(
        metavar="[LICENSE|MODEL]", help="Only this licence.", autocompletion=completion.licensed
    ),
]


@app.command("list")
def list_(json: Json = False, quiet: Quiet = False) -> None:
    """Licences that llama-hub knows."""
    out = output(json, quiet)
    licenses = terms.all_licenses()
    rows = [(one.id, one.name, one.version_date, "yes" if one.gated else "no") for one in licenses]
    out.result(
        {"licenses": [one.to_json() for one in licenses]},
        lambda: _table(("licence", "name", "version", "must be accepted"), rows),
    )


@app.command()
def show(name: Name, catalog: CatalogFile = None, json: Json = False, quiet: Quiet = False) -> None:
    """What a licence asks for, in our words; the text itself comes with the model."""
    out = output(json, quiet)
    license = _find(name, catalog)
    out.result(license.to_json(), _description(license))


@app.command()
def accept(
    name: Name,
    text_file: Annotated[
        Path | None,
        typer.Option(help="The licence text that you received, usually called LICENSE."),
    ] = None,
    policy_file: Annotated[
        Path | None, typer.Option(help="The acceptable use policy, usually USE_POLICY.md.")
    ] = None,
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
    """Accept a licence; each time makes a new receipt in the ledger."""
    out = output(json, quiet)
    license = _find(name, catalog)
    texts = _texts(license, text_file, policy_file)
    flags = Flags(accept_license, licensee, email, organization, confirm_mau, text_sha256)
    guard = gate.Gate()
    receipt = guard.accept(license, texts, acceptance(out, flags))
    out.result(
        {"license": license.id, "accepted": True, "receipt": receipt.to_json()},
        f"accepted {license.id}: receipt {receipt.id}, ledger {guard.ledger.path}",
    )


@app.command()
def revoke(
    name: Name,
    yes: Yes = False,
    catalog: CatalogFile = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Record that an agreement ended: what is under it no longer converts, serves or deploys."""
    out = output(json, quiet)
    license = _find(name, catalog)
    question = f"Has your agreement under {license.id} ended?"
    if not yes and not out.confirm(question, flag="--yes"):
        out.result({"license": license.id, "ended": False}, "nothing was changed")
        return
    from llama_hub.hub.store import Store

    receipt = gate.Gate().end(license.id)
    kept = [found for found in Store().all() if found.manifest.license == license.id]
    for found in kept:
        out.warn(f"still here: {found.path}; llama-hub remove {found.id}")
    out.result(
        {
            "license": license.id,
            "ended": True,
            "receipt": receipt.id,
            "kept": [str(one.path) for one in kept],
        },
        f"ended {license.id}: recorded as {receipt.id}; running deployments: llama-hub ps",
    )


@app.command()
def status(
    name: OptionalName = None,
    catalog: CatalogFile = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Which licences are accepted on this machine, by whom and when."""
    out = output(json, quiet)
    shown = [_find(name, catalog)] if name else terms.all_licenses()
    latest = {receipt.license: receipt for receipt in in_force(Ledger().receipts())}
    rows = [_status(one, latest.get(one.id)) for one in shown]
    out.result({"licenses": rows}, lambda: _status_table(rows))


@app.command()
def log(json: Json = False, quiet: Quiet = False) -> None:
    """Every receipt in the ledger, oldest first."""
    out = output(json, quiet)
    ledger = Ledger()
    receipts, head = ledger.receipts(), ledger.head
    note = f"head {head}   (note it elsewhere: llama-hub license verify --expect-head {head[:12]}…)"
    entries = "\n\n".join([*map(_entry, receipts), note])
    out.result(
        {"receipts": [one.to_json() for one in receipts]} | ({"head": head} if receipts else {}),
        entries if receipts else "no licence was accepted here yet",
    )


@app.command()
def verify(
    expect_head: Annotated[
        str | None,
        typer.Option(
            metavar="HASH", help="A head noted earlier, which the ledger must contain still."
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check that no receipt and no accepted text was changed since it was written."""
    out = output(json, quiet)
    audit = Ledger().verify(expect_head and expect_head.strip().lower().removeprefix("sha256:"))
    for note in audit.notes:
        out.warn(note)
    document = {"ok": True, "receipts": audit.count, "texts": audit.texts, "head": audit.head}
    out.result(
        document | {"notes": list(audit.notes)},
        f"ok: {audit.count} receipts and {audit.texts} texts are as they were written\n"
        f"head {audit.head}   (note it elsewhere; --expect-head checks against it)",
    )


@app.command()
def export(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A model or its folder; everything without it.", autocompletion=completion.stored
        ),
    ] = None,
    format: Annotated[
        Literal["json", "in-toto", "cyclonedx"], typer.Option(help="Form of the statement.")
    ] = "json",
    to: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file instead of standard output.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """A statement of models, digests and acceptances, for a compliance officer."""
    out = output(json, quiet)
    from llama_hub.files import write_atomic
    from llama_hub.hub import sbom as statement
    from llama_hub.hub.store import Store

    evidence = statement.gather(Ledger(), Store(), model)
    for missing in evidence.unlicensed:
        out.warn(f"{missing.model} ({missing.format}) has no receipt in force in this ledger")
    document = statement.FORMATS[format](evidence)
    text = json_format.dumps(document, indent=2, ensure_ascii=False)
    if to is None:
        out.result(document, text)
        return
    write_atomic(to.absolute(), text.encode() + b"\n")
    counts = {"models": len(evidence.models), "receipts": len(evidence.receipts)}
    out.result(
        {"path": str(to.absolute()), "format": format, **counts},
        f"wrote {to}: {counts['models']} models, {counts['receipts']} receipts",
    )


def _find(name: str, catalog_file: Path | None) -> License:
    """The licence ``name``, or the one of the model ``name``."""
    if name in {license.id for license in terms.all_licenses()}:
        return terms.load(name)
    from llama_hub.hub import catalog

    models = catalog.load(catalog_file)
    if name in models:
        return terms.load(models.get(name).license)
    raise NotFoundError(
        f"{name!r} is neither a licence nor a model",
        hint="llama-hub license list   or llama-hub models",
    )


def _texts(license: License, text_file: Path | None, policy_file: Path | None) -> gate.Texts:
    if text_file is None:
        raise UsageError(
            f"the text of {license.id} is needed: it is not part of llama-hub",
            hint="give --text-file LICENSE, or run llama-hub download, which fetches, shows and "
            f"records it; published at {license.url or 'the place where you got the model'}",
        )
    return gate.Texts(
        license=wording.read(text_file.expanduser()),
        policy=wording.read(policy_file.expanduser()) if policy_file else None,
        source={"kind": "file", "name": text_file.name},
    )


def _description(license: License) -> str:
    facts = {
        "id": license.id,
        "SPDX": license.spdx,
        "from": license.licensor,
        "version": license.version_date,
        "accept": "needed before download, convert, serve, deploy"
        if license.gated
        else "not needed",
        "users": f"at most {license.mau_limit:,} a month" if license.mau_limit else "",
        "NOTICE": license.notice,
        "text": license.url,
        "policy": license.policy_url,
    }
    lines = [license.name, *(f"  {key:<8} {value}" for key, value in facts.items() if value)]
    lines += ["  In short, and without replacing the text:"]
    lines += [f"   - {line}" for line in license.obligations]
    for digest, name in {**license.known_licenses, **license.known_policies}.items():
        lines.append(f"  known    {digest}  {name}")
    return "\n".join(lines)


def _status(license: License, receipt: Receipt | None) -> dict[str, Any]:
    licensee = receipt.to_json()["licensee"] if receipt else None
    return {
        "id": license.id,
        "accepted": receipt is not None or not license.gated,
        "gated": license.gated,
        "receipt": receipt.id if receipt else None,
        "licensee": licensee,
        "at": receipt.at if receipt else None,
    }


def _status_table(rows: Sequence[dict[str, Any]]) -> RenderableType:
    cells = [
        (
            row["id"],
            ("yes" if row["gated"] else "not needed") if row["accepted"] else "no",
            row["receipt"] or "",
            row["licensee"]["name"] if row["licensee"] else "",
            row["at"] or "",
        )
        for row in rows
    ]
    return _table(("licence", "accepted", "receipt", "licensee", "when (UTC)"), cells)


def _entry(receipt: Receipt) -> str:
    """A receipt in a few lines."""
    if receipt.method == "ended":
        return f"{receipt.id}  {receipt.license}  {receipt.at}\n  the agreement ended"
    wording = receipt.wording or ("wording not known" if receipt.license_sha256 else "no text")
    lines = [
        f"{receipt.id}  {receipt.license}  {receipt.at}",
        f"  by       {_who(receipt)}",
        f"  text     {wording}",
        f"  SHA-256  {receipt.license_sha256 or 'none'}",
        f"  policy   {receipt.policy_sha256 or 'none'}",
        f"  from     {', '.join(receipt.source.values()) or 'nowhere'}",
        f"  with     {receipt.tool}",
    ]
    return "\n".join(lines)


def _who(receipt: Receipt) -> str:
    if receipt.licensee is None:
        return "nobody: the licence is open"
    who = f"{receipt.licensee.name} <{receipt.licensee.email}>"
    return f"{who} for {receipt.licensee.organization}" if receipt.licensee.organization else who


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: brackets in a name are no markup
    return table
