"""The wheel without a compiler beside the checkout with one: decode and prefill on the CPU.

    python bench/wheel.py [--layers 8] [--rounds 5] [--out FILE]

Builds the wheel, installs it into a folder of its own and runs it with a ``PATH`` that holds no
compiler; the checkout compiles its kernels for this very processor. One model, seeded weights of
Llama-2-7B's layer shape, each contestant a loaded process, rounds in turn, medians. A ratio above
1 means that the wheel is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from engines import ANSWER, SHAPE, Contestant, make_model, measure

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("int4", "int8", "bf16")


def install_wheel(work: Path) -> Path:
    """The folder into which the wheel, built from a copy of the checkout, was installed."""
    listed = ["git", "ls-files", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        target = work / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target, follow_symlinks=False)
    build = ["-m", "build", "--no-isolation", "--wheel", "--outdir", str(work / "dist"), "."]
    python(build, work / "source")
    (wheel,) = (work / "dist").glob("*.whl")
    python(["-m", "pip", "install", "-q", "--no-deps", "-t", str(work / "site"), str(wheel)], work)
    return work / "site"


def python(arguments: list[str], cwd: Path) -> None:
    subprocess.run([sys.executable, *arguments], cwd=cwd, check=True, capture_output=True)


def contestants(folder: Path, site: Path, empty: Path, threads: int) -> list[Contestant]:
    """Both, in each precision."""
    script = str(Path(__file__).with_name("inference.py"))
    bare = {"PYTHONPATH": str(site), "PATH": str(empty), "LLAMA_HUB_HOME": str(empty)}
    found = []
    for kind in KINDS:
        words = ["--worker", "ours", "--model", str(folder), "--kind", kind]
        command = [sys.executable, script, *words, "--threads", str(threads)]
        found.append(Contestant(f"wheel {kind}", command, **bare))
        found.append(Contestant(f"checkout {kind}", command, PYTHONPATH=str(ROOT)))
    return found


def library(path: Path, **environment: str) -> str:
    """Which library computes there."""
    code = "from llama_hub.inference.native.library import KERNELS as k; print(k.describe())"
    environment = {**os.environ, "PYTHONPATH": str(path), **environment}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=path, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def medians(table: dict[str, dict[str, list[float]]], what: str) -> dict[str, float]:
    return {name: statistics.median(seconds[what]) for name, seconds in table.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="llama-hub-bench-") as name:
        work = Path(name)
        (work / "empty").mkdir()
        site = install_wheel(work)
        folder = make_model(work / "model", SHAPE, options.layers)
        running = contestants(folder, site, work / "empty", options.threads)
        try:
            table = measure(running, options.rounds, ANSWER, failed)
        finally:
            for each in running:
                each.close()
        used = {
            "wheel": library(site, PATH=str(work / "empty")),
            "checkout": library(ROOT),
        }
    result: dict[str, Any] = {
        "machine": {"cpu": _processor(), "threads": options.threads, "layers": options.layers},
        "library": used,
        "failed": failed,
    }
    for what in ("decode", "prefill"):
        seconds = medians(table, what)
        result[f"{what}_seconds_per_token"] = {k: round(v, 6) for k, v in seconds.items()}
        result[f"{what}_wheel_over_checkout"] = {
            kind: round(seconds[f"checkout {kind}"] / seconds[f"wheel {kind}"], 3)
            for kind in KINDS
            if {f"checkout {kind}", f"wheel {kind}"} <= set(seconds)
        }
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
