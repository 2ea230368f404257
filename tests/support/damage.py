"""Ways in which a file that we wrote may be found again. Each takes the path of a regular file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path


def _content(data: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(data)

    return write


def _instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        for _ in range(100):  # a supervisor that lives may put the file back in between
            path.unlink(missing_ok=True)
            with suppress(FileExistsError, NotADirectoryError):
                make(path)
                return
        raise AssertionError(f"{path} is put back too fast to be replaced")

    return replace


def _truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 3)


def _zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _edited(path: Path) -> None:
    path.write_text(path.read_text().replace("127.0.0.1", "127.0.0.2"))


def _unsealed(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()).get("content", {})))


def _huge(path: Path) -> None:
    os.truncate(path, 1 << 40)  # takes no space


DAMAGES: Mapping[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    "empty": _content(b""),
    "truncated": _truncated,
    "zeroed": _zeroed,
    "null": _content(b"null\n"),
    "wrong type": _content(b'["127.0.0.1"]\n'),
    "wrong types inside": _content(b'{"sha256": 1, "content": {"host": []}}\n'),
    "not UTF-8": _content(b"\xff\xfe\x00{"),
    "deep": _content(b"[" * 200_000),
    "huge": _huge,
    "folder": _instead(lambda path: (path / "inside").mkdir(parents=True)),
    "pipe": _instead(os.mkfifo),
    "link to nothing": _instead(lambda path: path.symlink_to("nowhere/at/all")),
    "link to a device": _instead(lambda path: path.symlink_to("/dev/zero")),
}
SEALED_DAMAGES: Mapping[str, Callable[[Path], None]] = {
    **DAMAGES,
    "edited": _edited,
    "without its digest": _unsealed,
}
