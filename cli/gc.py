"""``llama-hub gc``: what is left over and costs money all the same."""

from __future__ import annotations

import json as json_format
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_hub.cli import planned
from llama_hub.cli.deploy import Timeout
from llama_hub.cli.options import At, Json, Quiet, Region, Yes, where
from llama_hub.cli.output import Output, output
from llama_hub.cli.ps import tell_unasked
from llama_hub.errors import ExitCode, LlamaHubError

if TYPE_CHECKING:
    from llama_hub.deploy.deployer import Deployer
    from llama_hub.deploy.gc import Leftover

app = typer.Typer(add_completion=False)

Leftovers = list[tuple["Deployer", "Leftover"]]


@app.command()
def gc(
    backend: Annotated[str | None, typer.Option(help="Only this backend.")] = None,
    kept: Annotated[
        bool, typer.Option("--kept", help="Also what was to outlive its deployment: weights.")
    ] = False,
    region: Region = None,
    at: At = None,
    yes: Yes = False,
    timeout: Timeout = 3600.0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find what is left over, and remove it with --yes; without, exit 9 if there is any."""
    out = output(json, quiet)
    leftovers, errors = _find(backend, where(region, at))
    lasting = [left for _, left in leftovers if left.reason == "kept" and not kept]
    leftovers = [one for one in leftovers if one[1] not in lasting]
    tell_unasked(out, errors)
    preview = _text(leftovers, removed=False, unasked=bool(errors))
    asked = bool(leftovers) and out.interactive and not yes
    remove = planned.agreed(out, preview, "remove all of this?", yes=False) if asked else yes
    unasked = bool(errors)
    if remove:
        errors += _remove(out, leftovers, timeout)
    document = {
        "leftovers": [left.to_json() for _, left in leftovers],
        "removed": remove,
        "kept": [left.to_json() for left in lasting],
        "errors": errors,
    }
    out.result(document, _text(leftovers, remove, unasked) + _kept(lasting))
    if errors:
        raise typer.Exit(errors[0]["code"])
    if leftovers and not remove:
        raise typer.Exit(int(ExitCode.CHANGES_PENDING))


def _find(only: str | None, asked: Mapping[str, str]) -> tuple[Leftovers, list[dict[str, Any]]]:
    """Leftovers with the deployer that can remove them, and the backends that did not answer."""
    from llama_hub.backends import lookup
    from llama_hub.deploy.gc import search

    leftovers: Leftovers = []
    errors: list[dict[str, Any]] = []
    for spot in lookup.places(only, asked):
        try:
            deployer = lookup.deployer_at(spot.backend, spot.location)
            for left in search(deployer.backend, location=deployer.location):
                leftovers.append((deployer, left))
        except Exception as error:  # the others are looked at all the same
            errors.append(lookup.unasked(spot, error))
    return _distinct(leftovers), lookup.distinct(errors)


def _distinct(leftovers: Leftovers) -> Leftovers:
    """Each once, although two places of a backend may be the same one."""
    by_content = {
        json_format.dumps(left.to_json()): (deployer, left) for deployer, left in leftovers
    }
    return list(by_content.values())


def _remove(out: Output, found: Leftovers, timeout: float) -> list[dict[str, Any]]:
    from llama_hub.deploy.gc import remove

    errors = []
    with planned.applying(out, timeout=timeout) as options:
        for deployer, left in found:
            try:
                remove(deployer, left, options)
            except LlamaHubError as error:
                out.warn(f"{left.name} in {left.backend}: {error.message}")
                errors.append(
                    {
                        "backend": left.backend,
                        "message": error.message,
                        "code": int(error.exit_code),
                    }
                )
    return errors


def _text(found: Leftovers, removed: bool, unasked: bool) -> str:
    from llama_hub.cli.plan_view import columns

    if not found:
        return "nothing is left over" + (" in what could be asked" if unasked else "")
    rows = [
        (
            left.reason,
            left.backend,
            left.name,
            ", ".join(one.id for one in left.resources),
            left.why,
        )
        for _, left in found
    ]
    return columns(rows) + ("\nremoved" if removed else "\nllama-hub gc --yes   removes it")


def _kept(lasting: Sequence[Leftover]) -> str:
    """What is left alone, and how it would go."""
    if not lasting:
        return ""
    names = ", ".join(one.id for left in lasting for one in left.resources)
    return f"\nkept on purpose: {names}\nllama-hub gc --kept --yes   removes it"
