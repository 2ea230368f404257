"""Plan, confirm, apply: what deploy, rollback, delete and gc have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from llama_hub.cli.output import Output
from llama_hub.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from llama_hub.deploy.apply import ApplyOptions
    from llama_hub.deploy.backend import Deployed
    from llama_hub.deploy.deployer import Deployer
    from llama_hub.deploy.plan import Plan


def show(out: Output, plan: Plan, *, judge: bool = True) -> NoReturn:
    """Print the plan, change nothing, and say by the exit code whether it would act.

    ``judge`` False: that is not what was asked, so the exit code is 0.
    """
    from llama_hub.cli import plan_view

    out.result(plan.to_json(), plan_view.text(plan))
    pending = judge and plan.changes
    raise typer.Exit(int(ExitCode.CHANGES_PENDING if pending else ExitCode.OK))


def carry_out(
    out: Output,
    deployer: Deployer,
    plan: Plan,
    *,
    question: str,
    yes: bool,
    **options: Any,
) -> Deployed:
    """Show the plan, have it confirmed, do it; ``UsageError`` where the answer is no.

    ``question`` and ``yes``: see ``agreed``; ``options``: of ``ApplyOptions``.
    """
    from llama_hub.cli import plan_view

    acts = bool(plan.changes or question)
    if acts and not agreed(out, plan_view.text(plan), question, yes=yes):
        raise UsageError("nothing was changed")
    with applying(out, **options) as how:
        return deployer.apply(plan, how)


def agreed(out: Output, preview: str, question: str, *, yes: bool) -> bool:
    """Show ``preview`` and ask ``question``, if there is one and ``--yes`` does not answer it.

    ``UsageError`` without a terminal and without ``--yes``: nothing is destroyed unasked.
    """
    out.status(preview)
    if yes or not question:
        return True
    return out.confirm(question, flag="--yes")


@contextmanager
def applying(out: Output, **options: Any) -> Iterator[ApplyOptions]:
    """How to apply, with progress on the terminal while it lasts."""
    from llama_hub.deploy.apply import ApplyOptions

    with out.progress() as progress:
        yield ApplyOptions(progress=progress, **options)
