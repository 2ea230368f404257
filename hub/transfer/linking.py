"""Bringing a file of this machine to another place without copying it, where that can be."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

FICLONE = 0x40049409  # linux/fs.h: share the blocks of another file


def bring(path: Path, target: Path) -> str:
    """Give ``path``'s content to ``target``: cloned, else linked, else copied; says which."""
    ways: tuple[tuple[str, Callable[[Path, Path], object]], ...] = (
        ("cloned", _clone),
        ("linked", os.link),
    )
    for how, way in ways:
        try:
            way(path, target)
            return how
        except OSError:
            target.unlink(missing_ok=True)
    shutil.copyfile(path, target)
    return "copied"


def _clone(path: Path, target: Path) -> None:
    with path.open("rb") as source, target.open("wb") as output:
        fcntl.ioctl(output.fileno(), FICLONE, source.fileno())
