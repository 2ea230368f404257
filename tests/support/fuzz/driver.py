"""Give cases to a worker, end it when a case takes too long, and say what is wrong with an ending.

``python -m tests.support.fuzz.driver CASES [KIND …]`` runs that many of each kind and prints what
fell, with the command that repeats it.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from tests.support.fuzz.kinds import KINDS

SECONDS = 5.0  # of processor time
HANGS = 30.0  # seconds by the clock, on a machine that does other things too
BYTES = 512 << 20


class Worker:
    """A process for cases; started again after one that killed it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._process: subprocess.Popen[str] | None = None

    def run(self, kind: str, number: int) -> dict[str, Any]:
        """How the case ended; a code of -1 if it hung, of -2 if it took the process with it."""
        process = self._process or self._start()
        _pipe(process.stdin).write(json.dumps([kind, number]) + "\n")
        _pipe(process.stdin).flush()
        if not select.select([process.stdout], [], [], HANGS)[0]:
            self.close()
            return {"kind": kind, "number": number, "code": -1, "error": "it hangs"}
        line = _pipe(process.stdout).readline()
        if not line:
            self.close()
            return {"kind": kind, "number": number, "code": -2, "error": "the process died"}
        found: dict[str, Any] = json.loads(line)
        return found

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.support.fuzz.worker", str(self._root)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        self._process = process
        ready = _pipe(process.stdout).readline()
        assert ready == "ready\n", f"the worker did not start: {ready!r}"
        return process

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def problem(ending: dict[str, Any]) -> str:
    """Why an ending is wrong; empty if it is as bad input may end."""
    code = ending["code"]
    if code < 0 or (code == 1 and not _is_diagnosis(ending)):
        return f"exit {code}"
    if ending["seconds"] > SECONDS:
        return f"{ending['seconds']} s"
    if ending["bytes"] > BYTES:
        return f"{ending['bytes'] >> 20} MiB"
    return "" if ending["document"] else "standard output is not one JSON document"


def _is_diagnosis(ending: dict[str, Any]) -> bool:
    """``doctor`` exits 1 by contract when something is wrong with this machine."""
    return ending["words"][0] == "doctor" and "Traceback" not in ending["error"]


def endings(root: Path, kinds: Iterable[str], numbers: range) -> Iterator[dict[str, Any]]:
    """Every case of the kinds, one after another."""
    worker = Worker(root)
    try:
        for kind in kinds:
            for number in numbers:
                yield worker.run(kind, number)
    finally:
        worker.close()


def main(cases: int, kinds: list[str], first: int = 0) -> None:
    """Run and report."""
    start, codes, wrong = time.monotonic(), Counter[str](), 0
    slowest, largest = 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        for ending in endings(Path(folder), kinds or list(KINDS), range(first, first + cases)):
            codes[f"{ending['kind']} {ending['code']}"] += 1
            slowest = max(slowest, ending.get("seconds", 0))
            largest = max(largest, ending.get("bytes", 0))
            if said := problem(ending):
                wrong += 1
                last = ending["error"].strip().splitlines()
                print(f"{ending['kind']} {ending['number']}: {said}: {ending.get('words')}")
                print("   ", " | ".join(line.strip() for line in last[-12:])[:1500], flush=True)
    print(dict(sorted(codes.items())))
    print(
        f"{codes.total()} cases, {wrong} wrong, slowest {slowest:.2f} s, largest "
        f"{largest >> 20} MiB, {time.monotonic() - start:.0f} s in all"
    )


if __name__ == "__main__":
    count, _, start_at = sys.argv[1].partition("@")
    main(int(count), sys.argv[2:], int(start_at or 0))
