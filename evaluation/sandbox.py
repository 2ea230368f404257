"""A sandbox for programs that a model wrote: bubblewrap, without network, with limits.

Such a program is run only where the user allowed it (``--allow-code``) and bubblewrap works: it
sees an interpreter, the system's libraries and an empty folder in memory, no home, no network, no
other process; its time, memory, processes and files are bounded. Without that nothing is run.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from llama_hub.errors import UsageError

SECONDS = 10  # of a program, by the clock
MEMORY = 1 << 30  # bytes of address space
FILE = 1 << 20  # bytes of a file that it writes
PROCESSES = 32
OUTPUT = 4096  # bytes of its words that are kept
IN_MEMORY = 16 << 20  # bytes of files in /tmp
PYTHON = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc/alternatives", "/etc/ld.so.cache")
# It sets the limits on itself, then becomes the program. Only one that came to its end writes the
# word, which it does not know without looking into its caller's frames.
_LIMITED = f"""\
import resource, sys
for what, most in ((resource.RLIMIT_CPU, {SECONDS}), (resource.RLIMIT_AS, {MEMORY}),
                   (resource.RLIMIT_FSIZE, {FILE}), (resource.RLIMIT_NPROC, {PROCESSES}),
                   (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, 64)):
    resource.setrlimit(what, (most, most))
def main():
    word, source = sys.stdin.readline(), sys.stdin.read()
    sys.stdin.close()
    exec(compile(source, "program", "exec"), {{"__name__": "__main__"}})
    print(word, end="")
main()
"""


@dataclass(frozen=True)
class Outcome:
    """How a program ended."""

    passed: bool
    why: str = ""


def require() -> str:
    """The path of bubblewrap; ``UsageError`` unless it makes a sandbox here."""
    found = shutil.which("bwrap")
    problem = "bubblewrap is not installed" if found is None else ""
    if found is not None:
        done = subprocess.run(
            [*_walls(found), str(PYTHON), "-I", "-S", "-c", "pass"],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        problem = "" if done.returncode == 0 else " ".join(done.stderr.split())[-300:]
    if found is None or problem:
        raise UsageError(
            f"the model's programs are not run, because there is no sandbox: {problem}",
            hint="apt install bubblewrap (Linux, with user namespaces), or leave out code tasks",
        )
    return found


def _walls(bwrap: str) -> list[str]:
    words = [bwrap, "--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]
    for path in SYSTEM:
        if Path(path).exists():
            words += ["--ro-bind", path, path]
    if not sys.base_prefix.startswith("/usr"):
        words += ["--ro-bind", sys.base_prefix, sys.base_prefix]
    words += ["--proc", "/proc", "--dev", "/dev", "--size", str(IN_MEMORY), "--tmpfs", "/tmp"]
    return [*words, "--remount-ro", "/", "--chdir", "/tmp"]


def run(bwrap: str, program: str) -> Outcome:
    """Run ``program``; it passed if it came to its end."""
    word = secrets.token_hex(16)
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [*_walls(bwrap), str(PYTHON), "-I", "-S", "-c", _LIMITED],
            stdin=subprocess.PIPE, stdout=said, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            process.communicate(
                f"{word}\n{program}".encode("utf-8", "replace"), timeout=SECONDS + 5
            )
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return Outcome(False, f"took longer than {SECONDS} s")
        size = said.seek(0, 2)
        said.seek(max(0, size - OUTPUT))
        words = said.read().decode("utf-8", "replace")
    if process.returncode == 0 and words.rstrip().endswith(word):
        return Outcome(True)
    return Outcome(
        False, (words.strip().splitlines() or [f"ended with {process.returncode}"])[-1][:200]
    )


def run_all(bwrap: str, programs: list[str], *, at_once: int = 2) -> list[Outcome]:
    """The outcome of each, in order."""
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda program: run(bwrap, program), programs))
