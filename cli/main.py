"""The ``llama-hub`` command: a table of commands, each imported when it is called.

``--help`` draws the list from the table alone, so it imports no command; a
test holds each help line of the table against the command's own.
"""

from __future__ import annotations

import difflib
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, NoReturn

import typer
import typer.core

from llama_hub import __version__
from llama_hub.cli import failures
from llama_hub.cli.output import output
from llama_hub.errors import ExitCode


class Entry(NamedTuple):
    """Where a command lives (``module:attribute`` of a ``typer.Typer``) and its help line."""

    target: str
    help: str


COMMANDS: dict[str, Entry] = {
    "quickstart": Entry(
        "llama_hub.cli.quickstart:app",
        "Run everything end-to-end on the built-in demo model, offline, and chat with it.",
    ),
    "models": Entry(
        "llama_hub.cli.models:app", "The catalogue: models, their sizes, licences and sources."
    ),
    "license": Entry(
        "llama_hub.cli.license:app", "Read the licences of models, accept them, and prove it."
    ),
    "download": Entry(
        "llama_hub.cli.download:app",
        "Download a model into the store, verified; resumes an interrupted download.",
    ),
    "verify": Entry(
        "llama_hub.cli.verify:app",
        "Check a model's files against its manifest, offline; exit 5 names the damaged blocks.",
    ),
    "convert": Entry(
        "llama_hub.cli.convert:app",
        "Convert between Meta's, Hugging Face's and GGUF's form; --quantize makes a model small.",
    ),
    "import": Entry(
        "llama_hub.cli.store:import_app",
        "Import a folder or GGUF file of another tool; verified, linked rather than copied.",
    ),
    "list": Entry(
        "llama_hub.cli.store:list_app", "List the models in the store, and unfinished downloads."
    ),
    "path": Entry("llama_hub.cli.store:path_app", "The folder of a model in the store."),
    "remove": Entry(
        "llama_hub.cli.store:remove_app", "Delete a model from the store, or unfinished downloads."
    ),
    "adapter": Entry(
        "llama_hub.cli.adapter:app", "LoRA adapters: import, check against the base, list, remove."
    ),
    "serve": Entry(
        "llama_hub.cli.serve:app",
        "Serve models: OpenAI, SageMaker, Azure ML and Hugging Face routes, a chat page.",
    ),
    "chat": Entry(
        "llama_hub.cli.chat:app", "Chat with a model, a folder, a server or a deployment."
    ),
    "eval": Entry(
        "llama_hub.cli.eval:app",
        "Score a model or endpoint; compare results; gates for CI (exit 9).",
    ),
    "redteam": Entry(
        "llama_hub.cli.redteam:app",
        "Replay prompts that should be refused; exit 5 if one is answered that was refused before.",
    ),
    "card": Entry(
        "llama_hub.cli.card:app",
        "The transparency card of a model or deployment: every line with its source.",
    ),
    "deploy": Entry("llama_hub.cli.deploy:app", "Run a model as an endpoint: here, or in a cloud."),
    "ps": Entry(
        "llama_hub.cli.ps:app",
        "Deployments in every backend that is set up here; fails if one could not be asked.",
    ),
    "status": Entry(
        "llama_hub.cli.status:app",
        "One deployment: its state, its pieces, and what has drifted from its spec.",
    ),
    "logs": Entry("llama_hub.cli.logs:app", "What a deployment prints."),
    "invoke": Entry("llama_hub.cli.invoke:app", "One request to a deployment; prints its answer."),
    "attest": Entry(
        "llama_hub.cli.attest:app",
        "Prove that a deployment serves the expected model; exit 5 if not.",
    ),
    "rollback": Entry(
        "llama_hub.cli.rollback:app", "Return a deployment to the revision before the present one."
    ),
    "delete": Entry(
        "llama_hub.cli.delete:app", "Remove a deployment and everything that was made for it."
    ),
    "export": Entry(
        "llama_hub.cli.export:app",
        "Write a saved plan in the platform's own language: az YAML, Bicep, CloudFormation.",
    ),
    "gc": Entry(
        "llama_hub.cli.gc:app",
        "Find what is left over, and remove it with --yes; without, exit 9 if there is any.",
    ),
    "backends": Entry(
        "llama_hub.cli.backends:app",
        "Where a model can run; schemas of specs; the conformance suite.",
    ),
    "image": Entry(
        "llama_hub.cli.image:app", "The container that starts the service in any cloud."
    ),
    "doctor": Entry(
        "llama_hub.cli.doctor:app",
        "Look at this machine, the store, the ledger and a backend; exit 1 if a check fails.",
    ),
}


_NAMED = f"{__name__}.named"  # key in Typer's context


class LazyGroup(typer.core.TyperGroup):
    """A group whose commands are imported at the moment they run."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Note whether a command was named; if not, the list itself is all that is asked for."""
        ctx.meta[_NAMED] = any(word in COMMANDS for word in args)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        """The names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, or, while help is drawn, a stand-in that only knows its help line."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        if not ctx.meta.get(_NAMED, True):
            return typer.core.TyperCommand(cmd_name, help=entry.help)
        return load(cmd_name)


def load(name: str) -> Any:
    """Import the command ``name`` and return it ready to run."""
    module, _, attribute = COMMANDS[name].target.partition(":")
    command = typer.main.get_command(getattr(importlib.import_module(module), attribute))
    command.name = name
    return command


app = typer.Typer(
    name="llama-hub",
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="From a granted Llama 2 licence to a verified, licensed endpoint anywhere.",
)


def _version(wanted: bool) -> None:
    if wanted:
        output().result({"version": __version__}, __version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """From a granted Llama 2 licence to a verified, licensed endpoint anywhere."""


# Typer vendors click and exports no name for the root of its usage errors.
_ParserError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def run(arguments: Sequence[str]) -> int:
    """Run the command line ``arguments`` and return the exit code; never raises."""
    output(as_json="--json" in arguments)
    if any("\0" in argument for argument in arguments):  # no shell can pass one; a program can
        return failures.report(failures.usage("an argument contains a NUL character"))
    try:
        code = _run(list(arguments))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return _closed_pipe()


def _run(arguments: list[str]) -> int:
    try:
        code = typer.main.get_command(app).main(
            arguments, prog_name="llama-hub", standalone_mode=False
        )
        return _finished(code if isinstance(code, int) else 0)
    except typer.Exit as stop:
        return _finished(stop.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return failures.report(KeyboardInterrupt())
    except _ParserError as error:
        return _usage(error)
    except BrokenPipeError:
        raise
    except Exception as error:
        return failures.report(error)


def _finished(code: int) -> int:
    """Typer turns Ctrl-C into exit code 130 without a word; say it in our form."""
    return failures.report(KeyboardInterrupt()) if code == ExitCode.INTERRUPTED else code


def _usage(error: Any) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return 2
    mistake = failures.usage(error.format_message())
    if context is not None:
        mistake.hint = _suggested(context, error) or f"{context.command_path} --help"
    return failures.report(mistake)


def _suggested(context: Any, error: Any) -> str:
    """The command that a mistyped one resembles; empty if none does."""
    mistyped = re.search(r"No such command '([^']*)'", error.format_message())
    names = context.command.list_commands(context) if mistyped else []
    nearest = difflib.get_close_matches(mistyped[1] if mistyped else "", names, n=1)
    return f"{context.command_path} {nearest[0]}" if nearest else ""


def _closed_pipe() -> int:
    """The reader of stdout went away, as ``head`` does: stop quietly, with nothing to flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def main() -> NoReturn:
    """The console script."""
    sys.exit(run(sys.argv[1:]))
