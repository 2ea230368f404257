"""What planning costs on top of starting: ``deploy --plan`` on memory beside ``--help``.

    python bench/deploy_plan.py [--rounds 15] [--quick] [--out bench/results/deploy_plan.json]

Whole processes are timed, in turn, after one warm-up each, in a home of its own that holds the
demo model as it is served. Medians and their ratio are what to quote; the ratio is to stay below 2.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HELP = "llama-hub --help"
PLAN = "llama-hub deploy memory llama-demo --plan"
LIMIT = 2.0


def seconds(command: list[str], allowed: tuple[int, ...]) -> float:
    """Wall seconds of one whole process, which must exit with one of ``allowed``."""
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    taken = time.perf_counter() - begun
    if done.returncode not in allowed:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")
    return taken


def prepare(script: str) -> None:
    """The demo model, downloaded from the package and converted."""
    for words in (["download", "llama-demo", "--quiet"], ["convert", "llama-demo", "--to", "hf"]):
        seconds([script, *words], (0,))


def measure(script: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of each round of each command."""
    commands = {
        HELP: ([script, "--help"], (0,)),
        PLAN: ([script, *PLAN.split()[1:]], (9,)),
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, (command, allowed) in commands.items():
            taken = seconds(command, allowed)
            if turn:
                times[name].append(taken)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="Three rounds only.")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    script = str(Path(sys.executable).parent / "llama-hub")
    with tempfile.TemporaryDirectory() as home:
        os.environ["LLAMA_HUB_HOME"] = home
        prepare(script)
        times = measure(script, 3 if options.quick else options.rounds)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    ratio = medians[PLAN] / medians[HELP]
    result = {
        "machine": {"python": platform.python_version(), "cpus": os.cpu_count()},
        "rounds": len(times[HELP]),
        "median_seconds": {name: round(taken, 4) for name, taken in medians.items()},
        "ratio": round(ratio, 3),
        "within_limit": ratio <= LIMIT,
    }
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
