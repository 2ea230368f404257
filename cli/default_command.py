"""Groups of commands with a default: ``eval TARGET`` is ``eval run TARGET``."""

from __future__ import annotations

from typing import Any

import typer.core

RUN = "run"


class RunGroup(typer.core.TyperGroup):
    """A group in which what names no command of it is the target of ``run``."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Put ``run`` before a first word that is none of the commands."""
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = [RUN, *args]
        return super().parse_args(ctx, args)
