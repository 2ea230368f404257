"""How long ``llama-hub --help`` takes beside ``hf --help``, in the same run, in turn.

    python bench/startup.py [--rounds 15] [--out bench/results/startup.json]

Both commands come from the environment that runs this script. Whole processes are timed, after
one warm-up each; medians and their ratio are what to quote.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path


def seconds(command: list[str]) -> float:
    """Wall seconds of one whole process."""
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    scripts = Path(sys.executable).parent
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    commands = {
        "llama-hub --help": [str(scripts / "llama-hub"), "--help"],
        "llama-hub models": [str(scripts / "llama-hub"), "models"],
        "hf --help": [str(scripts / "hf"), "--help"],
    }
    for command in commands.values():
        seconds(command)
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(options.rounds):
        for name, command in commands.items():
            times[name].append(seconds(command))
    peer = statistics.median(times["hf --help"])
    result = {
        "machine": {"python": platform.python_version(), "cpus": os.cpu_count()},
        "rounds": options.rounds,
        "median_seconds": {name: round(statistics.median(t), 4) for name, t in times.items()},
        "ratio_to_hf": {name: round(statistics.median(t) / peer, 3) for name, t in times.items()},
    }
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
