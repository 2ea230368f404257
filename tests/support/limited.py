"""Read hostile files in processes that may use 5 seconds and 512 MiB.

``python -m tests.support.limited`` imports the readers once and forks for each case, so that a case
costs milliseconds and a reader that has no bound costs itself only. What it cannot prove: what a
reader would use beyond its limits.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

SECONDS = 5
BYTES = 512 << 20


@dataclass(frozen=True)
class Ending:
    """How a case ended: an exit code of the command line, with the error's type and message."""

    code: int  # 0: it was read; 1: an error that is not one of ours; -1: a limit
    type: str = ""
    message: str = ""


class Limited:
    """The forking process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, what: str, path: Path) -> Ending:
        """Do ``what`` (see ``CALLS``) with ``path``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([what, str(path)]), file=self._process.stdin, flush=True)
        return Ending(**json.loads(self._process.stdout.readline()))


@contextmanager
def limited() -> Iterator[Limited]:
    """A running process for cases."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.limited"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"},
    ) as process:
        try:
            yield Limited(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()


def _calls() -> dict[str, Callable[[Path], object]]:
    from llama_hub import schema
    from llama_hub.hub.checkpoints import (  # noqa: F401 - imported once, not in each child
        gguf,
        hf_reader,
        meta,
        open_checkpoint,
        weight_index,
    )
    from llama_hub.hub.checkpoints.fingerprint import tensor_entries
    from llama_hub.hub.conversion import sentencepiece_model
    from llama_hub.hub.conversion.tokenizer_json import tokenizer_json
    from llama_hub.hub.model_config import Config, Params

    for kind in (Config, Params, weight_index._Index):  # pydantic's part once, not in each child
        schema._adapter(kind)

    def read(folder: Path) -> None:
        """Headers, then every byte of every tensor."""
        tensor_entries(folder)

    return {
        "open": lambda folder: open_checkpoint(folder, quantised=True).close(),
        "read": read,
        "tokenizer": lambda path: tokenizer_json(sentencepiece_model.read(path)),
    }


def _limit() -> None:
    status = Path("/proc/self/status").read_text()
    now = int(status.split("VmData:")[1].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (now + BYTES, now + BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(12 * SECONDS)  # of the clock: whoever waits uses no processor


def _one(call: Callable[[Path], object], path: Path) -> dict[str, Any]:
    from llama_hub.errors import LlamaHubError

    try:
        call(path)
    except LlamaHubError as error:
        return {"code": int(error.exit_code), "type": type(error).__name__, "message": str(error)}
    except MemoryError as error:
        return {"code": -1, "type": "MemoryError", "message": str(error)}
    except BaseException as error:
        return {"code": 1, "type": type(error).__name__, "message": str(error)[:1000]}
    return {"code": 0}


def _fork(call: Callable[[Path], object], path: Path, out: IO[str]) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _limit()
        os.write(writing, json.dumps(_one(call, path)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    if not answer:
        answer = json.dumps({"code": -1, "type": "killed", "message": f"by status {status}"})
    print(answer, file=out, flush=True)


def main() -> None:
    """One case for each line of standard input."""
    calls = _calls()
    for line in sys.stdin:
        what, path = json.loads(line)
        _fork(calls[what], Path(path), sys.stdout)


if __name__ == "__main__":
    main()
