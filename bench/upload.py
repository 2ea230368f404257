"""Weights into S3: ours beside ``aws s3 cp`` and s5cmd, on one loopback store that checks digests.

    python bench/upload.py [--quick] [--json FILE] [--aws PROGRAM] [--s5cmd PROGRAM]

Every client sends the same folder of shards with its own integrity check on: ours SHA-256 of each
whole object, ``aws`` its default CRC, ``s5cmd`` its own signature. The store reads, hashes and
keeps every byte in a process of its own. Runs take turns; the best of each is compared. What this
does not show: TLS, distance, S3's own speed; over those all clients wait for the network.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from llama_hub.backends.sagemaker.client import Aws
from llama_hub.backends.sagemaker.storage import Bucket
from llama_hub.hub.manifest import FileEntry, Manifest

MIB = 1 << 20
BUCKET = "weights"
SERVER = """
import sys, pathlib
from tests.support.sagemaker_plane import Plane
with Plane(pathlib.Path(sys.argv[1])) as plane:
    print(plane.url, flush=True)
    sys.stdin.readline()
"""


@contextlib.contextmanager
def store(root: Path) -> Iterator[str]:
    """The loopback store's address."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parent.parent,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(30)


def make_model(folder: Path, shards: int, size: int) -> Manifest:
    """A folder of ``shards`` files of ``size`` bytes, with a manifest."""
    folder.mkdir()
    noise = random.Random(7)
    entries = []
    for number in range(1, shards + 1):
        path, digest = folder / f"model-{number:05d}.safetensors", hashlib.sha256()
        with path.open("wb") as file:
            for _ in range(size // MIB):
                piece = noise.randbytes(MIB)
                digest.update(piece)
                file.write(piece)
        entries.append(FileEntry(path.name, path.stat().st_size, digest.hexdigest()))
    manifest = Manifest("bench", "hf", "llama-hub-demo", tuple(entries))
    manifest.write(folder)
    return manifest


def clients(
    folder: Path, manifest: Manifest, aws: str, s5cmd: str
) -> dict[str, Callable[[str], None]]:
    """Name → an upload to a prefix."""
    found: dict[str, Callable[[str], None]] = {
        "llama-hub": lambda prefix: _ours(folder, manifest, prefix)
    }
    if shutil.which(aws):
        found["aws s3 cp"] = lambda prefix: _run(
            [aws, "s3", "cp", "--recursive", "--only-show-errors", str(folder), _uri(prefix)]
        )
    if shutil.which(s5cmd):
        endpoint = os.environ["AWS_ENDPOINT_URL"]
        found["s5cmd"] = lambda prefix: _run(
            [s5cmd, "--endpoint-url", endpoint, "cp", f"{folder}/", _uri(prefix)]
        )
    return found


def _uri(prefix: str) -> str:
    return f"s3://{BUCKET}/{prefix}"


def _ours(folder: Path, manifest: Manifest, prefix: str) -> None:
    """In a process of its own, as the others are."""
    _run([sys.executable, __file__, "--client", str(folder), prefix])


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def send(folder: Path, prefix: str) -> None:
    """What ``--client`` does."""
    from llama_hub.hub.manifest import read

    Bucket(Aws(), BUCKET).upload(folder, read(folder), prefix)


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """Every client in turn, several times."""
    shards, size, rounds = (3, 32 * MIB, 1) if arguments.quick else (4, 512 * MIB, 3)
    with tempfile.TemporaryDirectory() as root, store(Path(root) / "s3") as url:
        os.environ |= {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/nonexistent",
            "S3_ENDPOINT_URL": url,
        }
        Aws().call("s3", "create_bucket", Bucket=BUCKET)
        folder = Path(root) / "model"
        manifest = make_model(folder, shards, size)
        contenders = clients(folder, manifest, arguments.aws, arguments.s5cmd)
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(rounds):
            for name, upload in contenders.items():
                prefix = f"{name.replace(' ', '-')}/{turn}/"
                begun = time.perf_counter()
                upload(prefix)
                seconds[name].append(round(time.perf_counter() - begun, 3))
                _check(manifest, prefix)
                Bucket(Aws(), BUCKET).delete(prefix)
    return _report(manifest, seconds)


def _check(manifest: Manifest, prefix: str) -> None:
    """The client must have stored every byte."""
    bucket = Bucket(Aws(), BUCKET)
    for entry in manifest.files:
        held = bucket.head(prefix + entry.path)
        assert held is not None, f"{prefix}{entry.path} is not there"
        assert held.size == entry.size, f"{prefix}{entry.path} has {held.size} bytes"


def _report(manifest: Manifest, seconds: dict[str, list[float]]) -> dict[str, object]:
    best = {name: min(times) for name, times in seconds.items()}
    others = [value for name, value in best.items() if name != "llama-hub"]
    return {
        "bytes": manifest.bytes,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "seconds": seconds,
        "gigabytes_per_second": {
            name: round(manifest.bytes / value / 1e9, 3) for name, value in best.items()
        },
        "times_the_fastest_other": round(min(others) / best["llama-hub"], 2) if others else None,
    }


def main() -> None:
    """Run, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="96 MiB, once")
    parser.add_argument("--aws", default="aws", help="the AWS command line")
    parser.add_argument("--s5cmd", default="s5cmd")
    parser.add_argument("--json", type=Path, help="where to save the result")
    parser.add_argument("--client", nargs=2, metavar=("FOLDER", "PREFIX"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.client:
        send(Path(arguments.client[0]), arguments.client[1])
        return
    text = json.dumps(measure(arguments), indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
