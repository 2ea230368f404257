"""``llama-hub rollback``: back to the last good revision."""

from __future__ import annotations

from typing import Annotated

import typer

from llama_hub.cli import planned
from llama_hub.cli.deploy import Timeout, document
from llama_hub.cli.options import At, Json, Quiet, Region, Yes, where
from llama_hub.cli.output import output
from llama_hub.cli.status import BackendName, Name

app = typer.Typer(add_completion=False)


@app.command()
def rollback(
    name: Name,
    backend: BackendName = None,
    region: Region = None,
    at: At = None,
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

    out = output(json, quiet)
    deployer = find(name, backend, where(region, at))
    plan_back = deployer.plan_rollback(name)
    if plan:
        planned.show(out, plan_back)
    back = planned.carry_out(
        out, deployer, plan_back, question=f"roll {name} back?", yes=yes, timeout=timeout
    )
    out.result(
        document(plan_back, back), f"{name} is back at revision {back.generation}: {back.status}"
    )
