"""Run cases in this process, one after another, and say how each ended and what it took.

``python -m tests.support.fuzz.worker FOLDER`` prepares good files in FOLDER, prints a line when it
is ready and then answers each line ``[kind, number]``; a case is the same wherever and whenever it
runs. ``python -m tests.support.fuzz.worker FOLDER KIND NUMBER`` repeats one and shows it all.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from tests.support.fuzz import mutation
from tests.support.fuzz.kinds import KINDS, Kind, prepare

FILE_BYTES = 1 << 30  # of what a case may write
ADDRESS_SPACE = 6 << 30  # a case that asks for more gets a MemoryError instead of the machine


@dataclass(frozen=True)
class Ending:
    """How one case ended."""

    kind: str
    number: int
    words: list[str]
    code: int
    seconds: float  # of processor time: other work on the machine does not count
    waited: float  # seconds by the clock
    bytes: int  # of memory above what the process had before
    error: str  # what was said; the traceback for exit code 1
    document: bool  # whether standard output was one JSON document


def run(root: Path, name: str, number: int) -> Ending:
    """The case ``number`` of a kind."""
    rng = random.Random(f"{name} {number}")
    case = root / "case"
    shutil.rmtree(case, ignore_errors=True)
    kind = KINDS[name]
    _copy(root, case, kind)
    _damage(rng, kind, case)
    words = [word.format(case=case) for word in rng.choice(kind.commands)]
    os.environ["LLAMA_HUB_HOME"] = str(case / "home")
    return _measured(name, number, [*words, "--json"])


def _copy(root: Path, case: Path, kind: Kind) -> None:
    case.mkdir()
    for part in ("home", *kind.parts):
        source = root / part
        if source.is_dir():
            shutil.copytree(source, case / part, symlinks=True)
        else:
            shutil.copy(source, case / part)
    (case / "local").mkdir()


def _damage(rng: random.Random, kind: Kind, case: Path) -> None:
    target = _target(kind, case)
    if rng.random() < 0.04:
        mutation.file(rng, target)
        return
    good = target.read_bytes() if target.exists() else b""
    changed = kind.mutate(rng, good).replace(b"{case}", str(case).encode())
    target.write_bytes(changed)
    if kind.seal is not None and rng.random() < 0.75:
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            kind.seal(target)


def _target(kind: Kind, case: Path) -> Path:
    if "{" not in kind.target:
        return case / kind.target
    return next((case / kind.target).parent.iterdir())


def _measured(name: str, number: int, words: list[str]) -> Ending:
    from llama_hub.cli import main

    out, err = io.StringIO(), io.StringIO()
    before = _reset_peak()
    start, clock = time.process_time(), time.perf_counter()
    with (
        _bounded_files(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "stdin", io.StringIO("")),
        mock.patch.object(sys, "argv", ["llama-hub", *words]),
    ):
        try:
            code = main.run(words)
        except BaseException:
            code, _ = 1, err.write(traceback.format_exc())
    return Ending(
        kind=name,
        number=number,
        words=words,
        code=code,
        seconds=round(time.process_time() - start, 3),
        waited=round(time.perf_counter() - clock, 3),
        bytes=max(0, _status("VmHWM") - before),
        error=err.getvalue()[-4000:],
        document=_is_json(out.getvalue()),
    )


@contextlib.contextmanager
def _bounded_files() -> Iterator[None]:
    """A file that grows without end fails before the disk is full."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _reset_peak() -> int:
    """Bytes of memory in use now, from where the peak is counted from here on."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(key))) << 10


def _answer(folder: Path, body: Mapping[str, Any], stream: bool) -> Iterable[bytes]:
    yield json.dumps({"choices": [{"message": {"content": "yes"}}]}).encode()


def _patch() -> None:
    """No model answers here, and nothing waits."""
    from llama_hub.backends.memory import backend as memory

    memory._core = lambda: _answer
    time.sleep = lambda seconds: None  # type: ignore[assignment]


def main(root: Path, *one: str) -> None:
    """Serve cases until standard input ends."""
    os.environ |= {
        "HOME": str(root), "OMP_NUM_THREADS": "1", "LLAMA_HUB_HOME": str(root / "home"),
        "LLAMA_HUB_DEBUG": "1", "AWS_CONFIG_FILE": str(root / "none"), "NO_COLOR": "1",
        "AWS_SHARED_CREDENTIALS_FILE": str(root / "none"), "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    for variable in ("HF_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION", "LLAMA_HUB_CATALOG"):
        os.environ.pop(variable, None)
    os.chdir(root)
    _patch()
    if not (root / "ready").exists():
        prepare(root)
        (root / "ready").touch()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    answers = sys.stdout
    if one:
        answers.write(json.dumps(asdict(run(root, one[0], int(one[1]))), indent=1) + "\n")
        return
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        name, number = json.loads(line)
        ending: dict[str, Any] = asdict(run(root, name, number))
        answers.write(json.dumps(ending) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
