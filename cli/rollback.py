"""``llama-hub rollback``: back to the last good revision."""

from __future__ import annotations

from typing import Annotated

import typer

from llama_hub.cli.deploy import Timeout, document
from llama_hub.cli.options import Json, Quiet, Yes
from llama_hub.cli.output import output
from llama_hub.cli.status import BackendName, Name
from llama_hub.errors import ExitCode, UsageError

app = typer.Typer(add_completion=False)


@app.command()
def rollback(
    name: Name,
    backend: BackendName = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only show; exit 9 if it would act.")
    ] = False,
    yes: Yes = False,
    timeout: Timeout = 3600.0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Return a deployment to the revision before the present one."""
    from llama_hub.backends.lookup import find
    from llama_hub.cli import plan_view
    from llama_hub.deploy.apply import ApplyOptions

    out = output(json, quiet)
    deployer = find(name, backend)
    made = deployer.plan_rollback(name)
    if plan:
        out.result(made.to_json(), plan_view.text(made))
        raise typer.Exit(int(ExitCode.CHANGES_PENDING if made.changes else ExitCode.OK))
    out.status(plan_view.text(made))
    if out.interactive and not yes and not out.confirm(f"roll {name} back?", flag="--yes"):
        raise UsageError("nothing was changed")
    with out.progress() as progress:
        back = deployer.apply(made, ApplyOptions(timeout=timeout, progress=progress))
    out.result(document(made, back), f"{name} is back at revision {back.generation}: {back.status}")
