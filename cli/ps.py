"""``llama-hub ps``: what runs, in all backends."""

from __future__ import annotations

from typing import Annotated

import typer

from llama_hub.cli.deploy import deployed_json
from llama_hub.cli.options import Json, Quiet
from llama_hub.cli.output import output

app = typer.Typer(add_completion=False)

HEAD = ("NAME", "BACKEND", "STATUS", "MODEL", "$/HOUR", "$ SO FAR", "UNTIL", "URL")


@app.command()
def ps(
    backend: Annotated[str | None, typer.Option(help="Only this backend.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Deployments in every backend that is set up here."""
    from llama_hub.backends.lookup import every
    from llama_hub.cli.plan_view import columns

    out = output(json, quiet)
    found, errors = every(backend)
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
    for error in errors:
        out.warn(f"{error['backend']} could not be asked: {error['message']}")
    document = {"deployments": [deployed_json(one) for one in found], "errors": errors}
    out.result(document, columns([HEAD, *rows]) if rows else "no deployments")


def _cost(amount: float | None) -> str:
    return "-" if amount is None else f"{amount:.2f}"
