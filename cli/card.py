"""``llama-hub card``: what a reader and an auditor want to know of a model or deployment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_hub.cli import completion
from llama_hub.cli.options import CatalogFile, Json, Quiet
from llama_hub.cli.output import output
from llama_hub.errors import LlamaHubError, NotFoundError
from llama_hub.files import write_atomic

if TYPE_CHECKING:
    from llama_hub.evaluation.card import About
    from llama_hub.hub.manifest import Manifest
    from llama_hub.hub.store import StoredModel
    from llama_hub.licenses.ledger import Receipt

app = typer.Typer(add_completion=False)
SIZES = ("dim", "n_layers", "n_heads", "n_kv_heads", "ffn_dim")


@app.command()
def card(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|DEPLOYMENT",
            help="A model of the store, a folder, or a deployment.",
            autocompletion=completion.stored,
        ),
    ],
    evaluations: Annotated[
        list[Path] | None,
        typer.Option(
            "--eval", metavar="RECORD", help="Record of eval or redteam; repeat it.",
            show_default="those on this machine of the same manifest",
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write it as one HTML file.")] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Write it as Markdown.")
    ] = None,
    catalog: CatalogFile = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """The transparency card of a model or deployment: every line with its source."""
    from llama_hub.evaluation import card as cards

    out = output(json, quiet)
    about = _about(target, evaluations, catalog)
    for path, make in ((html, cards.html), (markdown, cards.markdown)):
        if path is not None:
            write_atomic(path, make(about).encode())
            out.status(f"wrote {path}")
    out.result(cards.to_json(about), cards.markdown(about))


def _about(target: str, evaluations: list[Path] | None, catalog: Path | None) -> About:
    from llama_hub.evaluation.card import About
    from llama_hub.hub.catalog import load
    from llama_hub.hub.release_items import terms_of
    from llama_hub.hub.store import Store

    stored: StoredModel | None = None
    stated: Mapping[str, Any] = {}
    try:
        stored = Store().find(target)
        manifest = stored.manifest
    except NotFoundError as missing:
        manifest, stated = _deployed(target, missing)
    catalogue = load(catalog)
    evals, replays = _records(_kin(manifest, stored), evaluations)
    policy = stated.get("moderation")
    return About(
        manifest=manifest,
        license=terms_of(manifest.license),
        catalog=catalogue.get(manifest.model) if manifest.model in catalogue else None,
        receipt=_receipt(manifest),
        function=_function(stored),
        records=evals,
        redteams=replays,
        deployment=_words(stated),
        policy=str(policy.get("policy") or policy.get("moderators"))
        if isinstance(policy, Mapping)
        else None,
    )


def _deployed(name: str, missing: NotFoundError) -> tuple[Manifest, Mapping[str, Any]]:
    """What a deployment states of itself; the error of the store if there is none of that name."""
    from llama_hub.backends.lookup import find
    from llama_hub.deploy import client
    from llama_hub.deploy.backend import Invoker
    from llama_hub.evaluation.endpoint import base_of
    from llama_hub.hub.manifest import parse

    try:
        backend = find(name).backend
    except NotFoundError:
        raise missing from None
    endpoint = backend.endpoint(name)
    if isinstance(backend, Invoker):
        raise NotFoundError(
            f"{name} has no address that states its manifest",
            hint="llama-hub card MODEL, and llama-hub attest for the deployment",
        )
    stated = client.get(endpoint, "/manifest")
    document = stated.get("document") if isinstance(stated, Mapping) else None
    if document is None:
        raise NotFoundError(f"{name} states no manifest at /manifest", hint="llama-hub attest NAME")
    manifest = parse(document, f"{base_of(endpoint.url)}/manifest")
    status = backend.status(name)
    more = {"name": name, "backend": status.backend, "revision": status.generation}
    return manifest, {**stated, **more}


def _words(stated: Mapping[str, Any]) -> dict[str, str]:
    engine = stated.get("engine") if isinstance(stated.get("engine"), Mapping) else {}
    told = {key: stated.get(key) for key in ("name", "backend", "revision", "version")}
    told |= {key: (engine or {}).get(key) for key in ("engine", "device", "dtype", "quantization")}
    return {key: str(value)[:200] for key, value in told.items() if value is not None}


def _kin(manifest: Manifest, stored: StoredModel | None) -> frozenset[str]:
    """Digests of the same weights in other forms: what a record of this model may be of."""
    from llama_hub.hub.store import Store

    forms = [] if stored is None else Store().present(stored.id)
    others = [each.manifest for each in forms]
    same = {manifest.digest, manifest.parent}
    same |= {each.digest for each in others if same & {each.digest, each.parent}}
    return frozenset(digest for digest in same if digest is not None)


def _records(kin: frozenset[str], given: list[Path] | None) -> tuple[list[Any], list[Any]]:
    from llama_hub.evaluation import found_records, record, redteam

    if given is None:
        return found_records.evaluations(kin), found_records.replays(kin)
    evals: list[Any] = []
    replays: list[Any] = []
    for path in given:
        is_replay = (path / redteam.RECORD if path.is_dir() else path).name == redteam.RECORD
        if is_replay and (not path.is_dir() or not (path / record.RECORD).is_file()):
            replays.append(_of(kin, redteam.read(path), path))
        else:
            evals.append(_of(kin, record.read(path), path))
    return evals, replays


def _of(kin: frozenset[str], read: Any, path: Path) -> Any:
    """The record; an error if it is of other weights: a card must not show another's scores."""
    from llama_hub.errors import IntegrityError

    if read.subject.manifest not in kin:
        raise IntegrityError(
            f"{path} is of the manifest {read.subject.manifest}, not of {', '.join(sorted(kin))}",
            hint="evaluate this model, or name its own record",
        )
    return read


def _receipt(manifest: Manifest) -> Receipt | None:
    from llama_hub.licenses.gate import Gate

    try:
        receipts = Gate().ledger.receipts()
    except LlamaHubError:
        return None
    return next((each for each in receipts if each.id == manifest.receipt), None)


def _function(stored: StoredModel | None) -> Mapping[str, Any]:
    """The architecture's numbers, as the folder states them."""
    from llama_hub.hub.checkpoints import open_checkpoint

    if stored is None:
        return {}
    try:
        with open_checkpoint(stored.path, quantised=True) as opened:
            shape = opened.architecture
            sizes = {key: getattr(shape, key) for key in SIZES}
            return {**sizes, "context": shape.context, **shape.function()}
    except LlamaHubError:
        return {}
