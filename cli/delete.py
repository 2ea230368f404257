"""``llama-hub delete``: remove all that a deployment consists of, and nothing else."""

from __future__ import annotations

from typing import Annotated

import typer

from llama_hub.cli import planned
from llama_hub.cli.deploy import Timeout
from llama_hub.cli.options import At, Json, Quiet, Region, Yes, where
from llama_hub.cli.output import Output, output
from llama_hub.cli.status import BackendName, Name
from llama_hub.errors import UsageError

app = typer.Typer(add_completion=False)


@app.command()
def delete(
    name: Name,
    backend: BackendName = None,
    region: Region = None,
    at: At = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only show; exit 9 if it would act.")
    ] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Ask no cloud; only this machine forgets about it.")
    ] = False,
    yes: Yes = False,
    timeout: Timeout = 3600.0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Remove a deployment and everything that was made for it."""
    from llama_hub.backends.lookup import find
    from llama_hub.deploy.plan import entry

    out = output(json, quiet)
    if forget:
        return _forget(out, name, backend, plan=plan, yes=yes)
    deployer = find(name, backend, where(region, at))
    deletion = deployer.plan_delete(name)
    if plan:
        planned.show(out, deletion)
    gone = planned.carry_out(
        out, deployer, deletion, question=f"remove {name}?", yes=yes, timeout=timeout
    )
    document = {
        "name": name,
        "backend": deletion.backend,
        "status": gone.status,
        "deleted": [step.id for step in deletion.changes if step.action == "delete"],
        "plan": [entry(step) for step in deletion.steps],
    }
    stays = [f"  {one.id}: {one.note}" for one in deletion.changes if one.action != "delete"]
    out.result(document, "\n".join([f"{name} was deleted from {deletion.backend}", *stays]))


def _forget(out: Output, name: str, backend: str | None, *, plan: bool, yes: bool) -> None:
    """End the journal of ``name``; what may still be there is named, and stays."""
    from llama_hub.backends import lookup
    from llama_hub.deploy import deployer

    if plan:
        raise UsageError("--forget changes nothing in a cloud, so it has no --plan")
    journal = lookup.journal(name, backend)
    left = ", ".join(journal.history().standing) or "nothing"
    question = f"forget {name} in {journal.backend}? what may stay there, and cost: {left}"
    if not planned.agreed(out, "", question, yes=yes):
        raise UsageError("nothing was changed")
    standing = deployer.forget(journal)
    document = {
        "name": name,
        "backend": journal.backend,
        "status": "forgotten",
        "deleted": [],
        "plan": [],
        "standing": list(standing),
    }
    out.result(document, f"{name} is forgotten here; in {journal.backend} may stay: {left}")
