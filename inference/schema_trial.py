"""A trial compilation in a process of its own: what is too slow, too large or fatal ends there.

Native code cannot be interrupted: a thread that compiles the wrong schema runs for minutes, and
a schema that nests too deeply overflows the stack, which ends the whole process. So every new
schema is compiled here first and followed for a few tokens, under a limit of processor time,
memory and stack; only what passes is compiled by the engine.

The process (``python -m llama_hub.inference.schema_trial TOKENIZER``) reads one schema a line, as
a JSON string, and answers ``{"error": …, "path": […], "bytes": …}``: without an error it may be
used, and takes about so much memory.
"""

from __future__ import annotations

import json
import os
import random
import resource
import selectors
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from llama_hub.child_environment import child_environment
from llama_hub.inference import child_process
from llama_hub.inference.schema_limits import SchemaError, costliest, parse

CPU_SECONDS = 1.0  # of a core, for one schema
PATIENCE = 30.0  # seconds, on a machine that has no core to spare
START = 60.0  # seconds
MEMORY = 256 << 20  # bytes that one schema may take while it is compiled
RESIDENT = 64 << 20  # bytes that it may hold for good
LARGE = 16 << 20  # bytes after which the process begins again, so that the next is measured well
STACK = 1 << 20  # bytes; the engine's threads have more
WALKS = 4  # beginnings of answers that are tried
STEPS = 8  # tokens of each
STEP_SECONDS = 0.05  # of a core, for the slowest of them
NICE = 10  # the engine comes first
TOO_COMPLEX = "it is too complex to be followed"


class Trial:
    """One trial process, started when first needed; for one thread at a time."""

    def __init__(self, tokenizer: Path) -> None:
        self._tokenizer = tokenizer
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def check(self, text: str) -> int:
        """About how many bytes the schema ``text`` takes, compiled.

        ``SchemaError`` that names the part if it must not be compiled here.
        """
        document = parse(text)
        answer = self._ask(text)
        if answer is None:
            raise SchemaError(
                f"it needs more than {CPU_SECONDS:g} s of processor time or "
                f"{MEMORY >> 20} MiB of memory; this part probably takes most",
                costliest(document),
            )
        if answer["error"] is not None:
            raise SchemaError(answer["error"], tuple(answer["path"]))
        size: int = answer["bytes"]
        if size > LARGE:
            self.close()
        return size

    def _ask(self, text: str) -> dict[str, Any] | None:
        """The process's answer; ``None`` if it ended over the schema."""
        process = self._started()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(text).encode() + b"\n")
            process.stdin.flush()
            line = _read_line(process, PATIENCE)
        except OSError:
            line = b""
        if not line:
            self.close()
            return None
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _started(self) -> subprocess.Popen[bytes]:
        if self._stopped:
            raise RuntimeError("the engine was shut down")
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(self._tokenizer)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=child_environment(),
            )
            if not _read_line(self._process, START):
                self.close()
                raise RuntimeError("the process that tries JSON schemas did not start")
        return self._process

    def stop(self) -> None:
        """Have the process end; from any thread, also while a schema is tried."""
        self._stopped = True
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End the process and take back what it held."""
        process, self._process = self._process, None
        if process is not None:
            child_process.kill(process)


def _read_line(process: subprocess.Popen[bytes], timeout: float) -> bytes:
    """The next line of the process's output; empty if it ended or the time is up."""
    assert process.stdout is not None
    deadline = time.monotonic() + timeout
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return b""
            part = os.read(process.stdout.fileno(), 1 << 16)
            if not part:
                return b""
            line += part
    return line


def try_schemas(tokenizer: Path) -> None:
    """The process's life: answer each line of standard input, until its end."""
    from llama_hub.inference.schema_compiler import SchemaCompiler
    from llama_hub.inference.tokenizer import open_tokenizer

    compiler = SchemaCompiler(open_tokenizer(tokenizer))
    _limit_memory()
    os.nice(NICE)
    _say({"ready": True})
    for line in sys.stdin:
        # The default action of SIGPROF ends the process, in the middle of native code too.
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        answer = _try(compiler, json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        _say(answer)


def _try(compiler: Any, text: str) -> dict[str, Any]:
    begun, before = time.process_time(), _resident()
    try:
        matcher = compiler.compile(text)
        size = max(0, _resident() - before)
        if size > RESIDENT:
            raise SchemaError(f"compiled it takes {size >> 20} MiB; at most {RESIDENT >> 20}")
        _follow(matcher)
    except SchemaError as error:
        document = parse(text)
        path = compiler.locate(document, begun + CPU_SECONDS / 2) or costliest(document)
        return {"error": error.reason, "path": path}
    return {"error": None, "bytes": size}


def _follow(matcher: Any) -> None:
    """Take the first steps of some answers; ``SchemaError`` if they are too much already."""
    for seed in range(WALKS):
        chance, walk = random.Random(seed), matcher.deep_copy()
        for _ in range(STEPS):
            token = _step(walk, chance)
            if token is None or not walk.consume_token(token) or walk.is_stopped():
                break
        _check(walk)


def _step(matcher: Any, chance: random.Random) -> int | None:
    """Any token that may follow."""
    begun = time.thread_time()
    mask: bytes = matcher.compute_bitmask()
    seconds = time.thread_time() - begun
    _check(matcher)
    if seconds > STEP_SECONDS:
        raise SchemaError(f"one token of an answer takes {seconds:.2f} s of a core")
    places = [index for index, byte in enumerate(mask) if byte]
    if not places:
        return None
    place = chance.choice(places)
    lowest: int = mask[place] & -mask[place]
    return place * 8 + lowest.bit_length() - 1


def _check(matcher: Any) -> None:
    if matcher.is_error():
        nothing = "NoExtension" in matcher.get_error()
        raise SchemaError("no answer can satisfy it" if nothing else TOO_COMPLEX)


def _limit_memory() -> None:
    """At most ``MEMORY`` beyond what is mapped now, where the system can say how much that is."""
    mapped = _memory(0)
    if mapped:
        resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, mapped + MEMORY))


def _resident() -> int:
    """Bytes in memory; 0 where the system does not say."""
    return _memory(1)


def _memory(column: int) -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[column])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _say(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    threading.stack_size(STACK)
    thread = threading.Thread(target=try_schemas, args=(Path(sys.argv[1]),))
    thread.start()
    thread.join()
