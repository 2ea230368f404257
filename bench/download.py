"""Downloads over loopback: ours, verified, beside tools that verify and tools that do not.

    python bench/download.py [--quick] [--rounds 5] [--out FILE] [--target FOLDER]

Two sets, one file of 1 GiB and eight of 128 MiB, are served by ``tests/support/http_server.py``
(sendfile) in a process of its own. Every contestant is a command in a process of its own, its
start-up included; rounds are interleaved, so that a busy machine hurts everybody alike. Both ends
lie in memory (/dev/shm) where there is such a place: a disk would hide what is compared.
Contestants that are not installed are named in the result.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "bench" / "results" / "download.json"
SETS = {"1 x 1 GiB": (1, 1 << 30), "8 x 128 MiB": (8, 128 << 20)}
QUICK_SETS = {"1 x 128 MiB": (1, 128 << 20), "8 x 16 MiB": (8, 16 << 20)}
GIB = 1 << 30
OURS, OURS_MD5 = "llama-hub (sha256)", "llama-hub (sha256 and md5)"


@dataclass(frozen=True)
class Files:
    """One set of files, served plainly and as a Hugging Face repository."""

    name: str
    count: int
    size: int  # bytes of each
    folder: Path  # below it: plain/model/* and md5/model/*
    url: str
    hub: str

    @property
    def names(self) -> list[str]:
        """File names, as Meta calls its shards."""
        return [f"consolidated.{number:02d}.pth" for number in range(self.count)]

    @property
    def total(self) -> int:
        """Bytes of the set."""
        return self.count * self.size


@dataclass(frozen=True)
class Contestant:
    """A way to download a set into a folder."""

    name: str
    needs: str  # executable
    verified: bool
    commands: Callable[[Files, Path], list[list[str]]]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One measured run."""

    seconds: float
    peak_rss: int  # bytes, of the largest process
    engine_seconds: float | None = None  # ours only: without the interpreter's start


def _ours(files: Files, target: Path, kind: str) -> list[list[str]]:
    base = f"{files.url}/{kind}"
    catalogue = str(files.folder / "catalogue.toml")
    return [
        [sys.executable, "-m", "llama_hub", "download", "bench", "--url", base, "--json",
         "--quiet", "--catalog", catalogue]
    ]  # fmt: skip


def _curl(files: Files, target: Path) -> list[list[str]]:
    pairs = [part for name in files.names for part in
             ("-o", str(target / name), f"{files.url}/plain/model/{name}")]  # fmt: skip
    return [["curl", "-s", "-f", "-Z", *pairs]]


def _curl_then(tool: Sequence[str]) -> Callable[[Files, Path], list[list[str]]]:
    def commands(files: Files, target: Path) -> list[list[str]]:
        listed = [str(target / name) for name in files.names]
        return [*_curl(files, target), [*tool, *listed]]

    return commands


def _wget(files: Files, target: Path) -> list[list[str]]:
    urls = [f"{files.url}/plain/model/{name}" for name in files.names]
    return [["wget", "-q", "-P", str(target), *urls]]


def _aria2(files: Files, target: Path) -> list[list[str]]:
    listing = files.folder / "aria2.txt"
    return [["aria2c", "-q", "-x8", "-j8", "--allow-overwrite=true", "--file-allocation=falloc",
             "-d", str(target), "-i", str(listing)]]  # fmt: skip


def _hf(files: Files, target: Path) -> list[list[str]]:
    return [["hf", "download", "bench/model", "--local-dir", str(target), "--quiet"]]


CONTESTANTS = (
    Contestant(OURS, "", True, lambda files, target: _ours(files, target, "plain")),
    Contestant(OURS_MD5, "", True, lambda files, target: _ours(files, target, "md5")),
    Contestant("curl -Z", "curl", False, _curl),
    Contestant("wget", "wget", False, _wget),
    Contestant("hf download", "hf", False, _hf, {"HF_HUB_DISABLE_XET": "1"}),
    Contestant("aria2c -x8 --checksum=sha-256", "aria2c", True, _aria2),
    Contestant("curl -Z, then sha256sum", "curl", True, _curl_then(["sha256sum"])),
    Contestant("curl -Z, then openssl sha256", "openssl", True,
               _curl_then(["openssl", "dgst", "-sha256"])),
)  # fmt: skip


def make_files(folder: Path, count: int, size: int) -> dict[str, str]:
    """Random shards with their checksum lists in two mirrors; returns SHA-256 by name."""
    model = folder / "plain" / "model"
    model.mkdir(parents=True)
    sums: dict[str, str] = {}
    md5s = []
    for number in range(count):
        path = model / f"consolidated.{number:02d}.pth"
        _write_noise(path, size)
        sums[path.name] = _digest(path, "sha256")
        md5s.append(f"{_digest(path, 'md5')}  {path.name}\n")
    listing = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    (model / "SHA256SUMS").write_text(listing)
    (model / "params.json").write_text("{}")
    (folder / "plain" / "tokenizer.model").write_bytes(b"tokenizer")
    shutil.copytree(folder / "plain", folder / "md5", copy_function=os.link)
    (folder / "md5" / "model" / "checklist.chk").write_text("".join(md5s))
    (folder / "hub").mkdir()
    for name in sums:
        os.link(model / name, folder / "hub" / name)
    return sums


def _write_noise(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.write(b"PK\x03\x04" + os.urandom((1 << 20) - 4))
        for _ in range(size // (1 << 20) - 1):
            file.write(os.urandom(1 << 20))


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def describe(files: Files, sums: Mapping[str, str]) -> None:
    """The catalogue for ours and the input file for aria2c."""
    (files.folder / "catalogue.toml").write_text(
        '[[model]]\nid = "bench"\nfolder = "model"\nlicense = "other-open"\n'
        f'sources = ["mirror"]\nshards = {files.count}\n'
    )
    lines = []
    for name, digest in sums.items():
        lines += [
            f"{files.url}/plain/model/{name}",
            f"  out={name}",
            f"  checksum=sha-256={digest}",
        ]
    (files.folder / "aria2.txt").write_text("\n".join(lines) + "\n")


@contextmanager
def serving(module: str, *arguments: str) -> Iterator[str]:
    """A server of the test suite in a process of its own; gives its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def measure(contestant: Contestant, files: Files, target: Path, sums: Mapping[str, str]) -> Run:
    """One run, from an empty folder; its result is checked outside the measured time."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    environment = os.environ | {
        "LLAMA_HUB_HOME": str(target),
        "HF_ENDPOINT": files.hub,
        "HF_HOME": str(target / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **contestant.environment,
    }
    begun, peak, document = time.perf_counter(), 0, None
    for command in contestant.commands(files, target):
        with tempfile.TemporaryFile() as out:
            process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            peak = max(peak, usage.ru_maxrss * 1024)
            out.seek(0)
            text = out.read().decode(errors="replace")
        if process.returncode:
            raise SystemExit(f"{contestant.name} failed with {process.returncode}: {text}")
        document = json.loads(text) if command[0] == sys.executable else document
    seconds = time.perf_counter() - begun
    found = document["path"] if document else str(target)
    for name, digest in sums.items():
        assert _digest(Path(found) / name, "sha256") == digest, f"{contestant.name}: {name}"
    return Run(seconds, peak, document["seconds"] if document else None)


def compare(files: Files, sums: Mapping[str, str], target: Path, rounds: int) -> dict[str, Any]:
    """Interleaved rounds of every contestant that is installed."""
    present = [c for c in CONTESTANTS if not c.needs or shutil.which(c.needs)]
    runs: dict[str, list[Run]] = {contestant.name: [] for contestant in present}
    for number in range(rounds):
        for contestant in present:
            run = measure(contestant, files, target, sums)
            runs[contestant.name].append(run)
            speed = files.total / GIB / run.seconds
            print(f"{files.name}, round {number + 1}: {contestant.name:32} {run.seconds:7.2f} s "
                  f"{speed:6.2f} GiB/s {run.peak_rss >> 20:5} MiB")  # fmt: skip
    verified = {contestant.name: contestant.verified for contestant in present}
    return {name: _summary(files, several, verified[name]) for name, several in runs.items()}


def _summary(files: Files, runs: Sequence[Run], verified: bool) -> dict[str, Any]:
    seconds = statistics.median(run.seconds for run in runs)
    summary: dict[str, Any] = {
        "verified": verified,
        "seconds": round(seconds, 3),
        "gib_per_s": round(files.total / GIB / seconds, 3),
        "all_seconds": [round(run.seconds, 3) for run in runs],
        "peak_rss_mib": max(run.peak_rss for run in runs) >> 20,
    }
    engine = [run.engine_seconds for run in runs if run.engine_seconds is not None]
    if engine:
        summary["engine_seconds"] = round(statistics.median(engine), 3)
    return summary


def judge(files: Files, table: Mapping[str, Any], limits: Mapping[str, float]) -> dict[str, Any]:
    """Ratios of speeds against the targets; above 1 we are faster."""
    ours = table[OURS]["seconds"]
    verified = {
        name: row["seconds"] / ours
        for name, row in table.items()
        if row["verified"] and name not in (OURS, OURS_MD5)
    }
    lanes = min(files.count, os.cpu_count() or 1)
    floor = files.total / GIB / (limits["md5 on all cores"] * lanes / (os.cpu_count() or 1))
    found: dict[str, tuple[float, bool]] = {}
    for name, target in (("curl -Z", 0.9), ("hf download", 1.5)):
        if name in table:
            ratio = table[name]["seconds"] / ours
            found[f"at least {target} times {name}"] = (ratio, ratio >= target)
    if "curl -Z" in table:
        ratio = table["curl -Z"]["seconds"] / table[OURS]["engine_seconds"]
        found["at least 0.9 times curl -Z, our interpreter's start aside"] = (ratio, ratio >= 0.9)
    for name, ratio in verified.items():
        found[f"at least 1.5 times {name}"] = (ratio, ratio >= 1.5)
    md5 = floor / table[OURS_MD5]["engine_seconds"]
    found["with MD5, at least 0.9 of its limit on these cores"] = (md5, md5 >= 0.9)
    peak = max(table[name]["peak_rss_mib"] for name in (OURS, OURS_MD5))
    found["peak memory at most 150 MiB"] = (peak, peak <= 150)
    return {what: {"value": round(value, 3), "met": met} for what, (value, met) in found.items()}


def hash_limits() -> dict[str, float]:
    """GiB/s of all cores together, each hashing a buffer of its own."""
    cores, data = os.cpu_count() or 1, os.urandom(1 << 20)
    found = {}
    for name in ("sha256", "md5"):
        begun = time.perf_counter()
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(lambda _, name=name: _hash(name, data), range(cores)))
        found[f"{name} on all cores"] = round(cores * 0.5 / (time.perf_counter() - begun), 3)
    return found


def _hash(name: str, data: bytes) -> None:
    state = hashlib.new(name)
    for _ in range(512):
        state.update(data)


def verify_speed(files: Files, target: Path, sums: Mapping[str, str], rounds: int) -> float:
    """GiB/s of checking what was downloaded, in this process, files warm in the cache."""
    from llama_hub.hub.verify import verify

    measure(CONTESTANTS[0], files, target, sums)
    folder = target / "models" / "bench" / "meta"
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        assert verify(folder).ok
        seconds.append(time.perf_counter() - begun)
    return files.total / GIB / statistics.median(seconds)


def run_set(name: str, count: int, size: int, place: Path, rounds: int) -> dict[str, Any]:
    """Make, serve, measure and judge one set."""
    with tempfile.TemporaryDirectory(prefix="llama-hub-bench-", dir=place) as made:
        folder = Path(made)
        sums = make_files(folder, count, size)
        with ExitStack() as servers:
            url = servers.enter_context(serving("tests.support.http_server", str(folder)))
            hub = servers.enter_context(
                serving("tests.support.fake_hub", "bench/model", str(folder / "hub"))
            )
            files = Files(name, count, size, folder, url, hub)
            describe(files, sums)
            table = compare(files, sums, folder / "target", rounds)
            limits, speed = hash_limits(), verify_speed(files, folder / "target", sums, rounds)
    targets = judge(files, table, limits)
    lanes = min(count, os.cpu_count() or 1) / (os.cpu_count() or 1)
    ratio = round(speed / (limits["sha256 on all cores"] * lanes), 3)
    targets["verify, at least 0.9 of the hash limit"] = {"value": ratio, "met": ratio >= 0.9}
    return {
        "contestants": table,
        "verify_gib_per_s": round(speed, 3),
        "hash_limits_gib_per_s": limits,
        "targets": targets,
    }


def main() -> None:
    """Run the benchmark and write its result."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=True)
    parser.add_argument(
        "--quick", action="store_true", help="small files, one round, no result file"
    )
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--target", type=Path, help="where both ends lie (default: /dev/shm)")
    given = parser.parse_args()
    memory = Path("/dev/shm")
    place = given.target or (memory if memory.is_dir() else Path(tempfile.gettempdir()))
    sets = QUICK_SETS if given.quick else SETS
    rounds = given.rounds or (1 if given.quick else 5)
    result = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": {
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "load": os.getloadavg(),
        },
        "python": platform.python_version(),
        "target": "memory" if place == memory else "disk",
        "rounds": rounds,
        "missing": [c.name for c in CONTESTANTS if c.needs and not shutil.which(c.needs)],
        "sets": {name: run_set(name, *shape, place, rounds) for name, shape in sets.items()},
    }
    for name, one in result["sets"].items():
        for what, verdict in one["targets"].items():
            print(f"{name}: {what}: {verdict['value']} {'met' if verdict['met'] else 'MISSED'}")
    out = given.out or (None if given.quick else RESULT)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
