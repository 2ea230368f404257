"""``llama-hub ps``: what runs, in all backends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from llama_hub.cli.deploy import deployed_json
from llama_hub.cli.options import At, Json, Quiet, Region, where
from llama_hub.cli.output import Output, output

app = typer.Typer(add_completion=False)

HEAD = ("NAME", "BACKEND", "STATUS", "MODEL", "$/HOUR", "$ SO FAR", "UNTIL", "URL")


@app.command()
def ps(
    backend: Annotated[str | None, typer.Option(help="Only this backend.")] = None,
    region: Region = None,
    at: At = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Deployments in every backend that is set up here; fails if one could not be asked."""
    from llama_hub.backends.lookup import every
    from llama_hub.cli.plan_view import columns

    out = output(json, quiet)
    found, errors = every(backend, where(region, at))
    found.sort(key=lambda one: (one.backend, one.name))
    rows = [
        (
            one.name,
            one.backend,
            one.status,
            one.model or "?",
            _cost(one.cost_per_hour),
            _cost(shown.get("cost_so_far")),
            str(shown.get("expires", "-")),
            one.url or "",
        )
        for one, shown in ((one, deployed_json(one)) for one in found)
    ]
    tell_unasked(out, errors)
    document = {"deployments": [deployed_json(one) for one in found], "errors": errors}
    nothing = "no deployments" + (" in what could be asked" if errors else "")
    out.result(document, columns([HEAD, *rows]) if rows else nothing)
    if errors:
        raise typer.Exit(errors[0]["code"])


def tell_unasked(out: Output, errors: Sequence[Mapping[str, Any]]) -> None:
    """Warn of every place that could not be asked, and name what may run there."""
    for error in errors:
        names = ", ".join(error.get("deployments", ()))
        may_run = f"; deployed there from here, and perhaps billing: {names}" if names else ""
        hint = f" (hint: {error['hint']})" if error.get("hint") else ""
        out.warn(f"{error['backend']} could not be asked: {error['message']}{may_run}{hint}")


def _cost(amount: float | None) -> str:
    return "-" if amount is None else f"{amount:.2f}"
