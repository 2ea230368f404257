"""``llama-hub status``: one deployment, and whether it has drifted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_hub.cli import completion
from llama_hub.cli.deploy import deployed_json
from llama_hub.cli.options import At, Json, Quiet, Region, where
from llama_hub.cli.output import output
from llama_hub.errors import LlamaHubError

if TYPE_CHECKING:
    from llama_hub.deploy.deployer import Deployer

app = typer.Typer(add_completion=False)

Name = Annotated[
    str, typer.Argument(help="Name of the deployment.", autocompletion=completion.deployments)
]
BackendName = Annotated[
    str | None,
    typer.Option(
        "--backend",
        help="Which backend, where two have one of that name.",
        autocompletion=completion.backends,
    ),
]


@app.command()
def status(
    name: Name,
    backend: BackendName = None,
    region: Region = None,
    at: At = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """One deployment: its state, its pieces, and what has drifted from its spec."""
    from llama_hub.backends.lookup import find

    out = output(json, quiet)
    deployer = find(name, backend, where(region, at))
    entry = deployed_json(deployer.backend.status(name))
    entry["resources"] = [
        {"resource": one.id, "state": one.state} for one in deployer.backend.observe(name).resources
    ]
    entry |= _drift(deployer, name)
    out.result(entry, _text(entry))


def _drift(deployer: Deployer, name: str) -> dict[str, Any]:
    """``drift``: what differs; ``drift_unknown`` instead where it cannot be told."""
    try:
        steps = deployer.drift(name)
    except LlamaHubError as error:
        return {"drift_unknown": error.message}
    return {"drift": [{"action": one.action, "resource": one.id, "why": one.why} for one in steps]}


def _text(known: dict[str, Any]) -> str:
    from llama_hub.cli.plan_view import columns

    shown = ("name", "backend", "status", "url", "model", "manifest", "generation", "instance",
             "replicas", "created", "cost_per_hour", "detail")  # fmt: skip
    rows = [(key, str(known[key])) for key in shown if known.get(key) is not None]
    pieces = [(one["resource"], one["state"]) for one in known["resources"]]
    return "\n".join([columns(rows), "", columns(pieces, indent="  "), _drift_text(known)])


def _drift_text(known: dict[str, Any]) -> str:
    if "drift_unknown" in known:
        return f"drift unknown: {known['drift_unknown']}"
    if not known["drift"]:
        return "no drift"
    lines = [f"  {one['action']} {one['resource']}: {one['why']}" for one in known["drift"]]
    return "\n".join(["drifted; deploying it again would:", *lines])
